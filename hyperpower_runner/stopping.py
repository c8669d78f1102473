"""Early termination (paper 3.2, figure 3 right): from a learning curve to a decision, as a pure function.

The rule recognises trainings that *diverge*. It is absolute: it never compares a training with other trials, and it
never predicts the final error of one that converges, which the paper warns against (3.2). It knows nothing of files,
processes or clocks. Standard library only, because wrapper scripts import it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class CurvePoint:
    """What a training reported after one epoch; `None` where it reported nothing."""

    epoch: float
    error: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class StoppingRule:
    """When a training counts as diverged.

    after_epochs: epochs of training before an error at chance level is held against it; a script may report more often.
    classes: number of classes C; guessing has error 1 - 1/C and cross-entropy loss ln C. None: chance level is
        unknown, and only the loss is watched.
    chance_margin: an error above (1 - chance_margin) * (1 - 1/C) is at chance level.
    loss_fall: relative fall below the lowest loss of at least one epoch before that counts as falling.
    loss_factor: a loss above this many times its start is far above it; the start is the first loss, or ln C where
        that is larger, so that a training which began with a tiny loss is not stopped for a bump.
    """

    after_epochs: int = 2
    classes: int | None = None
    chance_margin: float = 0.05
    loss_fall: float = 0.005
    loss_factor: float = 5.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StoppingRule:
        """Read a rule; raises TypeError or ValueError where it is none."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        for name, value in known.items():
            if not isinstance(value, int | float) and not (name == "classes" and value is None):
                raise TypeError(f"{name} is {value!r}")
        if known.get("classes") is not None and known["classes"] < 1:
            raise ValueError(f"classes is {known['classes']!r}")
        return cls(**known)


@dataclass(frozen=True)
class Decision:
    """Whether to stop, after which epoch, and why (a clause such as "the loss became nan")."""

    stop: bool
    epoch: float | None = None
    reason: str | None = None


CONTINUE = Decision(stop=False)


def decide(curve: Iterable[CurvePoint], rule: StoppingRule) -> Decision:
    """Decide on a training from its learning curve, in the order in which it was reported.

    The decision of the first point that calls for a stop is returned, so it never changes once taken, whatever is
    reported after it.
    """
    watched = WatchedCurve(rule)
    for point in curve:
        watched.add(point)
    return watched.decision


class WatchedCurve:
    """A learning curve as it grows, and what the rule says of it: a point costs the same however many came before.

    decision: as `decide` gives it for all points so far.
    """

    def __init__(self, rule: StoppingRule) -> None:
        self.rule = rule
        self.decision = CONTINUE
        self._first_epoch: float | None = None
        self._first_loss: float | None = None
        self._lowest_loss = math.inf  # of the points that are at least one epoch back
        self._recent: deque[tuple[float, float]] = deque()  # epoch and loss of those that were not, when looked at

    def add(self, point: CurvePoint) -> Decision:
        """Take the next point, and return the decision."""
        if self.decision.stop:
            return self.decision
        if self._first_epoch is None:
            self._first_epoch = point.epoch
        reason = self._complaint(point, epochs=point.epoch - self._first_epoch + 1)  # scripts count from 0 or from 1
        if reason is not None:
            self.decision = Decision(True, point.epoch, reason)
        self._recent.append((point.epoch, math.inf if point.loss is None else point.loss))
        return self.decision

    def _complaint(self, point: CurvePoint, epochs: float) -> str | None:
        """Why to stop after this point, the given number of epochs into the training, or None."""
        rule, loss = self.rule, point.loss
        if point.error is not None and not math.isfinite(point.error):
            return f"the error became {point.error:g}"
        if loss is None:
            return None
        if not math.isfinite(loss):
            return f"the loss became {loss:g}"
        if self._first_loss is None:
            self._first_loss = loss
        start = max(self._first_loss, math.log(rule.classes)) if rule.classes else self._first_loss
        if start > 0 and loss > rule.loss_factor * start:
            return f"the loss {loss:.4g} is far above its start, {start:.4g}"
        while self._recent and self._recent[0][0] <= point.epoch - 1:
            self._lowest_loss = min(self._lowest_loss, self._recent.popleft()[1])
        lowest = self._lowest_loss
        falling = math.isinf(lowest) or loss < lowest - rule.loss_fall * abs(lowest)
        if epochs >= rule.after_epochs and not falling and _at_chance(point.error, rule):
            return f"the error {point.error:.4g} is at chance level and the loss {loss:.4g} is not falling"
        return None


def _at_chance(error: float | None, rule: StoppingRule) -> bool:
    if error is None or rule.classes is None:
        return False
    return error >= (1 - rule.chance_margin) * (1 - 1 / rule.classes)

"""Early termination (paper 3.2, figure 3 right): from a learning curve to a decision, as a pure function.

The rule recognises trainings that *diverge*. It is absolute: it never compares a training with other trials, and it
never predicts the final error of one that converges, which the paper warns against (3.2). It knows nothing of files,
processes or clocks. Standard library only, because wrapper scripts import it.
"""

from __future__ import annotations

import math
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
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


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
    points = list(curve)
    first_loss: float | None = None
    lowest_loss, compared = math.inf, 0  # the lowest of points[:compared], which are at least one epoch back
    for position, point in enumerate(points):
        if point.error is not None and not math.isfinite(point.error):
            return Decision(True, point.epoch, f"the error became {point.error:g}")
        loss = point.loss
        if loss is None:
            continue
        if not math.isfinite(loss):
            return Decision(True, point.epoch, f"the loss became {loss:g}")
        if first_loss is None:
            first_loss = loss
        start = max(first_loss, math.log(rule.classes)) if rule.classes else first_loss
        if start > 0 and loss > rule.loss_factor * start:
            return Decision(True, point.epoch, f"the loss {loss:.4g} is far above its start, {start:.4g}")
        while compared < position and points[compared].epoch <= point.epoch - 1:
            earlier = points[compared].loss
            lowest_loss, compared = min(lowest_loss, math.inf if earlier is None else earlier), compared + 1
        falling = math.isinf(lowest_loss) or loss < lowest_loss - rule.loss_fall * abs(lowest_loss)
        epochs = point.epoch - points[0].epoch + 1  # scripts count from 0 or from 1
        if epochs >= rule.after_epochs and not falling and _at_chance(point.error, rule):
            reason = f"the error {point.error:.4g} is at chance level and the loss {loss:.4g} is not falling"
            return Decision(True, point.epoch, reason)
    return CONTINUE


def _at_chance(error: float | None, rule: StoppingRule) -> bool:
    if error is None or rule.classes is None:
        return False
    return error >= (1 - rule.chance_margin) * (1 - 1 / rule.classes)

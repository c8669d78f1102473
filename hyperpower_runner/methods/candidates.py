"""From a stream of candidates to the first that may run: known constraints, hardware models, and what was tried.

This is where HyperPower saves its evaluations (3.2): a candidate is accepted or discarded before a second is spent on
training it. Candidates are drawn and checked in arrays, so that feasible sets of one in 100,000 are found in a fraction
of a second. It does not know how candidates are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner.errors import InfeasibleError, SpaceExhaustedError
from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.space import Array, Space
from hyperpower_runner.trial import Params, Rejection, Suggestion, params_key

FIRST_CHUNK = 32  # most spaces accept one of the first few
LARGEST_CHUNK = 65_536  # fits a cache
MOST_CANDIDATES = 4_000_000  # a set of one in 100,000 is missed once in 10^17 searches
MOST_KEPT = 100  # discarded candidates written down for each job
MOST_ENUMERATED = 100_000  # points of a finite space that are listed early, to find the untried ones
REPEATS_BEFORE_LISTING = 200

Propose = Callable[[int], Array]


@dataclass
class Tally:
    """What became of the candidates of one search, for the sentence that explains a failure."""

    drawn: int = 0
    known: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # how often each constraint held
    allowed: int = 0  # candidates that met all of them
    repeats: int = 0  # candidates that were acceptable, but tried before
    discarded: int = 0
    first_discarded: list[dict[str, Any]] = field(default_factory=list)
    lowest: dict[str, float] = field(default_factory=dict)  # least prediction, by constrained metric

    @property
    def rejection(self) -> Rejection:
        return Rejection(self.discarded, tuple(self.first_discarded))


class Candidates:
    """Finds acceptable points of a space.

    limits: upper bounds by metric, applied to what the models predict; empty for a constraint-unaware search.
    """

    def __init__(self, space: Space, models: HardwareModels, limits: Mapping[str, float]) -> None:
        self.space = space
        self.models = models
        self.limits = {metric: bound for metric, bound in limits.items() if metric in models.models}

    def first(
        self, propose: Propose, seen: Set[bytes], rng: np.random.Generator, most: int = MOST_CANDIDATES
    ) -> Suggestion:
        """Return the first candidate that is acceptable and not seen.

        propose: draws `count` candidates as values of shape (count, D); at most `most` are drawn. A finite space of at
            most so many points is then listed instead of given up. seen: the keys of the params that are left out.

        Raises InfeasibleError where none was acceptable, SpaceExhaustedError where each was seen.
        """
        tally = self._new_tally()
        size, cardinality = FIRST_CHUNK, self.space.cardinality or np.inf
        while tally.drawn < most:
            values = propose(min(size, most - tally.drawn))
            for index, predictions in self._accepted(values, tally):
                params = self.space.to_params(values[index])
                if params_key(params) not in seen:
                    return _suggestion(params, predictions, tally)
                tally.repeats += 1
            if tally.repeats >= REPEATS_BEFORE_LISTING and cardinality <= MOST_ENUMERATED:
                break
            size = min(4 * size, LARGEST_CHUNK)
        if cardinality <= most:
            return self._any_unseen(seen, rng, tally)
        if tally.repeats:
            raise SpaceExhaustedError(f"{tally.drawn:,} draws found no feasible point that was not tried before")
        raise InfeasibleError(self._explain(tally))

    def draw(
        self, propose: Propose, wanted: int, most: int, tried: frozenset[bytes] = frozenset()
    ) -> tuple[Array, Rejection]:
        """Draw until `wanted` candidates are acceptable, or `most` are drawn: their values, shape (count, D).

        tried: the `row_keys` of points that are left out. Also says what was discarded. There are fewer than wanted, or
        none, where acceptable ones are rare.
        """
        tally, found, count, size = self._new_tally(), [], 0, max(wanted, FIRST_CHUNK)
        while count < wanted and tally.drawn < most:
            values = propose(min(size, most - tally.drawn))
            allowed, within, predictions = self._judged(values, tally)
            self._discard(values, allowed, predictions, np.flatnonzero(~within), tally)
            accepted = values[allowed[within]]
            found.append(accepted[~repeated(accepted, tried)][: wanted - count])
            count += len(found[-1])
            size = min(4 * size, LARGEST_CHUNK)
        return np.concatenate(found), tally.rejection

    def acceptable(self, values: Array) -> NDArray[np.bool_]:
        """Which of n points, values of shape (n, D), may run: the indicators of Eq. 3 and the known constraints."""
        result = np.zeros(len(values), dtype=bool)
        allowed, within, _ = self._judged(values, self._new_tally())
        result[allowed[within]] = True
        return result

    def _new_tally(self) -> Tally:
        return Tally(known=np.zeros(len(self.space.constraints), np.int64))

    def _judged(self, values: Array, tally: Tally) -> tuple[NDArray[np.intp], NDArray[np.bool_], dict[str, Array]]:
        """Which candidates meet the known constraints; of those, which the models accept, and their predictions."""
        held = self.space.holds(values)
        tally.drawn += len(values)
        tally.known += held.sum(axis=1)
        allowed = np.flatnonzero(held.all(axis=0))
        tally.allowed += len(allowed)
        predictions = self.models.predict(values[allowed])
        for metric in self.limits:
            lowest = float(np.min(predictions[metric], initial=np.inf))
            tally.lowest[metric] = min(lowest, tally.lowest.get(metric, np.inf))
        within = np.broadcast_to(self.models.within(predictions, self.limits), len(allowed))
        return allowed, within, predictions

    def _accepted(self, values: Array, tally: Tally) -> Iterator[tuple[int, dict[str, float]]]:
        """Yield the index and the predictions of each acceptable candidate, keeping the tally up to that one."""
        allowed, within, predictions = self._judged(values, tally)
        before = 0
        for position in np.flatnonzero(within):
            self._discard(values, allowed, predictions, np.arange(before, position), tally)
            before = position + 1
            yield int(allowed[position]), {metric: float(column[position]) for metric, column in predictions.items()}
        self._discard(values, allowed, predictions, np.arange(before, len(allowed)), tally)

    def _discard(
        self,
        values: Array,
        allowed: NDArray[np.intp],
        predictions: Mapping[str, Array],
        positions: NDArray[np.intp],
        tally: Tally,
    ) -> None:
        """Write down candidates that the models discarded: their positions among those allowed."""
        tally.discarded += len(positions)
        for position in positions[: MOST_KEPT - len(tally.first_discarded)]:
            predicted = {metric: float(column[position]) for metric, column in predictions.items()}
            params = self.space.to_params(values[allowed[position]])
            tally.first_discarded.append({"params": params, "predictions": predicted})

    def _any_unseen(self, seen: Set[bytes], rng: np.random.Generator, tally: Tally) -> Suggestion:
        """List a finite space and choose uniformly among its acceptable points that were not tried."""
        unseen: list[tuple[Params, dict[str, float]]] = []
        for values in self.space.enumerate():
            for index, predictions in self._accepted(values, self._new_tally()):
                params = self.space.to_params(values[index])
                if params_key(params) not in seen:
                    unseen.append((params, predictions))
                else:
                    tally.repeats += 1
        if not unseen and tally.repeats:
            raise SpaceExhaustedError("every feasible point of the space has been tried")
        if not unseen:
            raise InfeasibleError(self._explain(tally))
        return _suggestion(*unseen[rng.integers(len(unseen))], tally)

    def _explain(self, tally: Tally) -> str:
        """Say which constraint excludes everything."""
        among = f"of {tally.drawn:,} points drawn from the space"
        if tally.allowed == 0:
            rarest = int(np.argmin(tally.known))
            text, count = self.space.constraints[rarest].text, int(tally.known[rarest])
            if count == 0:
                return f'known-constraints: "{text}" holds at none {among}; relax it, or widen its variables'
            return (
                f'known-constraints: none {among} meets all of them; "{text}" holds least often, at {count:,}; relax it'
            )
        for metric, bound in self.limits.items():
            margin = self.models.margins.get(metric, 1.0)
            if tally.lowest[metric] * margin > bound:
                with_margin = f", with a margin of {100 * (margin - 1):.2g} %," if margin != 1 else ""
                return (
                    f"constraints.{metric}: at most {bound:g} is allowed, but the hardware models predict"
                    f" {tally.lowest[metric] * margin:.6g}{with_margin} or more at each of {tally.allowed:,} points;"
                    " raise the budget, or widen the space"
                )
        bounds = " and ".join(f"{metric} <= {bound:g}" for metric, bound in self.limits.items())
        return f"constraints: the hardware models predict {bounds} together at none {among}; raise one of the budgets"


def row_keys(values: Array) -> frozenset[bytes]:
    """Equal for equal points, values of shape (n, D)."""
    return frozenset(row.tobytes() for row in np.ascontiguousarray(values))


def repeated(values: Array, keys: frozenset[bytes]) -> NDArray[np.bool_]:
    """Which of n points, values of shape (n, D), are among `keys`."""
    return np.array([row.tobytes() in keys for row in np.ascontiguousarray(values)], dtype=bool)


def _suggestion(params: Params, predictions: dict[str, float], tally: Tally) -> Suggestion:
    return Suggestion(params, predictions, tally.rejection)

"""What the history tells a surrogate: where points were tried, and what came of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner.config import LARGEST_FLOAT
from hyperpower_runner.history import History
from hyperpower_runner.space import Array, Space
from hyperpower_runner.trial import Status, Trial


@dataclass(frozen=True)
class Observations:
    """n trials that were not cancelled, as arrays.

    values: shape (n, D); objective: shape (n,), NaN where there is none; pending: without a result yet; diverged: gave
    no objective for a reason that lies in its params: it was terminated, failed, timed out, or reported no finite one.
    """

    trials: tuple[Trial, ...]
    values: Array
    objective: Array
    pending: NDArray[np.bool_]
    diverged: NDArray[np.bool_]

    @classmethod
    def of(cls, history: History, space: Space) -> Observations:
        trials = tuple(t for t in history if t.result is None or t.result.status is not Status.CANCELLED)
        values = space.from_many([trial.job.params for trial in trials])
        objective = np.array([_usable(trial.objective) for trial in trials])
        return cls(
            trials,
            values,
            objective,
            np.array([trial.result is None for trial in trials], dtype=bool),
            np.array([_told(trial) for trial in trials], dtype=bool) & np.isnan(objective),
        )

    @property
    def observed(self) -> NDArray[np.bool_]:
        """Where there is an objective."""
        return np.isfinite(self.objective)

    def measured(self, metric: str) -> Array:
        """A metric as jobs measured it, NaN where none did: shape (n,)."""
        return np.array([_usable(trial.metrics.get(metric)) for trial in self.trials])

    def feasible(self, bounds: Mapping[str, float]) -> NDArray[np.bool_]:
        """Where each bounded metric is known, measured or else predicted, and at most its bound: shape (n,)."""
        return np.array([trial.is_feasible(bounds) for trial in self.trials], dtype=bool)

    def has(self, metric: str) -> NDArray[np.bool_]:
        """Where a metric was reported, also as what is no finite number: shape (n,)."""
        return np.array([trial.metrics.get(metric) is not None for trial in self.trials], dtype=bool)

    def exceeded(self, metric: str, bound: float | Array) -> NDArray[np.bool_]:
        """Where a metric was measured above a bound, or each above its own: shape (n,)."""
        return np.asarray(self.measured(metric) > bound)


def _usable(value: float | None) -> float:
    """A metric's value that arithmetic can be done with, else NaN: sums of larger ones overflow."""
    return value if value is not None and abs(value) <= LARGEST_FLOAT else math.nan


def _told(trial: Trial) -> bool:
    """Whether a trial's end says anything of its params: a lost one's machine vanished."""
    return trial.result is not None and trial.result.status is not Status.LOST

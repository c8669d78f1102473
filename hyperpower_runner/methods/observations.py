"""What the history tells a surrogate: where points were tried, and what came of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner.space import Array, Space
from hyperpower_runner.trial import History, Status, Trial


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
        values = np.array([space.from_params(trial.job.params) for trial in trials])
        objective = np.array([math.nan if trial.objective is None else trial.objective for trial in trials])
        return cls(
            trials,
            values.reshape(len(trials), space.dimensions),
            objective,
            np.array([trial.result is None for trial in trials], dtype=bool),
            # Nothing is known of a lost one: its machine vanished.
            np.array([_diverged(trial) for trial in trials], dtype=bool),
        )

    @property
    def observed(self) -> NDArray[np.bool_]:
        """Where there is an objective."""
        return np.isfinite(self.objective)

    def measured(self, metric: str) -> Array:
        """A metric as jobs measured it, NaN where none did: shape (n,)."""
        found = (trial.metrics.get(metric) for trial in self.trials)
        return np.array([value if value is not None and math.isfinite(value) else math.nan for value in found])

    def feasible(self, bounds: Mapping[str, float]) -> NDArray[np.bool_]:
        """Where each bounded metric is known, measured or else predicted, and at most its bound: shape (n,)."""
        return np.array([trial.is_feasible(bounds) for trial in self.trials], dtype=bool)


def _diverged(trial: Trial) -> bool:
    return trial.result is not None and trial.objective is None and trial.result.status is not Status.LOST

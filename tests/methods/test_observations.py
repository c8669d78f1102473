"""What a history becomes for a surrogate: who counts as observed, as pending, as diverged, and as feasible."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hyperpower_runner.history import History
from hyperpower_runner.methods.observations import Observations
from hyperpower_runner.space import Space, Variable
from hyperpower_runner.trial import Job, Result, Status, Trial

SPACE = Space((Variable("x", "FLOAT", 0.0, 1.0), Variable("k", "ENUM", options=("a", "b")), Variable("n", "INT", 1, 9)))


def trial(job_id: int, status: Status | None, predictions: dict[str, float] | None = None, **metrics: Any) -> Trial:
    job = Job(job_id, {"x": job_id / 100, "k": "ab"[job_id % 2], "n": 3}, 0, predictions=predictions or {})
    return Trial(job, None if status is None else Result(status, metrics))


def of(*trials: Trial) -> Observations:
    return Observations.of(History(trials), SPACE)


def test_an_empty_history_is_arrays_of_no_rows() -> None:
    nothing = of()
    assert nothing.values.shape == (0, 3)
    for column in (nothing.objective, nothing.pending, nothing.diverged, nothing.observed, nothing.measured("q")):
        assert column.shape == (0,)
    assert nothing.feasible({"q": 1.0}).shape == (0,)
    assert (nothing.pending.dtype, nothing.feasible({}).dtype) == (np.dtype(bool), np.dtype(bool))


def test_a_trial_becomes_its_values_and_its_objective() -> None:
    found = of(trial(1, Status.COMPLETED, error=0.5), trial(2, Status.COMPLETED, error=0))
    assert found.values.tolist() == [[0.01, 1.0, 3.0], [0.02, 0.0, 3.0]]
    assert found.objective.tolist() == [0.5, 0.0]
    assert found.observed.all()
    assert not found.pending.any()
    assert not found.diverged.any()


# Of each way to end: is it kept, observed, pending, diverged?
ENDINGS: dict[str, tuple[Status | None, dict[str, Any], tuple[bool, bool, bool, bool]]] = {
    "pending": (None, {}, (True, False, True, False)),
    "completed": (Status.COMPLETED, {"error": 0.5}, (True, True, False, False)),
    "terminated": (Status.TERMINATED, {}, (True, False, False, True)),
    "terminated with an error": (Status.TERMINATED, {"error": 0.9}, (True, False, False, True)),
    "failed": (Status.FAILED, {}, (True, False, False, True)),
    "timed out": (Status.TIMED_OUT, {"error": 0.5}, (True, False, False, True)),
    "not a number": (Status.COMPLETED, {"error": math.nan}, (True, False, False, True)),
    "infinite": (Status.COMPLETED, {"error": math.inf}, (True, False, False, True)),
    "minus infinite": (Status.COMPLETED, {"error": -math.inf}, (True, False, False, True)),
    "none": (Status.COMPLETED, {"error": None}, (True, False, False, True)),
    "lost": (Status.LOST, {}, (True, False, False, False)),
    "lost with an error": (Status.LOST, {"error": 0.5}, (True, False, False, False)),
    "cancelled": (Status.CANCELLED, {"error": 0.5}, (False, False, False, False)),
}


@pytest.mark.parametrize(("status", "metrics", "expected"), ENDINGS.values(), ids=ENDINGS.keys())
def test_what_became_of_a_trial_decides_what_it_tells(
    status: Status | None, metrics: dict[str, Any], expected: tuple[bool, bool, bool, bool]
) -> None:
    found = of(trial(1, Status.COMPLETED, error=1.0), trial(2, status, **metrics), trial(3, Status.LOST))
    kept = [each.job_id for each in found.trials]
    assert kept == ([1, 2, 3] if expected[0] else [1, 3])
    assert len(found.values) == len(found.objective) == len(found.pending) == len(found.diverged) == len(kept)
    place = 1 if expected[0] else 0
    if expected[0]:
        row = (True, bool(found.observed[place]), bool(found.pending[place]), bool(found.diverged[place]))
        assert row == expected
        assert np.isfinite(found.objective[place]) == expected[1]


def test_a_metric_is_what_was_measured_of_whoever_measured_it_and_never_a_prediction() -> None:
    predicted = {"power_w": 50.0}
    found = of(
        trial(1, Status.COMPLETED, predicted, error=0.1, power_w=80.0),
        trial(2, Status.TERMINATED, predicted, power_w=90),
        trial(3, Status.COMPLETED, predicted, error=0.1),
        trial(4, Status.COMPLETED, predicted, error=0.1, power_w=None),
        trial(5, Status.COMPLETED, predicted, error=0.1, power_w=math.inf),
        trial(6, None, predicted),
    )
    measured = found.measured("power_w")
    assert measured[:2].tolist() == [80.0, 90.0]
    assert np.isnan(measured[2:]).all()
    assert np.isnan(found.measured("no such metric")).all()


def test_a_measurement_counts_more_than_a_prediction_and_an_unknown_metric_is_never_feasible() -> None:
    found = of(
        trial(1, Status.COMPLETED, {"power_w": 50.0}, error=0.1, power_w=90.0),
        trial(2, Status.COMPLETED, {"power_w": 90.0}, error=0.1, power_w=80.0),
        trial(3, Status.COMPLETED, {"power_w": 80.0}, error=0.1),
        trial(4, Status.COMPLETED, {"power_w": 80.1}, error=0.1),
        trial(5, Status.COMPLETED, {}, error=0.1),
        trial(6, Status.COMPLETED, {}, error=0.1, power_w=math.nan),
    )
    assert found.feasible({"power_w": 80.0}).tolist() == [False, True, True, False, False, False]
    assert found.feasible({}).all()
    assert not found.feasible({"power_w": 80.0, "memory_bytes": 1e9}).any()


def test_repeated_params_are_two_observations() -> None:
    one = trial(1, Status.COMPLETED, error=0.1)
    again = Trial(Job(2, one.params, 0), Result(Status.COMPLETED, {"error": 0.3}))
    found = of(one, again)
    assert found.objective.tolist() == [0.1, 0.3]
    assert (found.values[0] == found.values[1]).all()

"""What a search has come to: the time it worked against brute force, violations, and the JSON that is printed."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpower_runner.config import parse
from hyperpower_runner.history import History
from hyperpower_runner.summary import Summary, best_json, elapsed_s, preferred_json, unmeasured, violations
from hyperpower_runner.trial import Job, Recommendation, Result, Status, Trial

BUDGETS = {"power_w": 85.0, "memory_bytes": 1e9}


def make_trial(
    job_id: int, status: Status = Status.COMPLETED, predictions: dict[str, float] | None = None, **metrics: float | None
) -> Trial:
    return Trial(Job(job_id, {"n": job_id}, 0, predictions=predictions or {}), Result(status, dict(metrics)))


SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=8)


@given(SPANS)
def test_elapsed_time_is_the_union_of_the_spans(spans: list[tuple[int, int]]) -> None:
    covered = {second for begin, length in spans for second in range(begin, begin + length)}
    assert elapsed_s((float(begin), float(begin + length)) for begin, length in spans) == len(covered)


def test_no_jobs_took_no_time() -> None:
    assert elapsed_s([]) == 0


def test_pauses_between_two_drivers_do_not_count() -> None:
    assert elapsed_s([(5000, 5003.5), (100, 110)]) == 13.5


def test_a_clock_that_was_set_back_does_not_make_time_negative() -> None:
    assert elapsed_s([(100, 90)]) == 0


@pytest.mark.parametrize(
    "span",
    [
        (1.0, 1.7e9),  # a device that woke up in 1970 and was told the time in the middle of a job
        (1.7e9, 1.0),
        (0.0, math.inf),
        (math.nan, 5.0),
        (-math.inf, math.inf),
    ],
)
def test_a_job_in_which_the_clock_jumped_counts_nothing(span: tuple[float, float]) -> None:
    assert elapsed_s([span]) == 0
    assert elapsed_s([(100.0, 110.0), span, (1.7e9 - 5, 1.7e9 + 5)]) == 20


def test_a_job_of_weeks_counts() -> None:
    assert elapsed_s([(1.7e9, 1.7e9 + 40 * 86400)]) == 40 * 86400


@pytest.mark.parametrize(
    ("trial", "predicted", "measured"),
    [
        (make_trial(1, power_w=85.0), 0, 0),
        (make_trial(1, power_w=85.1), 0, 1),
        (make_trial(1, power_w=None), 0, 0),
        (make_trial(1), 0, 0),
        (make_trial(1, other_w=1e9), 0, 0),
        (make_trial(1, predictions={"power_w": 85.1}), 1, 0),
        (make_trial(1, predictions={"power_w": 85.1}, power_w=80.0), 1, 0),
        (make_trial(1, predictions={"power_w": 80.0}, power_w=90.0), 0, 1),
        (make_trial(1, predictions={"power_w": 90.0, "memory_bytes": 2e9}), 1, 0),
        (make_trial(1, Status.FAILED, {"power_w": 90.0}), 1, 0),
        (make_trial(1, Status.TERMINATED, power_w=90.0), 0, 1),
        (Trial(Job(1, {}, 0, predictions={"power_w": 90.0})), 1, 0),
    ],
)
def test_a_job_violates_when_it_was_predicted_or_measured_above_a_bound(
    trial: Trial, predicted: int, measured: int
) -> None:
    assert violations([trial], BUDGETS) == {"predicted": predicted, "measured": measured}


def test_violations_add_up_over_jobs() -> None:
    trials = [make_trial(n, predictions={"power_w": 90.0}, power_w=80.0 + n) for n in range(10)]
    assert violations(iter(trials), BUDGETS) == {"predicted": 10, "measured": 4}
    assert violations(trials, {}) == {"predicted": 0, "measured": 0}


def make_summary(*trials: Trial, unfinished: dict[int, Status] | None = None) -> Summary:
    content: dict[str, Any] = {
        "main-file": "a.py",
        "variables": {"n": {"type": "INT", "min": 1, "max": 99}},
        "constraints": {"power_w": 85},
        "budget": {"evaluations": 50, "hours": 2.0},
    }
    return Summary(parse(content), History(trials), unfinished or {}, rejected=41, elapsed_s=12.34567)


def test_every_status_is_counted_also_at_zero() -> None:
    unfinished = {7: Status.RUNNING, 8: Status.RUNNING, 9: Status.PENDING}
    trials = [
        make_trial(1),
        make_trial(2),
        make_trial(3, Status.TIMED_OUT),
        *(Trial(Job(n, {}, 0)) for n in unfinished),
    ]
    assert make_summary(*trials, unfinished=unfinished).counts == {
        "pending": 1,
        "running": 2,
        "completed": 2,
        "terminated": 0,
        "failed": 0,
        "timed-out": 1,
        "lost": 0,
        "cancelled": 0,
        "rejected": 41,
    }


def test_status_json_keeps_its_contract() -> None:
    trials = [
        make_trial(1, error=0.1, power_w=90.0),
        make_trial(2, error=0.3, power_w=80.0),
        make_trial(3, error=0.2, power_w=80.0),
    ]
    content = json.loads(json.dumps(make_summary(*trials).to_json()))
    assert content["counts"]["completed"] == 3
    assert content["counts"]["rejected"] == 41
    assert content["best"]["job_id"] == 3
    assert content["best"]["params"] == {"n": 3}
    assert content["best"]["metrics"] == {"error": 0.2, "power_w": 80.0}
    assert content["violations"] == {"predicted": 0, "measured": 1}
    assert content["elapsed_s"] == 12.346
    assert content["budget"] == {"evaluations": 50, "hours": 2.0}


def test_without_a_feasible_job_there_is_no_best() -> None:
    assert make_summary(make_trial(1, error=0.1, power_w=90.0), make_trial(2, error=0.1)).to_json()["best"] is None


def test_best_json_keeps_its_contract() -> None:
    content = best_json(make_trial(5, error=0.031, predictions={"power_w": 80.0}))
    assert content["job_id"] == 5
    assert content["params"] == {"n": 5}
    assert content["metrics"] == {"error": 0.031}
    assert content["predictions"] == {"power_w": 80.0}


def test_suggestions_whose_sampling_had_not_converged_are_counted() -> None:
    fits: list[dict[str, Any]] = [
        {},
        {"converged": True},
        {"converged": False},
        {"observations": 3},
        {"converged": False},
    ]
    trials = [Trial(Job(n, {}, 0, surrogate=fit)) for n, fit in enumerate(fits)]
    assert make_summary(*trials).to_json()["surrogate"] == {"fitted": 4, "not_converged": 2}
    assert make_summary(make_trial(1)).to_json()["surrogate"] == {"fitted": 0, "not_converged": 0}


def test_preferred_json_keeps_its_contract() -> None:
    content = preferred_json(Recommendation({"n": 4}, 0.03, 0.02, 0.05, {"power_w": 80.0}, job_id=5))
    assert content == {
        "params": {"n": 4},
        "expected": 0.03,
        "low": 0.02,
        "high": 0.05,
        "predictions": {"power_w": 80.0},
        "job_id": 5,
        "converged": True,
    }
    assert preferred_json(None) is None


def test_jobs_that_nobody_measured_are_counted() -> None:
    jobs = [
        Trial(Job(1, {}, 0), Result(Status.COMPLETED, {"error": 0.1, "power_w": 70.0})),
        Trial(Job(2, {}, 0, predictions={"power_w": 70.0}), Result(Status.COMPLETED, {"error": 0.1})),
        Trial(Job(3, {}, 0), Result(Status.TERMINATED, {"error": 0.9})),
    ]
    assert unmeasured(jobs, {"power_w": 85.0}) == 1
    assert unmeasured(jobs, {}) == 0

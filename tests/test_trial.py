"""Trials: what is the best, what is feasible, what counts as tried, and the JSON of jobs and results."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpower_runner.job_files import strict
from hyperpower_runner.trial import ENDED, Job, Result, Status, Trial, params_key

BUDGETS = {"power_w": 85.0}


def make_trial(
    job_id: int,
    error: float | None = None,
    status: Status | None = Status.COMPLETED,
    predictions: dict[str, float] | None = None,
    **metrics: float | None,
) -> Trial:
    job = Job(job_id=job_id, params={"n": job_id}, seed=0, predictions=predictions or {})
    return Trial(job, None if status is None else Result(status, {"error": error, **metrics}))


def test_a_trial_without_a_result_has_no_objective() -> None:
    trial = make_trial(1, status=None)
    assert trial.objective is None
    assert trial.metrics == {}
    assert not trial.ended


def test_a_trial_names_its_job_and_its_params() -> None:
    trial = make_trial(7, 0.1)
    assert (trial.job_id, trial.params) == (7, {"n": 7})


def test_the_objective_is_the_metric_that_the_job_asks_for() -> None:
    job = Job(1, {}, 0, metric="loss")
    assert Trial(job, Result(Status.COMPLETED, {"error": 0.1, "loss": 7.0})).objective == 7.0
    assert Trial(job, Result(Status.COMPLETED, {"error": 0.1})).objective is None


@pytest.mark.parametrize(
    ("value", "feasible"), [(84.9, True), (85.0, True), (85.1, False), (None, False), (math.nan, False)]
)
def test_a_bound_is_met_up_to_itself_and_never_by_nothing(value: float | None, feasible: bool) -> None:
    assert make_trial(1, 0.1, power_w=value).is_feasible(BUDGETS) is feasible


def test_an_unreported_metric_is_not_feasible() -> None:
    assert not make_trial(1, 0.1).is_feasible(BUDGETS)
    assert not make_trial(1, status=None).is_feasible(BUDGETS)


def test_every_bound_must_be_met() -> None:
    both = {"power_w": 85.0, "memory_bytes": 1e9}
    assert make_trial(1, 0.1, power_w=80, memory_bytes=1e9).is_feasible(both)
    assert not make_trial(1, 0.1, power_w=80, memory_bytes=2e9).is_feasible(both)
    assert not make_trial(1, 0.1, power_w=90, memory_bytes=1e9).is_feasible(both)
    assert not make_trial(1, 0.1, power_w=80).is_feasible(both)


def test_without_bounds_everything_is_feasible() -> None:
    assert make_trial(1, None).is_feasible({})


def test_what_was_measured_comes_before_what_was_predicted() -> None:
    assert not make_trial(1, 0.1, predictions={"power_w": 80}, power_w=90).is_feasible(BUDGETS)
    assert make_trial(1, 0.1, predictions={"power_w": 90}, power_w=80).is_feasible(BUDGETS)
    assert make_trial(1, 0.1, predictions={"power_w": 80}).is_feasible(BUDGETS)
    assert make_trial(1, 0.1, predictions={"power_w": 80}, power_w=None).constrained_value("power_w") == 80
    assert make_trial(1, 0.1, predictions={"power_w": 80}, power_w=0.0).constrained_value("power_w") == 0.0


def test_equal_params_have_one_key_and_different_ones_have_two() -> None:
    assert params_key({"a": 1, "b": [2, "x"]}) == params_key({"b": [2, "x"], "a": 1})
    keys = {params_key(params) for params in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {"a": True}, {"a": [1]}, {})}
    assert len(keys) == 7


def test_failures_are_the_ends_that_nobody_asked_for() -> None:
    assert {status for status in Status if status.is_failure} == {Status.FAILED, Status.TIMED_OUT, Status.LOST}
    assert set(ENDED) == set(Status) - {Status.PENDING, Status.RUNNING}


TEXTS = st.text(max_size=5)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
FLOATS = st.one_of(FINITE, st.sampled_from([math.inf, -math.inf]))
PARAMS = st.dictionaries(TEXTS, st.one_of(FINITE, st.integers(), st.booleans(), TEXTS, st.lists(FINITE)), max_size=3)
JOBS = st.builds(
    Job,
    job_id=st.integers(1, 10**6),
    params=PARAMS,
    seed=st.integers(0, 2**32),
    command=st.lists(TEXTS, max_size=3),
    env=st.dictionaries(TEXTS, TEXTS, max_size=2),
    metric=TEXTS,
    task=TEXTS,
    epochs=st.none() | st.integers(1, 99),
    threads=st.none() | st.integers(1, 99),
    timeout_s=st.none() | FINITE,
    deadline=st.none() | FINITE,
    stopping_rule=st.none() | st.just({"classes": 10}),
    predictions=st.dictionaries(TEXTS, FLOATS, max_size=2),
    surrogate=st.just({}) | st.fixed_dictionaries({"observations": st.integers(1, 99), "converged": st.booleans()}),
    created_s=FINITE,
)
RESULTS = st.builds(
    Result,
    status=st.sampled_from(ENDED),
    metrics=st.dictionaries(TEXTS, st.none() | FLOATS, max_size=3),
    reason=st.none() | TEXTS,
    epoch=st.none() | FINITE,
    extra=st.dictionaries(TEXTS, TEXTS, max_size=2),
    started_s=FINITE,
    ended_s=FINITE,
    host=TEXTS,
    exit_code=st.none() | st.integers(-64, 255),
)


def through_a_file(content: dict[str, Any]) -> Any:
    return json.loads(json.dumps({"schema": 1, **strict(content)}, allow_nan=False))


@given(JOBS)
def test_a_job_survives_its_file(job: Job) -> None:
    assert Job.from_json(through_a_file(job.to_json())) == job


@given(RESULTS)
def test_a_result_survives_its_file(result: Result) -> None:
    assert Result.from_json(through_a_file({"id": 3, **result.to_json()})) == result


def test_a_result_of_nan_is_read_as_a_number_that_is_not_feasible() -> None:
    result = Result.from_json(
        through_a_file(Result(Status.COMPLETED, {"error": math.nan, "power_w": math.nan}).to_json())
    )
    trial = Trial(Job(1, {}, 0), result)
    assert trial.objective is None
    assert not trial.is_feasible(BUDGETS)


def test_job_json_has_the_keys_of_the_contract() -> None:
    content = Job(12, {"n": 3}, seed=5).to_json()
    assert content["id"] == 12
    assert {"params", "seed", "deadline", "metric", "stopping_rule", "predictions"} <= content.keys()


def test_result_json_has_the_keys_of_the_contract() -> None:
    content = Result(Status.TIMED_OUT).to_json()
    assert content["status"] == "timed-out"
    assert {"metrics", "reason", "started_s", "ended_s", "host", "exit_code"} <= content.keys()


def test_files_with_fewer_keys_are_read_with_defaults_and_more_keys_are_let_pass() -> None:
    assert Job.from_json({"id": 1, "params": {}, "seed": 2, "later": 1}) == Job(1, {}, 2)
    assert Result.from_json({"status": "failed", "later": 1}) == Result(Status.FAILED)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"params": {}, "seed": 1},
        {"id": 1},
        {"id": 1, "params": {}, "seed": 0, "predictions": "power"},
        {"id": 1, "params": {}, "seed": 0, "surrogate": "gp"},
    ],
)
def test_what_is_no_job_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError)):
        Job.from_json(content)


@pytest.mark.parametrize(
    "content",
    [{}, {"status": "done"}, {"status": "failed", "metrics": {"error": "low"}}, {"status": "failed", "metrics": "ab"}],
)
def test_what_is_no_result_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Result.from_json(content)

"""A history that is kept up as trials come and end, against one that is computed from all of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpower_runner.history import History
from hyperpower_runner.trial import ENDED, Job, Result, Status, Trial

BUDGETS = {"power_w": 85.0}


def make_trial(
    job_id: int,
    error: float | None = None,
    status: Status | None = Status.COMPLETED,
    n: int | None = None,
    **metrics: float | None,
) -> Trial:
    job = Job(job_id=job_id, params={"n": job_id if n is None else n}, seed=0)
    return Trial(job, None if status is None else Result(status, {"error": error, **metrics}))


def best_id(*trials: Trial, constraints: dict[str, float] | None = None) -> int | None:
    best = History(trials).best(constraints or {})
    return None if best is None else best.job.job_id


def test_the_best_has_the_least_objective() -> None:
    assert best_id(make_trial(1, 0.3), make_trial(2, 0.1), make_trial(3, 0.2)) == 2


def test_the_first_of_equals_is_the_best() -> None:
    assert best_id(make_trial(1, 0.3), make_trial(2, 0.1), make_trial(3, 0.1)) == 2


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.COMPLETED])
def test_only_completed_trials_can_be_the_best(status: Status) -> None:
    assert best_id(make_trial(1, 0.3), make_trial(2, 0.1, status)) == 1
    assert best_id(make_trial(2, 0.1, status)) is None


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_missing_or_non_finite_objective_is_never_the_best(value: float | None) -> None:
    assert best_id(make_trial(1, 0.3), make_trial(2, value)) == 1
    assert best_id(make_trial(2, value)) is None


def test_negative_objectives_are_minimised_too() -> None:
    assert best_id(make_trial(1, -3.0), make_trial(2, -5.0), make_trial(3, 0.0)) == 2


def test_infeasible_trials_are_passed_over_for_the_best() -> None:
    trials = [make_trial(1, 0.1, power_w=90), make_trial(2, 0.3, power_w=80), make_trial(3, 0.2)]
    assert best_id(*trials, constraints=BUDGETS) == 2
    assert best_id(*trials) == 1


def test_ended_trials_are_counted_by_status() -> None:
    statuses = [Status.COMPLETED, Status.FAILED, Status.COMPLETED, None, Status.TERMINATED]
    history = History(tuple(make_trial(n, 0.1, status) for n, status in enumerate(statuses)))
    assert history.counts == {Status.COMPLETED: 2, Status.FAILED: 1, Status.TERMINATED: 1}
    assert len(history) == 5
    assert [trial.job.job_id for trial in history] == [0, 1, 2, 3, 4]


def test_all_that_was_tried_or_is_being_tried_is_seen_but_not_what_was_cancelled() -> None:
    trials = {status: make_trial(n, 0.1, status) for n, status in enumerate([None, *ENDED])}
    expected = {trial.key for status, trial in trials.items() if status is not Status.CANCELLED}
    assert History(tuple(trials.values())).seen == expected
    assert len(expected) == len(ENDED)


def test_trials_are_in_the_order_of_their_ids_whichever_came_first() -> None:
    history = History([make_trial(3), make_trial(1)])
    for job_id in (7, 2, 5):
        history.put(make_trial(job_id))
    assert [trial.job_id for trial in history] == [trial.job_id for trial in history.trials] == [1, 2, 3, 5, 7]
    assert (history.last_id, len(history), History().last_id) == (7, 5, 0)
    assert history.trial(5) is history.get(5)
    assert history.get(4) is None


def test_a_copy_stays_as_it_is() -> None:
    history = History([make_trial(1, 0.5), make_trial(2, status=None)])
    assert history.seen
    copy = History(history)
    assert copy == history
    history.put(make_trial(2, 0.1))
    history.put(make_trial(3, 0.2))
    assert copy != history
    assert [trial.result is None for trial in copy] == [False, True]
    assert (len(copy), copy.counts, len(copy.seen)) == (2, {Status.COMPLETED: 1}, 2)
    best = copy.best({})
    assert best is not None
    assert best.job_id == 1


def test_the_first_of_equals_is_the_best_also_where_it_ends_last() -> None:
    history = History(make_trial(number, status=None) for number in (1, 2, 3))
    ids = []
    for number in (2, 3, 1):
        history.put(make_trial(number, 0.5))
        best = history.best({})
        ids.append(best and best.job_id)
    assert ids == [2, 2, 1]


def test_an_incumbent_that_becomes_worse_is_one_no_more() -> None:
    history = History([make_trial(1, 0.1), make_trial(2, 0.2)])
    assert history.best({}) is history.trial(1)
    history.put(make_trial(1, 0.3))
    assert history.best({}) is history.trial(2)


def test_params_are_seen_until_the_last_job_that_had_them_is_cancelled() -> None:
    history = History([make_trial(1, status=None, n=9), make_trial(2, status=None, n=9), make_trial(3, status=None)])
    assert len(history.seen) == 2
    history.put(make_trial(1, status=Status.CANCELLED, n=9))
    assert make_trial(1, n=9).key in history.seen
    history.put(make_trial(2, status=Status.CANCELLED, n=9))
    assert history.seen == {make_trial(3).key}


STEPS = st.lists(
    st.tuples(
        st.integers(1, 12),  # which job
        st.sampled_from([None, *ENDED]),
        st.sampled_from([None, math.nan, 0.1, 0.2, 0.2, 0.3]),
        st.sampled_from([None, 80.0, 90.0]),
        st.integers(1, 4),  # its params
        st.booleans(),  # whether somebody looks
    ),
    max_size=40,
)


def naive_best(trials: list[Trial], constraints: dict[str, float]) -> Trial | None:
    """The first of those with the least objective, one after the other."""
    best: Trial | None = None
    for trial in trials:
        value = trial.objective
        if value is None or not trial.is_feasible(constraints):
            continue
        if best is None or best.objective is None or value < best.objective:
            best = trial
    return best


@settings(max_examples=400)
@given(STEPS)
def test_a_history_that_was_kept_up_is_one_that_was_computed_anew(steps: list[Any]) -> None:
    """Whenever the first look at it was; a job may even get another result, or lose the one it had."""
    history, latest = History(), dict[int, Trial]()
    for job_id, status, error, power_w, n, look in steps:
        latest[job_id] = make_trial(job_id, error, status, n, power_w=power_w)
        history.put(latest[job_id])
        if look:
            history.best({}), history.best(BUDGETS), history.seen
    trials = [latest[job_id] for job_id in sorted(latest)]
    statuses = [trial.result.status for trial in trials if trial.result is not None]
    assert list(history) == trials
    assert history == History(reversed(trials))
    assert history.counts == {status: statuses.count(status) for status in set(statuses)}
    assert history.unfinished == [trial for trial in trials if trial.result is None]
    assert history.failures == [trial for trial in trials if trial.result and trial.result.status.is_failure]
    cancelled = [trial for trial in trials if trial.result and trial.result.status is Status.CANCELLED]
    assert history.seen == {trial.key for trial in trials if trial not in cancelled}
    for constraints in ({}, BUDGETS):
        assert history.best(constraints) is naive_best(trials, constraints)

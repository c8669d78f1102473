"""Rand: uniform over what is feasible and not tried."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hyperpower_runner.errors import SpaceExhaustedError
from hyperpower_runner.hardware.models import HardwareModels, LinearModel
from hyperpower_runner.history import History
from hyperpower_runner.methods.rand import Rand
from hyperpower_runner.space import Space, Variable, parse_constraints
from hyperpower_runner.trial import Job, Result, Status, Trial, params_key

VARIABLES = (Variable("a", "INT", 1, 6), Variable("k", "ENUM", options=("x", "y", "z")), Variable("b", "INT", 0, 3))
SPACE = Space(VARIABLES, parse_constraints(["a + b <= 6 or k == 'z'"], VARIABLES))
MODELS = HardwareModels(SPACE, {"power_w": LinearModel({"a": 10.0, "b": 5.0})})
FEASIBLE = [
    {"a": a, "k": k, "b": b}
    for a, k, b in itertools.product(range(1, 7), "xyz", range(4))
    if (a + b <= 6 or k == "z") and 10 * a + 5 * b <= 55
]


def history_of(params: list[dict[str, object]], status: Status | None = Status.COMPLETED) -> History:
    result = None if status is None else Result(status, {"error": 0.5})
    return History(tuple(Trial(Job(n, point, 0), result) for n, point in enumerate(params, start=1)))


def test_suggestions_are_uniform_over_the_feasible_points() -> None:
    rand, rng = Rand(SPACE, MODELS, {"power_w": 55.0}), np.random.default_rng(4)
    counts = {params_key(point): 0 for point in FEASIBLE}
    draws = 100 * len(FEASIBLE)
    for _ in range(draws):
        counts[params_key(rand.suggest(History(), rng).params)] += 1
    statistic = sum((count - 100) ** 2 / 100 for count in counts.values())
    freedom = len(FEASIBLE) - 1
    assert statistic < freedom + 3.5 * (2 * freedom) ** 0.5  # the mean and deviations of chi-square
    assert statistic > freedom - 3.5 * (2 * freedom) ** 0.5


def test_what_was_tried_is_not_proposed_again() -> None:
    rand, rng = Rand(SPACE, MODELS, {"power_w": 55.0}), np.random.default_rng(4)
    left = FEASIBLE[-2:]
    history = history_of([dict(point) for point in FEASIBLE[:-2]])
    found = {params_key(rand.suggest(history, rng).params) for _ in range(30)}
    assert found == {params_key(point) for point in left}


@pytest.mark.parametrize("status", [None, Status.COMPLETED, Status.FAILED, Status.TERMINATED])
def test_a_search_ends_when_everything_feasible_was_tried_or_is_running(status: Status | None) -> None:
    history = history_of([dict(point) for point in FEASIBLE], status)
    with pytest.raises(SpaceExhaustedError):
        Rand(SPACE, MODELS, {"power_w": 55.0}).suggest(history, np.random.default_rng(0))


def test_a_cancelled_point_may_come_again() -> None:
    history = history_of([dict(point) for point in FEASIBLE], Status.CANCELLED)
    assert Rand(SPACE, MODELS, {"power_w": 55.0}).suggest(history, np.random.default_rng(0)).params in FEASIBLE


def test_a_suggestion_depends_on_the_history_and_the_generator_only() -> None:
    history = history_of([dict(point) for point in FEASIBLE[:9]])
    one = Rand(SPACE, MODELS, {"power_w": 55.0})
    for seed in range(10):
        again = Rand(SPACE, MODELS, {"power_w": 55.0})
        assert one.suggest(history, np.random.default_rng(seed)) == again.suggest(history, np.random.default_rng(seed))


def test_an_unaware_search_also_runs_what_is_predicted_to_violate() -> None:
    rand, rng = Rand(SPACE, MODELS, {}), np.random.default_rng(4)
    found = [rand.suggest(History(), rng) for _ in range(200)]
    assert max(suggestion.predictions["power_w"] for suggestion in found) > 55
    assert all(suggestion.rejection.discarded == 0 for suggestion in found)

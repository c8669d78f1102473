"""Rand-Walk: where it begins, how far it steps, and whom it follows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpower_runner.config import parse
from hyperpower_runner.errors import InfeasibleError, SpaceExhaustedError
from hyperpower_runner.hardware.models import HardwareModels, LinearModel
from hyperpower_runner.history import History
from hyperpower_runner.methods import make_method
from hyperpower_runner.methods.rand import Rand
from hyperpower_runner.methods.rand_walk import RandWalk
from hyperpower_runner.space import Space, Variable, parse_constraints, reflect
from hyperpower_runner.trial import Job, Result, Status, Trial

PLANE = Space((Variable("u", "FLOAT", 0.0, 1.0), Variable("r", "FLOAT", 1e-4, 1e-2, scale="log")))


def trial(
    job_id: int, params: dict[str, Any], error: float, status: Status = Status.COMPLETED, **metrics: float
) -> Trial:
    return Trial(Job(job_id, params, 0), Result(status, {"error": error, **metrics}))


def walk(space: Space = PLANE, sigma: float = 0.1, limits: dict[str, float] | None = None) -> RandWalk:
    return RandWalk(space, HardwareModels(space), limits or {}, sigma)


def steps(space: Space, centre: dict[str, Any], sigma: float, count: int = 40_000) -> Any:
    return walk(space, sigma).step(space.from_params(centre), count, np.random.default_rng(5))


def brute_reflect(x: float) -> float:
    while not 0 <= x <= 1:
        x = -x if x < 0 else 2 - x
    return x


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=20))
def test_reflection_folds_at_the_borders(x: list[float]) -> None:
    folded = reflect(np.array(x))
    np.testing.assert_allclose(folded, [brute_reflect(value) for value in x], atol=1e-13)
    assert np.all((folded >= 0) & (folded <= 1))


def test_reflection_leaves_the_unit_interval_alone() -> None:
    x = np.linspace(0, 1, 11)
    np.testing.assert_array_equal(reflect(x), x)


@pytest.mark.parametrize("history", [
    History(),
    History((trial(1, {"u": 0.5, "r": 1e-3}, 0.1, Status.FAILED),)),
    History((trial(1, {"u": 0.5, "r": 1e-3}, 0.1, Status.TERMINATED),)),
    History((Trial(Job(1, {"u": 0.5, "r": 1e-3}, 0)),)),
])  # fmt: skip
def test_without_an_incumbent_it_draws_as_rand_does(history: History) -> None:
    for seed in range(10):
        expected = Rand(PLANE, HardwareModels(PLANE), {}).suggest(history, np.random.default_rng(seed))
        assert walk().suggest(history, np.random.default_rng(seed)) == expected


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_steps_are_normal_around_the_incumbent_in_the_unit_cube(sigma: float) -> None:
    moved = PLANE.encode(steps(PLANE, {"u": 0.5, "r": 1e-3}, sigma)) - 0.5
    count = len(moved)
    for column in moved.T:
        assert abs(column.mean()) < 4 * sigma / math.sqrt(count)
        assert column.std() == pytest.approx(sigma, rel=4 / math.sqrt(2 * count))
        ordered = np.sort(column) / sigma
        normal = np.array([0.5 * (1 + math.erf(z / math.sqrt(2))) for z in ordered])
        assert np.abs(normal - (np.arange(count) + 0.5) / count).max() < 1.95 / math.sqrt(count)  # Kolmogorov-Smirnov
    assert abs(np.corrcoef(moved.T)[0, 1]) < 4 / math.sqrt(count)


def test_steps_at_a_border_are_a_folded_normal() -> None:
    sigma, count = 0.1, 40_000
    u = np.sort(steps(PLANE, {"u": 0.0, "r": 1e-2}, sigma)[:, 0])
    folded = np.array([math.erf(value / sigma / math.sqrt(2)) for value in u])
    assert np.abs(folded - (np.arange(count) + 0.5) / count).max() < 1.95 / math.sqrt(count)
    assert u.std() == pytest.approx(sigma * math.sqrt(1 - 2 / math.pi), rel=0.03)


def test_a_suggestion_is_a_step_from_the_incumbent() -> None:
    history = History(
        tuple(trial(n, {"u": u, "r": 1e-3}, e) for n, (u, e) in enumerate([(0.1, 0.5), (0.7, 0.2), (0.9, 0.4)]))
    )
    rng, method = np.random.default_rng(0), walk(sigma=0.05)
    u = np.array([method.suggest(history, rng).params["u"] for _ in range(2000)])
    assert u.mean() == pytest.approx(0.7, abs=4 * 0.05 / math.sqrt(2000))
    assert u.std() == pytest.approx(0.05, rel=0.07)


def test_integers_take_steps_in_the_unit_cube_too() -> None:
    space = Space((Variable("n", "INT", 0, 99),))
    n = steps(space, {"n": 50}, 0.1)[:, 0]
    assert n.mean() == pytest.approx(50, abs=0.2)
    assert n.std() == pytest.approx(math.sqrt(10**2 + 1 / 12), rel=0.02)


@pytest.mark.parametrize("options", [("a", "b"), ("a", "b", "c", "d", "e"), (8, 16, 32)])
def test_an_enum_steps_to_each_other_option_alike_and_equally_often_from_all(options: tuple[Any, ...]) -> None:
    space, count = Space((Variable("k", "ENUM", options=options),)), 40_000
    expected = 1 - math.erf(0.5 / len(options) / 0.2 / math.sqrt(2))  # a step longer than half a cell
    for index, option in enumerate(options):
        counts = np.bincount(steps(space, {"k": option}, 0.2, count)[:, 0].astype(int), minlength=len(options))
        left = np.delete(counts, index)
        assert left.sum() / count == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / count))
        assert np.abs(left - left.mean()).max() < 4.5 * math.sqrt(left.mean())


def test_an_enum_of_one_option_stays() -> None:
    space = Space((Variable("k", "ENUM", options=("a",)), Variable("u", "FLOAT")))
    assert set(steps(space, {"k": "a", "u": 0.5}, 0.5, 100)[:, 0]) == {0.0}


def test_every_step_stays_in_the_space() -> None:
    space = Space((*PLANE.variables, Variable("n", "INT", -3, 3, size=2), Variable("k", "ENUM", options=("a", 1))))
    for values in steps(space, {"u": 1.0, "r": 1e-4, "n": [-3, 3], "k": 1}, 1.0, 500):
        params = space.to_params(values)
        np.testing.assert_array_equal(space.from_params(params), values)


TRIALS = History(
    (
        trial(1, {"u": 0.2, "r": 1e-3}, 0.1, power_w=90.0),
        trial(2, {"u": 0.8, "r": 1e-3}, 0.3, power_w=80.0),
        trial(3, {"u": 0.5, "r": 1e-3}, 0.01, Status.TERMINATED),
    )
)


@pytest.mark.parametrize(("limits", "centre"), [({"power_w": 85.0}, 0.8), ({}, 0.2)])
def test_the_aware_walk_follows_the_feasible_best_and_the_unaware_one_the_best(
    limits: dict[str, float], centre: float
) -> None:
    method, rng = walk(sigma=0.01, limits=limits), np.random.default_rng(0)
    u = [method.suggest(TRIALS, rng).params["u"] for _ in range(50)]
    assert np.abs(np.array(u) - centre).max() < 0.05


@pytest.mark.parametrize(("aware", "centre"), [(True, 0.8), (False, 0.2)])
def test_hardware_aware_of_a_config_chooses_between_them(aware: bool, centre: float) -> None:
    config = parse(
        {
            "main-file": "a.py",
            "variables": {
                "u": {"type": "FLOAT", "min": 0, "max": 1},
                "r": {"type": "FLOAT", "min": 1e-4, "max": 1e-2, "scale": "log"},
            },
            "constraints": {"power_w": 85},
            "method": "rand-walk",
            "method-args": {"sigma-0": 0.01},
            "hardware-aware": aware,
        }
    )
    method = make_method(config, HardwareModels(config.space))
    assert method.suggest(TRIALS, np.random.default_rng(0)).params["u"] == pytest.approx(centre, abs=0.05)


def test_steps_respect_constraints_and_predicted_budgets() -> None:
    variables = (Variable("a", "INT", 1, 50), Variable("b", "INT", 1, 50))
    space = Space(variables, parse_constraints(["a + b <= 50"], variables))
    models = HardwareModels(space, {"power_w": LinearModel({"a": 2.0, "b": 1.0})})
    history = History((trial(1, {"a": 20, "b": 20}, 0.1, power_w=60.0),))
    rng, method = np.random.default_rng(0), RandWalk(space, models, {"power_w": 62.0}, 0.2)
    discarded = 0
    for _ in range(200):
        suggestion = method.suggest(history, rng)
        a, b = suggestion.params["a"], suggestion.params["b"]
        assert a + b <= 50
        assert suggestion.predictions["power_w"] == 2 * a + b <= 62
        discarded += suggestion.rejection.discarded
    assert discarded > 20


def test_a_used_up_neighbourhood_is_left_for_the_whole_space() -> None:
    space = Space((Variable("n", "INT", 0, 999_999),))
    near = [trial(n, {"n": n}, n / 1000) for n in range(40)]
    suggestion = walk(space, sigma=1e-7).suggest(History(tuple(near)), np.random.default_rng(0))
    assert suggestion.params["n"] >= 40


def test_a_finite_space_is_walked_to_its_end() -> None:
    space = Space((Variable("n", "INT", 1, 12), Variable("k", "ENUM", options=("a", "b"))))
    history, method = History(), walk(space, sigma=0.05)
    for job_id in range(1, 25):
        params = method.suggest(history, np.random.default_rng(job_id)).params
        history = History((*history.trials, trial(job_id, params, 1 / job_id)))
    assert len(history.seen) == 24
    with pytest.raises(SpaceExhaustedError):
        method.suggest(history, np.random.default_rng(0))


def test_an_infeasible_space_is_explained_also_from_an_incumbent() -> None:
    variables = (Variable("n", "INT", 1, 9),)
    space = Space(variables, parse_constraints(["n > 9"], variables))
    with pytest.raises(InfeasibleError, match='"n > 9"'):
        walk(space).suggest(History((trial(1, {"n": 3}, 0.1),)), np.random.default_rng(0))


def test_a_suggestion_depends_on_the_history_and_the_generator_only() -> None:
    method = walk()
    for seed in range(5):
        assert method.suggest(TRIALS, np.random.default_rng(seed)) == walk().suggest(
            TRIALS, np.random.default_rng(seed)
        )

"""The problems that searches are compared on say of themselves what is true."""

import numpy as np
import pytest

from benchmarks.cells import cells, measured
from benchmarks.problem import Problem, numbers
from benchmarks.problems import CHANCE_LEVEL, PROBLEMS
from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.space import Array


@pytest.fixture(params=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> Problem:
    return PROBLEMS[request.param]


def drawn(problem: Problem, count: int = 100_000) -> Array:
    return problem.space.sample(np.random.default_rng(0), count)


def test_no_feasible_point_is_better_than_the_optimum(problem: Problem) -> None:
    values = drawn(problem)
    best = problem.truth(problem.columns(values[problem.feasible(values)])).min()
    assert best >= problem.optimum - 1e-6 * abs(problem.optimum)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("hartmann6", {"x": [0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573]}),
        ("vessel", {"shell": 13, "head": 7, "radius": 42.0984455, "length": 176.6365959}),
    ],
)
def test_a_published_optimum_is_reached(name: str, params: dict[str, object]) -> None:
    problem = PROBLEMS[name]
    assert float(problem.truth(numbers(params))) == pytest.approx(problem.optimum, rel=1e-5)
    assert (problem.exceeded(problem.space.from_params(params)[np.newaxis]) <= 1e-6).all()


def test_the_amounts_of_excess_say_what_the_constraints_say(problem: Problem) -> None:
    values = drawn(problem)
    assert ((problem.exceeded(values) <= 0).all(axis=1) == problem.acceptable(values)).all()


def test_constraints_leave_the_part_of_the_space_that_makes_them_hard(problem: Problem) -> None:
    share = problem.feasible(drawn(problem)).mean()
    assert 0.01 < share < 0.15 or problem.name in ("vessel", "gardner")
    assert share < 0.45


def test_an_evaluation_is_the_truth_and_noise_around_it(problem: Problem) -> None:
    points = problem.feasible_points(np.random.default_rng(1), 200)
    truth = problem.truth(problem.columns(points))
    rng = np.random.default_rng(2)
    found = [problem.evaluate(problem.space.to_params(point), rng).metrics.get("error", np.nan) for point in points]
    near = np.abs(np.array(found) - truth) < (1e-9 if problem.parsed.noiseless else 0.05) * np.maximum(1, np.abs(truth))
    assert near.mean() > (0.55 if problem.name == "cifar10-terminated" else 0.9)


def test_the_same_generator_gives_the_same_evaluation(problem: Problem) -> None:
    params = problem.space.to_params(problem.feasible_points(np.random.default_rng(3), 1)[0])
    first, second = (problem.evaluate(params, np.random.default_rng(4)) for _ in range(2))
    assert first == second


def test_hardware_models_belong_to_constrained_metrics(problem: Problem) -> None:
    models = problem.models or HardwareModels(problem.space)
    assert set(models.models) <= set(problem.parsed.constraints)


def test_about_a_third_of_the_stand_in_diverges_and_the_rest_is_plausible() -> None:
    problem = PROBLEMS["cifar10"]
    errors = problem.truth(problem.columns(drawn(problem)))
    assert 0.25 < (errors == CHANCE_LEVEL).mean() < 0.4
    converged = errors[errors < CHANCE_LEVEL]
    assert 0.2 < converged.min() < 0.3
    assert np.quantile(converged, 0.95) < 0.6


def test_a_diverged_training_is_terminated_or_near_chance_level() -> None:
    points = PROBLEMS["cifar10"].feasible_points(np.random.default_rng(5), 300)
    for point in points:
        params = PROBLEMS["cifar10"].space.to_params(point)
        told = PROBLEMS["cifar10"].evaluate(params, np.random.default_rng(6))
        stopped = PROBLEMS["cifar10-terminated"].evaluate(params, np.random.default_rng(6))
        if stopped.status == "terminated":
            assert not stopped.metrics
            assert told.metrics["error"] == pytest.approx(CHANCE_LEVEL, abs=0.02)
        else:
            assert stopped == told


def test_every_measured_cell_has_encodings_and_every_allowed_encoding_is_a_measured_cell() -> None:
    assert len(measured()) == 2532
    problem = PROBLEMS["ecnas"]
    power_w, _ = cells()
    reached: set[float] = set()
    for values in problem.space.enumerate():
        allowed = values[problem.space.holds(values).all(axis=0)]
        found = power_w[tuple(allowed.astype(int).T)]
        assert np.isfinite(found).all()
        reached |= set(found.tolist())
    assert reached == {power for power, _ in measured().values()}


def test_encodings_of_one_cell_have_one_power() -> None:
    power_w, error = cells()
    through_first, through_second = (1, 0, 0, 0, 0, 0, 1, 0, 0, 0), (0, 1, 0, 0, 0, 0, 0, 0, 1, 0)  # 0-1-4, 0-2-4
    assert power_w[through_first][1, 0, 0] == power_w[through_second][2, 1, 0]
    assert error[through_first][1, 0, 0] != error[through_second][1, 2, 0]
    assert np.isnan(power_w[(0,) * 13])  # nothing joins input and output

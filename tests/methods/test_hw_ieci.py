"""HW-IECI against Eq. 3, read literally: expected improvement by scipy, times indicators evaluated point by point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from acquiring import factors, next_maximised
from scipy.stats import norm

from hyperpower_runner.acquisition import ExpectedImprovement, ProbabilityBelow, Term
from hyperpower_runner.config import parse
from hyperpower_runner.hardware.models import HardwareModels, LinearModel
from hyperpower_runner.search import Search
from hyperpower_runner.space import Array

MIXED: dict[str, Any] = {
    "rate": {"type": "FLOAT", "min": 1e-4, "max": 1.0, "scale": "log"},
    "units": {"type": "INT", "min": 1, "max": 40},
    "kind": {"type": "ENUM", "options": ["a", "b", "c"]},
    "depth": {"type": "INT", "min": 1, "max": 5},
}
BUDGETS: dict[str, Any] = {
    "variables": MIXED,
    "constraints": {"power_w": 60, "memory_bytes": 150.0},
    "known-constraints": ["units * depth <= 90", "kind != 'c' or depth >= 2"],
}
POWER, MEMORY = LinearModel({"units": 2.0, "depth": 3.0}), LinearModel({"units": 4.0}, 30.0)


def make(config: dict[str, Any], **models: LinearModel) -> Search:
    parsed = parse({"method": "hw-ieci", **config}, runnable=False)
    return Search(parsed, models=HardwareModels(parsed.space, models))


def error_of(params: dict[str, Any]) -> float:
    rate = (np.log10(params["rate"]) + 2.0) ** 2 / 4
    return float(rate + ((params["units"] - 25) / 40) ** 2 + 0.1 * "abc".index(params["kind"]) + 0.05 * params["depth"])


def told(search: Search, count: int, **measured: Callable[[dict[str, Any]], float]) -> Search:
    for _ in range(count):
        job = search.ask()
        metrics: dict[str, Any] = {name: f(job.params) for name, f in measured.items()}
        search.tell(job.job_id, error=error_of(job.params), **metrics)
    return search


def improvement_by_hand(term: Term, u: Array) -> Array:
    """E[max(y+ - y, 0)], y ~ N(mean, variance), averaged over the samples of the hyper-parameters."""
    assert isinstance(term, ExpectedImprovement)
    prediction = term.posterior.predict(u)
    deviation = np.sqrt(prediction.variance)
    gain = term.thresholds[:, np.newaxis] - prediction.mean
    values = gain * norm.cdf(gain / deviation) + deviation * norm.pdf(gain / deviation)
    return np.asarray(values.mean(axis=0))


def is_allowed(params: dict[str, Any]) -> bool:
    """The indicators of Eq. 3 and the known constraints, by hand."""
    units, depth = int(params["units"]), int(params["depth"])
    predicted = 2 * units + 3 * depth <= 60 and 4 * units + 30 <= 150
    return predicted and units * depth <= 90 and bool(params["kind"] != "c" or depth >= 2)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_acquisition_is_equation_3(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    search = told(make({**BUDGETS, "seed": seed}, power_w=POWER, memory_bytes=MEMORY), 8)
    job, maximisation = next_maximised(search, monkeypatch)
    (term,) = factors(maximisation)  # there is no other factor: both budgets have a model
    space = search.config.space
    values = space.sample(np.random.default_rng(seed), 3000)
    allowed = np.array([is_allowed(space.to_params(row)) for row in values])
    assert 200 < allowed.sum() < 2800
    scores = maximisation.scores(values)
    assert (scores[~allowed] == -np.inf).all()
    by_hand = improvement_by_hand(term, maximisation.embedding(values))[allowed]
    assert np.isfinite(scores[allowed]).all()
    plain = by_hand > 1e-10  # below, the textbook's formula has lost its digits
    assert plain.sum() > 100
    np.testing.assert_allclose(np.exp(scores[allowed][plain]), by_hand[plain], rtol=1e-5)
    # The suggestion is their maximum, and reports it.
    own = maximisation.scores(space.from_params(job.params)[np.newaxis])[0]
    assert own >= scores.max() - 1e-9
    assert job.surrogate["log_acquisition"] == pytest.approx(own, abs=1e-4)
    assert job.predictions == {"power_w": 2 * job.params["units"] + 3 * job.params["depth"],
                               "memory_bytes": 4 * job.params["units"] + 30}  # fmt: skip


def test_a_budget_is_met_at_the_bound_and_exceeded_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"variables": {"n": {"type": "INT", "min": 0, "max": 20}, "x": {"type": "FLOAT", "min": 0, "max": 1}}}
    search = make({**config, "constraints": {"power_w": 0.7}}, power_w=LinearModel({"n": 0.1}))
    for n in range(5):
        search.observe({"n": n, "x": 0.5}, error=1.0 - n / 20)
    _, maximisation = next_maximised(search, monkeypatch)
    scores = maximisation.scores(np.array([[n, 0.3] for n in range(21)]))
    limit = [0.0 + 0.1 * n <= 0.7 for n in range(21)]  # what a machine computes: 0.1 * 7 is above 0.7
    assert np.isfinite(scores).tolist() == limit


def test_y_plus_is_the_mean_at_the_best_feasible_observation(monkeypatch: pytest.MonkeyPatch) -> None:
    search = told(make(BUDGETS, power_w=POWER, memory_bytes=MEMORY), 6)
    # Much better, but measured above the budget, and predicted above it and never measured.
    violating: list[dict[str, Any]] = [
        {"rate": 0.01, "units": 20, "kind": "a", "depth": 1},
        {"rate": 0.02, "units": 40, "kind": "a", "depth": 1},
    ]
    search.observe(violating[0], error=-5.0, power_w=61.0)
    search.observe(violating[1], error=-5.0)
    _, maximisation = next_maximised(search, monkeypatch)
    term, learned = factors(maximisation)
    assert isinstance(term, ExpectedImprovement)
    assert isinstance(learned, ProbabilityBelow)  # the first of them proved the model of power wrong
    params = [trial.params for trial in search.history]
    u = maximisation.embedding(np.array([search.config.space.from_params(each) for each in params]))
    means = term.posterior.predict(u).mean
    np.testing.assert_allclose(term.thresholds, means[:, :6].min(axis=1), rtol=1e-6, atol=1e-6)
    assert (means[:, 6:].min(axis=1) < term.thresholds - 0.1).all()


def test_what_is_tried_or_pending_scores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    search = told(make(BUDGETS, power_w=POWER, memory_bytes=MEMORY), 6)
    search.ask(), search.ask()
    _, maximisation = next_maximised(search, monkeypatch)
    values = np.array([search.config.space.from_params(trial.params) for trial in search.history])
    assert len(values) == 8
    assert (maximisation.scores(values) == -np.inf).all()


@pytest.mark.parametrize("seed", range(3))
def test_nothing_proposed_is_predicted_to_violate_or_breaks_a_known_constraint(seed: int) -> None:
    search = make({**BUDGETS, "seed": seed}, power_w=POWER, memory_bytes=MEMORY)
    # The error falls with what the budgets forbid, so that the search is pressed against them.
    for _ in range(15):
        job = search.ask()
        search.tell(job.job_id, error=1.0 - job.params["units"] / 40)
    assert all(is_allowed(trial.params) for trial in search.history)
    best = search.best()
    assert best is not None
    assert best.params["units"] >= 27  # of at most 28, at depth 1


def test_candidates_that_models_discard_are_counted_and_listed() -> None:
    search = told(make(BUDGETS, power_w=POWER, memory_bytes=MEMORY), 5)
    _, rejection = search.propose()
    assert rejection.discarded >= len(rejection.first) > 10
    for discarded in rejection.first:
        units, depth = discarded["params"]["units"], discarded["params"]["depth"]
        assert discarded["predictions"] == {"power_w": 2.0 * units + 3.0 * depth, "memory_bytes": 4.0 * units + 30.0}
        assert 2 * units + 3 * depth > 60 or 4 * units + 30 > 150


# --- the unaware counterpart


def unaware_params(search: Search) -> list[dict[str, Any]]:
    """Ten evaluations of what is the better the more it violates."""
    for _ in range(10):
        job = search.ask()
        units = job.params["units"]
        search.tell(job.job_id, error=1.0 - units / 40, power_w=2.0 * units, latency_s=float(units))
    return [trial.params for trial in search.history]


def test_the_unaware_counterpart_is_expected_improvement_without_any_constraint() -> None:
    bounds = {"power_w": 30, "latency_s": 10}
    unaware = {"variables": MIXED, "hardware-aware": False, "constraints": bounds}
    params = unaware_params(make(unaware, power_w=POWER))
    assert params == unaware_params(make({"variables": MIXED}))
    assert max(2 * each["units"] + 3 * each["depth"] for each in params) > 30
    assert np.mean([each["units"] > 30 for each in params[4:]]) > 0.5


def test_known_constraints_bind_the_unaware_counterpart_too() -> None:
    unaware = {"variables": MIXED, "hardware-aware": False, "known-constraints": ["units <= 20"]}
    assert max(each["units"] for each in unaware_params(make(unaware))) == 20


# --- constraints that are learned


LINE: dict[str, Any] = {"variables": {"x": {"type": "FLOAT", "min": 0, "max": 1, "structural": True}}}


def test_a_constraint_without_a_model_is_a_factor_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    search = make({**LINE, "constraints": {"latency_s": 4.0}})
    for x in np.linspace(0.05, 0.95, 7):
        search.observe({"x": float(x)}, error=float(1 - x), latency_s=float(10 * x))
    _, maximisation = next_maximised(search, monkeypatch)
    improvement, holds = factors(maximisation)
    grid = np.linspace(0.0, 1.0, 101)[:, np.newaxis]
    u = maximisation.embedding(grid)
    probabilities = np.exp(holds(u))
    assert (probabilities[:30] > 0.9).all()
    assert (probabilities[52:] < 0.1).all()
    by_hand = improvement_by_hand(improvement, u) * probabilities
    scores = maximisation.scores(grid)
    plain = np.isfinite(scores) & (by_hand > 1e-10)
    assert plain.sum() > 10
    np.testing.assert_allclose(np.exp(scores[plain]), by_hand[plain], rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_constraint_without_a_model_is_learned(seed: int) -> None:
    search = make({**LINE, "constraints": {"latency_s": 4.0}, "seed": seed})
    for _ in range(14):
        job = search.ask()
        x = job.params["x"]
        search.tell(job.job_id, error=1 - x, latency_s=10 * x)
    late = [trial.params["x"] for trial in search.history][6:]
    assert np.mean([x <= 0.45 for x in late]) >= 0.75  # although the error falls beyond
    best = search.best()
    assert best is not None
    assert 0.37 < best.params["x"] <= 0.4


@pytest.mark.parametrize("predicted", [False, True], ids=["without a model", "although a model allowed it"])
def test_where_nothing_is_feasible_yet_feasibility_is_sought(monkeypatch: pytest.MonkeyPatch, predicted: bool) -> None:
    """The error falls towards the right, what is measured falls towards the left."""
    models = {"latency_s": LinearModel({"x": 0.1})} if predicted else {}
    search = make({**LINE, "constraints": {"latency_s": 3.0}}, **models)
    for x in (0.7, 0.8, 0.9, 0.95):
        search.observe({"x": x}, error=1 - x, latency_s=10 * x)
    _, maximisation = next_maximised(search, monkeypatch)
    assert not any(isinstance(term, ExpectedImprovement) for term in factors(maximisation))
    proposed = []
    for _ in range(3):
        job = search.ask()
        proposed.append(job.params["x"])
        search.tell(job.job_id, error=1 - job.params["x"], latency_s=10 * job.params["x"])
        if search.best() is not None:
            break
    assert max(proposed) < 0.7
    assert proposed[-1] <= 0.3
    _, maximisation = next_maximised(search, monkeypatch)
    assert isinstance(factors(maximisation)[0], ExpectedImprovement)


def test_a_constraint_that_was_never_measured_does_not_end_the_search() -> None:
    search = make({**LINE, "constraints": {"latency_s": 3.0}})
    xs = []
    for _ in range(8):
        job = search.ask()
        xs.append(job.params["x"])
        search.tell(job.job_id, error=1.0)
    assert len(set(xs)) == 8
    assert search.best() is None


def test_a_bound_on_the_optimised_metric_itself_changes_nothing() -> None:
    """Lower is better anyway, and no error is excluded before it is measured."""
    runs = []
    for constraints in ({}, {"error": 0.01}):
        search = told(make({"variables": MIXED, "constraints": constraints}), 9)
        runs.append([trial.params for trial in search.history])
    assert runs[0] == runs[1]


# --- quality, far from the borders of luck


def best_error(search: Search) -> float:
    best = search.best()
    assert best is not None
    error = best.metrics["error"]
    assert error is not None
    return error


def branin(params: dict[str, Any]) -> float:
    """Less its least value."""
    x, y = 15 * params["x"] - 5, 15 * params["y"]
    ridge = (y - 5.1 / (4 * np.pi**2) * x * x + 5 / np.pi * x - 6) ** 2
    return float(ridge + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x) + 10 - 0.397887)


def test_branin_is_minimised_far_below_random_search() -> None:
    medians = {}
    for method in ("hw-ieci", "rand"):
        found = []
        for seed in range(5):
            search = make({"variables": {"x": LINE["variables"]["x"], "y": LINE["variables"]["x"]},
                           "method": method, "seed": seed})  # fmt: skip
            for _ in range(25):
                job = search.ask()
                search.tell(job.job_id, error=branin(job.params))
            found.append(best_error(search))
        medians[method] = np.median(found)
    assert medians["hw-ieci"] < 0.1
    assert medians["rand"] > 10 * medians["hw-ieci"]


def test_a_mixed_space_under_budgets_is_minimised_far_below_random_search() -> None:
    least = min(
        error_of({"rate": 0.01, "units": units, "kind": "a", "depth": depth})
        for units in range(1, 41) for depth in range(1, 6)
        if is_allowed({"units": units, "depth": depth, "kind": "a"})
    )  # fmt: skip
    medians = {}
    for method in ("hw-ieci", "rand"):
        searches = [
            told(make({**BUDGETS, "method": method, "seed": seed}, power_w=POWER, memory_bytes=MEMORY), 20)
            for seed in range(4)
        ]
        assert all(is_allowed(trial.params) for search in searches for trial in search.history)
        medians[method] = np.median([best_error(search) for search in searches]) - least
    assert medians["hw-ieci"] < 0.2 * medians["rand"]

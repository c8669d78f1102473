"""HW-CWEI against section 3.5, read literally: EI times Pr(g0 - g(x) >= 0) under a Gaussian process of g0 - g."""

from __future__ import annotations

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
from hyperpower_runner.trial import Status

PLANE: dict[str, Any] = {
    "a": {"type": "FLOAT", "min": 0, "max": 1, "structural": True},
    "b": {"type": "INT", "min": 1, "max": 40},
}
BUDGETS: dict[str, Any] = {"variables": PLANE, "constraints": {"power_w": 60, "memory_bytes": 100}}
POWER, MEMORY = LinearModel({"a": 30.0, "b": 1.0}, 10.0), LinearModel({"b": 4.0})


def make(config: dict[str, Any], **models: LinearModel) -> Search:
    parsed = parse({"method": "hw-cwei", **config}, runnable=False)
    return Search(parsed, models=HardwareModels(parsed.space, models))


def error_of(params: dict[str, Any]) -> float:
    return float((params["a"] - 0.8) ** 2 + ((params["b"] - 33) / 40) ** 2)


def told(search: Search, count: int) -> Search:
    for _ in range(count):
        job = search.ask()
        search.tell(job.job_id, error=error_of(job.params))
    return search


def probability_by_hand(term: Term, u: Array, latent: Array, at: Array) -> Array:
    """Pr(g0 - g(u) >= 0), by plain algebra, of a Gaussian process given the values `latent` of g0 - g at points `at`.

    The latent function's scale is that of its values; its mean is unknown, with the standard normal prior.
    """
    assert isinstance(term, ProbabilityBelow)
    outputs = (latent - latent.mean()) / latent.std()
    border = -latent.mean() / latent.std()  # where the latent function is 0
    found = []
    for scales, amplitude in zip(term.posterior.scales, term.posterior.amplitudes, strict=True):

        def k(left: Array, right: Array, scales: Array = scales, amplitude: float = amplitude) -> Array:
            r = np.sqrt((((left[:, np.newaxis] - right) * scales) ** 2).sum(axis=-1))
            matern = (1 + 5**0.5 * r + 5 * r**2 / 3) * np.exp(-(5**0.5) * r)
            return np.asarray(amplitude * matern + 1.0)

        covariance = k(at, at) + 1e-6 * amplitude * np.eye(len(at))
        weights = np.linalg.solve(covariance, k(at, u))
        variance = amplitude + 1.0 - np.einsum("nm,nm->m", k(at, u), weights)
        found.append(norm.sf(border, weights.T @ outputs, np.sqrt(np.maximum(variance, 1e-10 * (amplitude + 1)))))
    return np.asarray(np.mean(found, axis=0))


@pytest.mark.parametrize("pending", [0, 2])
def test_the_acquisition_is_improvement_times_the_probability_of_each_constraint(
    monkeypatch: pytest.MonkeyPatch, pending: int
) -> None:
    search = told(make(BUDGETS, power_w=POWER, memory_bytes=MEMORY), 8)
    for _ in range(pending):
        search.ask()
    job, maximisation = next_maximised(search, monkeypatch)
    improvement, power, memory = factors(maximisation)
    assert isinstance(improvement, ExpectedImprovement)
    space = search.config.space
    tried = np.array([space.from_params(trial.params) for trial in search.history])
    assert len(tried) == 8 + pending  # what a model says needs no result
    at = maximisation.embedding(tried)
    values = space.sample(np.random.default_rng(0), 2000)
    u = maximisation.embedding(values)
    of_power = probability_by_hand(power, u, 60 - (10 + 30 * tried[:, 0] + tried[:, 1]), at)
    of_memory = probability_by_hand(memory, u, 100 - 4 * tried[:, 1], at)
    np.testing.assert_allclose(np.exp(power(u)), of_power, atol=2e-4)
    np.testing.assert_allclose(np.exp(memory(u)), of_memory, atol=2e-4)
    # The process has learned what the models say, and is unsure at the border only.
    allowed = (10 + 30 * values[:, 0] + values[:, 1] <= 60) & (4 * values[:, 1] <= 100)
    assert of_memory[values[:, 1] <= 20].min() > 0.6
    prediction = improvement.posterior.predict(u)
    deviation = np.sqrt(prediction.variance)
    gain = improvement.thresholds[:, np.newaxis] - prediction.mean
    by_hand = (gain * norm.cdf(gain / deviation) + deviation * norm.pdf(gain / deviation)).mean(axis=0)
    by_hand = by_hand * np.exp(power(u) + memory(u))
    scores = maximisation.scores(values)
    assert (scores[~allowed] == -np.inf).all()  # the models' limits are hard here too
    plain = allowed & (by_hand > 1e-10)
    assert plain.sum() > 300
    np.testing.assert_allclose(np.exp(scores[plain]), by_hand[plain], rtol=1e-5)
    own = maximisation.scores(space.from_params(job.params)[np.newaxis])[0]
    assert own >= scores.max() - 1e-9


def test_every_constraint_has_a_process_of_its_own_and_its_sampling_is_reported() -> None:
    search = told(make({**BUDGETS, "constraints": {**BUDGETS["constraints"], "latency_s": 3}},
                       power_w=POWER, memory_bytes=MEMORY), 4)  # fmt: skip
    search.observe({"a": 0.5, "b": 3}, error=0.5, latency_s=2.0)
    job, _ = search.propose()
    assert len(job.surrogate["processes"]) == 4  # of the error, of each model, and of the latency
    assert {"error", "latency_s"} < set(job.surrogate["processes"])


@pytest.mark.parametrize("seed", range(3))
def test_nothing_proposed_is_predicted_to_violate(seed: int) -> None:
    search = told(make({**BUDGETS, "seed": seed}, power_w=POWER, memory_bytes=MEMORY), 14)
    for trial in search.history:
        assert 10 + 30 * trial.params["a"] + trial.params["b"] <= 60
        assert 4 * trial.params["b"] <= 100
    best, errors = search.best(), []
    assert best is not None
    for a in np.linspace(0, 1, 201):
        errors += [error_of({"a": a, "b": b}) for b in range(1, 26) if 10 + 30 * a + b <= 60]
    assert best.metrics["error"] == pytest.approx(min(errors), abs=0.004)


@pytest.mark.parametrize("results", [None, Status.LOST], ids=["pending", "lost"])
def test_before_the_first_result_points_are_drawn_and_not_piled_up_where_constraints_are_surest(
    results: Status | None,
) -> None:
    """Nothing is known of the error, and the models are not to be learned: random points teach most."""
    search = make({"variables": {**PLANE, "b": PLANE["a"]}, "constraints": {"power_w": 1.2}},
                  power_w=LinearModel({"a": 1.0, "b": 1.0}))  # fmt: skip
    for _ in range(12):
        job = search.ask()
        if results is not None:
            search.tell(job.job_id, status=results.value)
    points = np.array([[trial.params["a"], trial.params["b"]] for trial in search.history])
    assert (points.sum(axis=1) <= 1.2).all()
    late = points[4:]
    distances = np.linalg.norm(late[:, np.newaxis] - points, axis=-1)
    distances[np.arange(8), np.arange(4, 12)] = np.inf
    assert np.median(distances.min(axis=1)) > 0.06  # of points drawn uniformly: about 0.1


# --- the unaware counterpart


def learns(search: Search, count: int = 16) -> Search:
    """The error falls with b, and what is measured grows with it, above the bound from 21 on."""
    for _ in range(count):
        job = search.ask()
        search.tell(job.job_id, error=1.0 - job.params["b"] / 40, power_w=2.0 * job.params["b"] + 19)
    return search


UNAWARE: dict[str, Any] = {"variables": PLANE, "constraints": {"power_w": 60}, "hardware-aware": False}


def test_the_unaware_counterpart_learns_from_measurements_and_uses_no_model() -> None:
    # A model that is wrong, and that would exclude nearly all: it must not matter.
    wrong = LinearModel({"b": -50.0}, 1000.0)
    runs = [learns(make(UNAWARE, **models)) for models in ({}, {"power_w": wrong})]
    params = [[trial.params for trial in search.history] for search in runs]
    assert params[0] == params[1]


@pytest.mark.parametrize("seed", range(3))
def test_the_unaware_counterpart_keeps_to_what_it_learned(seed: int) -> None:
    search = learns(make({**UNAWARE, "seed": seed}))
    late = [trial.params["b"] for trial in search.history][8:]
    assert np.mean([b <= 21 for b in late]) >= 0.6
    best = search.best()
    assert best is not None
    assert 18 <= best.params["b"] <= 20


def test_a_model_does_not_stand_in_for_what_the_unaware_counterpart_did_not_measure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gelbart's CWEI knows no model: an observation that was not measured is not known to be feasible."""
    search = make(UNAWARE, power_w=LinearModel({"b": 1.0}))
    search.observe({"a": 0.1, "b": 2}, error=0.0)  # predicted to be feasible, but never measured
    for b in (5, 10, 15, 30):
        search.observe({"a": 0.5, "b": b}, error=1.0 - b / 40, power_w=2.0 * b + 19)
    _, maximisation = next_maximised(search, monkeypatch)
    improvement = factors(maximisation)[0]
    assert isinstance(improvement, ExpectedImprovement)
    u = maximisation.embedding(np.array([[0.5, 5.0], [0.5, 10.0], [0.5, 15.0]]))
    means = improvement.posterior.predict(u).mean
    np.testing.assert_allclose(improvement.thresholds, means.min(axis=1), rtol=1e-6, atol=1e-6)


def test_the_two_methods_are_one_where_nothing_is_constrained() -> None:
    runs = [told(make({"variables": PLANE, "method": method}), 8) for method in ("hw-cwei", "hw-ieci")]
    assert runs[0].history == runs[1].history


def test_models_of_metrics_without_a_bound_are_no_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    search = told(make({"variables": PLANE}, power_w=POWER), 6)
    _, maximisation = next_maximised(search, monkeypatch)
    assert len(factors(maximisation)) == 1


def test_predictions_that_are_equal_but_for_rounding_are_a_certain_constraint() -> None:
    """The mean of 0.1, 0.1 and 0.1 is not 0.1: what remains is no scale to measure a bound in."""
    for bound in (0.1, 0.15):
        search = make({"variables": PLANE, "constraints": {"power_w": bound}}, power_w=LinearModel({"b": 0.1}))
        for a in (0.1, 0.3, 0.6, 0.7, 0.9):
            search.observe({"a": a, "b": 1}, error=(a - 0.5) ** 2)
        for _ in range(3):
            job = search.ask()
            assert job.params["b"] == 1
            search.tell(job.job_id, error=(job.params["a"] - 0.5) ** 2)
        best = search.best()
        assert best is not None
        assert best.params["a"] == pytest.approx(0.5, abs=0.02)

"""Samples against distributions that are known or summed on a grid; broken samplers must fail the same comparison."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import emcee
import numpy as np
import pytest
from scipy import special, stats

from hyperpower_runner.space import Array
from hyperpower_runner.surrogate import sampling
from hyperpower_runner.surrogate.hyperparameters import JITTER, Density, Prior
from hyperpower_runner.surrogate.sampling import (
    ROUNDS,
    Diagnostics,
    LogDensity,
    Samples,
    laplace,
    maximise,
    sample,
)

U = np.array([[0.05], [0.2], [0.35], [0.6], [0.9]])
OUTPUTS = np.array([0.3, 1.1, 1.2, -0.4, -1.6])
GROUPS = np.array([0])
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
SEEDS = 80
FEW_SEEDS = 30  # enough to tell a broken sampler
STEPS = 100  # with so few walkers, the traces of the start last for dozens
TOLERANCE = 4.5  # standard errors, over some twenty comparisons


@dataclass
class Known:
    """What the distribution of one element of theta is."""

    mean: float
    variance: float
    quantiles: list[tuple[float, float]]  # a place, and the probability below it


@dataclass
class Normal:
    """A normal density whose information may be said wrongly, and which may refuse a region."""

    centre: Array
    covariance: Array
    claimed: float = 1.0
    reach: float = 50.0

    @property
    def bounds(self) -> list[tuple[float, float]]:
        return [(float(c) - self.reach, float(c) + self.reach) for c in self.centre]

    def __call__(self, thetas: Array) -> Array:
        steps = thetas - self.centre
        return np.asarray(-0.5 * np.sum(steps * np.linalg.solve(self.covariance, steps.T).T, axis=1))

    def with_gradient(self, theta: Array) -> tuple[float, Array]:
        gradient = np.asarray(-np.linalg.solve(self.covariance, theta - self.centre), dtype=np.float64)
        return float(self(theta[np.newaxis])[0]), gradient

    def information(self, theta: Array) -> Array:
        return np.asarray(self.claimed * np.linalg.inv(self.covariance))


@dataclass
class LogGamma:
    """The logarithm of a gamma-distributed number: skewed, so that its Laplace approximation is wrong."""

    shape: float
    bounds: Any = ((-30.0, 10.0),)

    def __call__(self, thetas: Array) -> Array:
        return np.asarray(self.shape * thetas[:, 0] - np.exp(thetas[:, 0]))

    def with_gradient(self, theta: Array) -> tuple[float, Array]:
        return float(self(theta[np.newaxis])[0]), np.asarray(self.shape - np.exp(theta))

    def information(self, theta: Array) -> Array:
        return np.exp(theta)[:, np.newaxis]

    @property
    def known(self) -> list[Known]:
        places = np.log(special.gammaincinv(self.shape, np.array(LEVELS)))
        quantiles = list(zip(places.tolist(), LEVELS, strict=True))
        return [Known(float(special.digamma(self.shape)), float(special.polygamma(1, self.shape)), quantiles)]


@cache
def on_a_grid(noiseless: bool, cells: int) -> list[Known]:
    """The posterior of theta given the observations above, by brute force: midpoints of cells within the bounds."""
    prior = Prior.of(1, noiseless)
    borders = [np.linspace(m - 5 * d, m + 5 * d, cells + 1) for m, d in zip(prior.mean, prior.deviation, strict=True)]
    centres = [0.5 * (b[1:] + b[:-1]) for b in borders]
    mesh = np.stack(np.meshgrid(*centres, indexing="ij"), axis=-1).reshape(-1, len(centres))
    logs = np.concatenate([log_posterior(part, prior) for part in np.array_split(mesh, 20)])
    mass = np.exp(logs - logs.max()).reshape([cells] * len(centres))
    mass /= mass.sum()
    found = []
    for place, (edge, centre) in enumerate(zip(borders, centres, strict=True)):
        marginal = mass.sum(axis=tuple(axis for axis in range(len(centres)) if axis != place))
        below = np.concatenate([[0.0], np.cumsum(marginal)])
        mean = float(marginal @ centre)
        at = [int(np.argmin(np.abs(below - level))) for level in LEVELS]
        quantiles = [(float(edge[i]), float(below[i])) for i in at]
        found.append(Known(mean, float(marginal @ (centre - mean) ** 2), quantiles))
    return found


def log_posterior(thetas: Array, prior: Prior) -> Array:
    amplitude = np.exp(thetas[:, 1])[:, np.newaxis, np.newaxis]
    noise = np.exp(thetas[:, 2])[:, np.newaxis, np.newaxis] if thetas.shape[1] > 2 else 0.0
    r = np.sqrt(5.0) * np.abs(U - U.T) / np.exp(thetas[:, 0])[:, np.newaxis, np.newaxis]
    covariance = amplitude * (1 + r + r * r / 3) * np.exp(-r) + 1 + (noise + JITTER * amplitude) * np.eye(len(U))
    _, log_determinant = np.linalg.slogdet(covariance)
    solved = np.linalg.solve(covariance, np.broadcast_to(OUTPUTS[:, np.newaxis], (len(thetas), len(U), 1)))[:, :, 0]
    likelihood = -0.5 * solved @ OUTPUTS - 0.5 * log_determinant
    return np.asarray(likelihood + stats.norm(prior.mean, prior.deviation).logpdf(thetas).sum(axis=1))


def assert_follows(density: LogDensity, start: Array, known: list[Known], seeds: int = SEEDS) -> None:
    """Samples of many seeds have the known means, variances and quantiles.

    Walkers of one seed are dependent, those of different seeds are not: errors are estimated over seeds.
    """
    thetas = np.array([sample(density, start, STEPS, np.random.default_rng(seed)).thetas for seed in range(seeds)])
    for place, distribution in enumerate(known):
        element = thetas[:, :, place]
        comparisons = [("mean", element, distribution.mean)]
        comparisons.append(("variance", (element - distribution.mean) ** 2, distribution.variance))
        for at, probability in distribution.quantiles:
            comparisons.append((f"probability below {at:.3f}", element < at, probability))
        for name, drawn, expected in comparisons:
            each = drawn.mean(axis=1)
            error = each.std(ddof=1) / seeds**0.5
            assert abs(each.mean() - expected) < TOLERANCE * error, f"{name} of element {place}: {each.mean()}"


def observed(noiseless: bool) -> Density:
    return Density(U, GROUPS, OUTPUTS, noiseless)


def test_samples_of_a_skewed_density_in_one_dimension_follow_it() -> None:
    density = LogGamma(0.7)
    assert_follows(density, np.zeros(1), density.known)


def test_samples_of_two_hyperparameters_follow_their_posterior_on_a_grid() -> None:
    density = observed(noiseless=True)
    assert_follows(density, density.prior.mean, on_a_grid(True, 200))


def test_samples_of_three_hyperparameters_follow_their_posterior_on_a_grid() -> None:
    density = observed(noiseless=False)
    assert_follows(density, density.prior.mean, on_a_grid(False, 50))


class WithoutPrior(Density):
    def __call__(self, thetas: Array) -> Array:
        return np.asarray(super().__call__(thetas) - self.prior.log_density(thetas))


class Heated(Density):
    def __call__(self, thetas: Array) -> Array:
        return np.asarray(0.5 * super().__call__(thetas))


@pytest.mark.parametrize("broken", [WithoutPrior, Heated])
def test_the_comparison_fails_for_a_wrong_density(broken: type[Density]) -> None:
    density = broken(U, GROUPS, OUTPUTS, True)
    with pytest.raises(AssertionError, match="of element"):
        assert_follows(density, density.prior.mean, on_a_grid(True, 200), FEW_SEEDS)


Move = Callable[..., tuple[Array, Array]]
STRETCH: Move = emcee.moves.StretchMove.get_proposal


def without_volume(self: Any, *arguments: Any) -> tuple[Array, Array]:
    proposed, factors = STRETCH(self, *arguments)
    return proposed, np.zeros_like(factors)


def always_accepted(self: Any, *arguments: Any) -> tuple[Array, Array]:
    proposed, factors = STRETCH(self, *arguments)
    return proposed, np.full_like(factors, 1e300)


def never_accepted(self: Any, *arguments: Any) -> tuple[Array, Array]:
    proposed, factors = STRETCH(self, *arguments)
    return proposed, np.full_like(factors, -1e300)


@pytest.mark.parametrize("proposal", [without_volume, always_accepted])
def test_the_comparison_fails_for_a_sampler_that_accepts_wrongly(
    proposal: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emcee.moves.StretchMove, "get_proposal", proposal)
    density = observed(noiseless=True)
    with pytest.raises(AssertionError, match="of element"):
        assert_follows(density, density.prior.mean, on_a_grid(True, 200), FEW_SEEDS)


def test_the_comparison_fails_for_a_sampler_that_stays_where_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emcee.moves.StretchMove, "get_proposal", never_accepted)
    density = LogGamma(0.7)
    with pytest.raises(AssertionError, match="of element"):
        assert_follows(density, np.zeros(1), density.known, FEW_SEEDS)


# --- the maximum and the start


def test_the_maximum_is_found_within_the_bounds() -> None:
    density = Normal(np.array([1.0, -2.0]), np.array([[2.0, 0.9], [0.9, 0.5]]))
    np.testing.assert_allclose(maximise(density, np.array([20.0, 20.0])), density.centre, atol=0.02)


def test_the_maximum_of_a_posterior_is_that_of_the_grid() -> None:
    density = observed(noiseless=True)
    low, high = np.array(density.bounds).T
    axes = [np.linspace(a, b, 400) for a, b in zip(low, high, strict=True)]
    mesh = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    best = mesh[np.argmax(log_posterior(mesh, density.prior))]
    for start in (density.prior.mean, 0.7 * low + 0.3 * high, 0.2 * low + 0.8 * high):
        found = maximise(density, start)
        assert np.all((found >= low) & (found <= high))
        values = log_posterior(np.stack([found, best]), density.prior)
        assert values[0] > values[1] - 0.01


def test_the_start_is_drawn_from_the_normal_distribution_of_that_information() -> None:
    covariance = np.array([[2.0, 0.9], [0.9, 0.5]])
    drawn = laplace(np.linalg.inv(covariance), np.array([3.0, -1.0]), 20_000, np.random.default_rng(0))
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), (drawn - [3.0, -1.0]).T)
    for element in whitened:
        assert stats.kstest(element, "norm").pvalue > 1e-3
    assert abs(np.mean(whitened[0] * whitened[1])) < 4.5 / 20_000**0.5


# --- what is reported


def run(density: LogDensity, start: Array, steps: int = 20, seed: int = 0) -> Samples:
    return sample(density, start, steps, np.random.default_rng(seed))


def test_samples_come_with_their_densities_and_lie_within_the_bounds() -> None:
    density = observed(noiseless=False)
    low, high = np.array(density.bounds).T
    for seed in range(5):
        samples = run(density, density.prior.mean, seed=seed)
        assert samples.thetas.shape == (samples.diagnostics.walkers, 3)
        assert np.all((samples.thetas >= low) & (samples.thetas <= high))
        np.testing.assert_allclose(samples.log_densities, density(samples.thetas), rtol=1e-12)
        assert density(samples.maximum[np.newaxis])[0] >= samples.log_densities.max() - 0.05


def test_a_normal_density_is_reported_as_converged() -> None:
    density = Normal(np.zeros(5), np.eye(5))
    found = [run(density, np.full(5, 0.1), 100, seed).diagnostics for seed in range(20)]
    assert all(diagnostics.converged for diagnostics in found)
    for diagnostics in found:
        assert diagnostics.steps % 100 == 0
        assert 0.3 < diagnostics.acceptance < 0.8
        assert 2 < diagnostics.autocorrelation_steps < 100
    # The drift is some standard errors, not a number that is always small.
    drifts = np.array([diagnostics.drift for diagnostics in found])
    assert 0.3 < drifts.std() < 3


@pytest.mark.parametrize("dimensions", [3, 8, 15])
@pytest.mark.parametrize("claimed", [1e12, 1e4, 1e-2, 1e-4])  # how much tighter it says it is than it is
def test_a_start_that_is_far_too_narrow_or_wide_is_left_behind_or_reported(dimensions: int, claimed: float) -> None:
    density = Normal(np.zeros(dimensions), np.eye(dimensions), claimed, reach=1e6)
    for seed in range(6):
        samples = run(density, np.full(dimensions, 0.1), 20, seed)
        # Minus the log density is half a chi-squared number: D / 2 on average.
        depth = -samples.log_densities.mean() / (0.5 * dimensions)
        if samples.diagnostics.converged:
            assert 0.03 < depth < 8
        else:
            assert samples.diagnostics.steps == 20 * ROUNDS


@dataclass
class Spikes(Normal):
    """Nothing else is possible than where the walkers happen to start."""

    calls: int = 0

    def __call__(self, thetas: Array) -> Array:
        self.calls += 1
        return np.full(len(thetas), 0.0 if self.calls == 1 else -1e9)

    def with_gradient(self, theta: Array) -> tuple[float, Array]:
        return 0.0, np.zeros_like(theta)


def test_walkers_that_never_move_are_not_reported_as_converged() -> None:
    diagnostics = run(Spikes(np.zeros(3), np.eye(3)), np.zeros(3)).diagnostics
    assert diagnostics.acceptance == 0
    assert not diagnostics.converged
    assert diagnostics.steps == 20 * ROUNDS
    assert all(np.isfinite([diagnostics.drift, diagnostics.autocorrelation_steps]))


@dataclass
class Flat(Normal):
    """Every move is accepted."""

    def __call__(self, thetas: Array) -> Array:
        return np.zeros(len(thetas))


def test_walkers_that_go_anywhere_are_not_reported_as_converged() -> None:
    diagnostics = run(Flat(np.zeros(1), np.eye(1), reach=1e9), np.zeros(1)).diagnostics
    assert diagnostics.acceptance > sampling.ACCEPTANCE[1]
    assert not diagnostics.converged


@dataclass
class Corner(Normal):
    """Highest at its lowest corner: half of all steps lead out of the bounds."""

    def __call__(self, thetas: Array) -> Array:
        return np.asarray(-40.0 * np.sum(thetas, axis=1))

    def with_gradient(self, theta: Array) -> tuple[float, Array]:
        return float(-40.0 * np.sum(theta)), np.full(len(theta), -40.0)


def test_a_density_that_is_highest_at_its_bounds_is_sampled() -> None:
    density = Corner(np.zeros(1), np.eye(1), reach=1.0)
    for seed in range(20):
        samples = run(density, np.zeros(1), seed=seed)
        assert np.all(np.abs(samples.thetas) <= 1)
        assert np.all(np.isfinite(samples.log_densities))
        assert samples.maximum[0] == -1


@pytest.fixture
def converged() -> Diagnostics:
    diagnostics = run(Normal(np.zeros(2), np.eye(2)), np.zeros(2), 50).diagnostics
    assert diagnostics.converged
    return diagnostics


@pytest.mark.parametrize("acceptance", [0.0, 0.05, 0.95, 1.0])
def test_an_acceptance_that_is_too_low_or_high_is_not_converged(acceptance: float, converged: Diagnostics) -> None:
    assert not replace(converged, acceptance=acceptance).converged


@pytest.mark.parametrize("drift", [-20.0, 20.0, np.nan])
def test_a_drift_in_either_direction_is_not_converged(drift: float, converged: Diagnostics) -> None:
    assert not replace(converged, drift=drift).converged


@pytest.mark.parametrize(("converging_round", "expected"), [(1, 1), (2, 2), (ROUNDS, ROUNDS), (ROUNDS + 1, ROUNDS)])
def test_rounds_are_added_until_the_ensemble_stands_still(
    converging_round: int, expected: int, converged: Diagnostics, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    diagnose = sampling._diagnose

    def pretended(*arguments: Any) -> Diagnostics:
        steps = diagnose(*arguments).steps
        calls.append(steps)
        return replace(converged, steps=steps, drift=0.0 if len(calls) >= converging_round else 99.0)

    monkeypatch.setattr(sampling, "_diagnose", pretended)
    diagnostics = run(Normal(np.zeros(2), np.eye(2)), np.zeros(2), 6).diagnostics
    assert calls == [6 * (i + 1) for i in range(expected)]
    assert diagnostics.steps == 6 * expected


def test_what_is_reported_can_be_written_as_json(converged: Diagnostics) -> None:
    written = json.loads(json.dumps(converged.to_json(), allow_nan=False))
    assert written.pop("converged") is True
    assert set(written) == {field.name for field in fields(Diagnostics)}
    for name, value in written.items():
        assert value == pytest.approx(getattr(converged, name), abs=0.01)


# --- the same seed


def test_the_same_seed_gives_the_same_samples_and_another_gives_others() -> None:
    density = observed(noiseless=False)
    one, two, other = (run(density, density.prior.mean, seed=seed) for seed in (3, 3, 4))
    assert one.thetas.tobytes() == two.thetas.tobytes()
    assert one.diagnostics == two.diagnostics
    assert not np.any(one.thetas == other.thetas)


def test_samples_do_not_depend_on_numpys_global_generator() -> None:
    density = observed(noiseless=False)
    np.random.seed(1)
    one = run(density, density.prior.mean)
    state = np.random.get_state()[1].tolist()  # type: ignore[index]
    two = run(density, density.prior.mean)
    assert one.thetas.tobytes() == two.thetas.tobytes()
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]


IN_A_NEW_PROCESS = """
import sys
import numpy as np
from hyperpower_runner.surrogate.hyperparameters import Density
from hyperpower_runner.surrogate.sampling import sample
u, outputs = np.array({u}), np.array({outputs})
density = Density(u, np.array([0]), outputs, False)
sys.stdout.write(sample(density, density.prior.mean, 20, np.random.default_rng(3)).thetas.tobytes().hex())
"""


def test_a_new_process_gives_the_same_samples_bit_for_bit() -> None:
    density = observed(noiseless=False)
    here = run(density, density.prior.mean, seed=3).thetas.tobytes().hex()
    script = IN_A_NEW_PROCESS.format(u=U.tolist(), outputs=OUTPUTS.tolist())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )  # fmt: skip
    assert found.stdout == here

"""The density of hyper-parameters against scipy's normal distributions, its derivatives against differences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, stats

from hyperpower_runner.space import Array
from hyperpower_runner.surrogate import hyperparameters
from hyperpower_runner.surrogate.hyperparameters import (
    AMPLITUDE_DEVIATION,
    AMPLITUDE_MEDIAN,
    JITTER,
    LENGTH_SCALE_DEVIATION,
    LENGTH_SCALE_MEDIAN,
    NOISE_DEVIATION,
    NOISE_MEDIAN,
    Density,
    Prior,
    variances,
)


@dataclass
class Case:
    """Some observations, and some theta."""

    u: Array
    groups: NDArray[np.intp]
    outputs: Array
    noiseless: bool
    thetas: Array

    @property
    def density(self) -> Density:
        return Density(self.u, self.groups, self.outputs, self.noiseless)


def make_case(groups: list[int], noiseless: bool, n: int = 9, seed: int = 0, count: int = 6) -> Case:
    rng = np.random.default_rng([seed, len(groups), n])
    places = np.array(groups, dtype=np.intp)
    u = rng.random((n, len(groups)))
    prior = Prior.of(len(set(groups)), noiseless)
    thetas = prior.mean + prior.deviation * rng.standard_normal((count, len(prior.mean)))
    return Case(u, places, rng.standard_normal(n), noiseless, thetas)


GROUPS = [[0], [0, 1], [0, 1, 2, 3, 4], [0, 1, 1, 1, 2], []]
CASES = [(groups, noiseless) for groups in GROUPS for noiseless in (False, True)]
every_case = pytest.mark.parametrize(("groups", "noiseless"), CASES)


def covariance(case: Case, theta: Array, mean_variance: float = 1.0) -> Array:
    """Of the outputs, element by element."""
    n, dimensions = len(case.outputs), len(set(case.groups.tolist()))
    amplitude = math.exp(theta[dimensions])
    noise = JITTER * amplitude + (0.0 if case.noiseless else math.exp(theta[dimensions + 1]))
    result = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            squared = 0.0
            for coordinate, group in enumerate(case.groups):
                squared += ((case.u[i, coordinate] - case.u[j, coordinate]) / math.exp(theta[group])) ** 2
            r = math.sqrt(5 * squared)
            result[i, j] = amplitude * (1 + r + r * r / 3) * math.exp(-r) + mean_variance + (noise if i == j else 0.0)
    return result


def log_prior(case: Case, theta: Array) -> float:
    dimensions = len(set(case.groups.tolist()))
    total = 0.0
    for place, element in enumerate(theta):
        if place < dimensions:
            median, deviation = LENGTH_SCALE_MEDIAN * math.sqrt(dimensions), LENGTH_SCALE_DEVIATION
        elif place == dimensions:
            median, deviation = AMPLITUDE_MEDIAN, AMPLITUDE_DEVIATION
        else:
            median, deviation = NOISE_MEDIAN, NOISE_DEVIATION
        total += stats.lognorm(s=deviation, scale=median).logpdf(math.exp(element)) + element
    return total


def log_posterior(case: Case, theta: Array) -> float:
    zeros = np.zeros(len(case.outputs))
    likelihood = stats.multivariate_normal(zeros, covariance(case, theta)).logpdf(case.outputs)
    return float(likelihood) + log_prior(case, theta)


def relative(logs: Array | list[float]) -> Array:
    """Densities are up to a constant: compare what remains of them."""
    array = np.array(logs)
    return np.asarray(array - array[0])


@every_case
def test_the_density_is_that_of_a_normal_likelihood_and_log_normal_priors(groups: list[int], noiseless: bool) -> None:
    case = make_case(groups, noiseless)
    expected = [log_posterior(case, theta) for theta in case.thetas]
    np.testing.assert_allclose(relative(case.density(case.thetas)), relative(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("noiseless", [False, True])
def test_the_density_of_one_observation_is_that_of_a_normal_number(noiseless: bool) -> None:
    case = make_case([0, 1], noiseless, n=1)
    expected = []
    for theta in case.thetas:
        noise = 0.0 if noiseless else math.exp(theta[3])
        deviation = math.sqrt(math.exp(theta[2]) * (1 + JITTER) + noise + 1)
        expected.append(stats.norm(0, deviation).logpdf(case.outputs[0]) + log_prior(case, theta))
    np.testing.assert_allclose(relative(case.density(case.thetas)), relative(expected), rtol=1e-9)


@pytest.mark.parametrize("noiseless", [False, True])
def test_the_mean_is_integrated_out(noiseless: bool) -> None:
    case = make_case([0, 1], noiseless, n=4)
    expected = []
    for theta in case.thetas:
        around_zero = covariance(case, theta, mean_variance=0.0)

        def joint(mean: float, around_zero: Array = around_zero) -> float:
            centre = np.full(4, mean)
            likelihood = stats.multivariate_normal(centre, around_zero).pdf(case.outputs)
            return float(likelihood * stats.norm.pdf(mean))

        precision = np.linalg.solve(around_zero, np.ones(4))
        peak = float(precision @ case.outputs / (precision.sum() + 1))
        reach = 12 / math.sqrt(precision.sum() + 1)
        integral, _ = integrate.quad(joint, peak - reach, peak + reach, epsabs=0, epsrel=1e-9)
        expected.append(math.log(integral) + log_prior(case, theta))
    np.testing.assert_allclose(relative(case.density(case.thetas)), relative(expected), rtol=1e-6, atol=1e-6)


@given(st.integers(0, 10**6), st.sampled_from(CASES), st.integers(1, 12))
@settings(max_examples=40)
def test_the_density_of_many_theta_is_that_of_each_alone(seed: int, kind: tuple[list[int], bool], n: int) -> None:
    case = make_case(*kind, n=n, seed=seed)
    alone = [case.density.with_gradient(theta)[0] for theta in case.thetas]
    np.testing.assert_allclose(case.density(case.thetas), alone, rtol=1e-7, atol=1e-7)


@every_case
def test_the_gradient_is_the_difference_quotient(groups: list[int], noiseless: bool) -> None:
    case = make_case(groups, noiseless)
    for theta in case.thetas:
        _, gradient = case.density.with_gradient(theta)
        for place in range(len(theta)):
            step = np.zeros(len(theta))
            step[place] = 1e-4
            quotient = (log_posterior(case, theta + step) - log_posterior(case, theta - step)) / 2e-4
            assert gradient[place] == pytest.approx(quotient, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("noiseless", [False, True])
def test_the_gradient_holds_where_points_are_repeated(noiseless: bool) -> None:
    case = make_case([0, 1], noiseless)
    case.u[3:6] = case.u[0]
    # Without noise, outputs that differ at one point are explained by the jitter alone.
    case.outputs[3:6] = case.outputs[0] + np.array([1e-3, -1e-3, 2e-3])
    for theta in case.thetas:
        value, gradient = case.density.with_gradient(theta)
        assert value == pytest.approx(case.density(theta[np.newaxis])[0], rel=1e-6)
        for place in range(len(theta)):
            step = np.zeros(len(theta))
            step[place] = 1e-4
            quotient = (log_posterior(case, theta + step) - log_posterior(case, theta - step)) / 2e-4
            assert gradient[place] == pytest.approx(quotient, rel=1e-4, abs=1e-3)


def information_by_hand(case: Case, theta: Array) -> Array:
    """Fisher's, of the likelihood: traces of explicit products with differences of the covariance."""
    precision = np.linalg.inv(covariance(case, theta))
    derivatives = []
    for place in range(len(theta)):
        step = np.zeros(len(theta))
        step[place] = 1e-5
        derivatives.append((covariance(case, theta + step) - covariance(case, theta - step)) / 2e-5)
    products = [precision @ derivative for derivative in derivatives]
    return np.array([[0.5 * np.trace(left @ right) for right in products] for left in products])


def prior_precision(case: Case) -> Array:
    dimensions = len(set(case.groups.tolist()))
    deviations = (
        [LENGTH_SCALE_DEVIATION] * dimensions + [AMPLITUDE_DEVIATION] + [NOISE_DEVIATION] * (not case.noiseless)
    )
    return np.diag(np.array(deviations) ** -2.0)


@every_case
def test_the_information_is_fishers_and_the_priors(groups: list[int], noiseless: bool) -> None:
    case = make_case(groups, noiseless)
    for theta in case.thetas[:3]:
        found = case.density.information(theta)
        expected = information_by_hand(case, theta) + prior_precision(case)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_information_is_the_expected_product_of_gradients() -> None:
    # Its other definition, by outputs drawn from the likelihood.
    case = make_case([0, 1], False, n=6)
    theta = case.thetas[0]
    rng = np.random.default_rng(1)
    drawn = rng.multivariate_normal(np.zeros(6), covariance(case, theta), size=4000)
    gradients = np.array(
        [Density(case.u, case.groups, outputs).with_gradient(theta)[1] for outputs in drawn]
    )  # the prior's part is a constant
    deviations = gradients - gradients.mean(axis=0)
    products = deviations[:, :, np.newaxis] * deviations[:, np.newaxis, :]
    error = products.std(axis=0) / len(products) ** 0.5
    expected = case.density.information(theta) - prior_precision(case)
    assert np.all(np.abs(products.mean(axis=0) - expected) < 5 * error + 1e-9)


@given(st.integers(0, 10**6), st.sampled_from(CASES), st.integers(1, 15))
@settings(max_examples=40)
def test_the_information_is_symmetric_and_positive_definite(seed: int, kind: tuple[list[int], bool], n: int) -> None:
    case = make_case(*kind, n=n, seed=seed)
    for theta in case.thetas:
        information = case.density.information(theta)
        np.testing.assert_allclose(information, information.T, rtol=1e-6, atol=1e-8)
        assert np.linalg.eigvalsh(information).min() > 0


@pytest.mark.parametrize("chunk", [1, 300])
def test_the_density_does_not_depend_on_how_many_theta_are_held_at_a_time(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case([0, 1], False, count=11)
    expected = case.density(case.thetas)
    monkeypatch.setattr(hyperparameters, "CHUNK", chunk)
    np.testing.assert_allclose(case.density(case.thetas), expected, rtol=1e-13)


def test_a_covariance_that_is_not_positive_definite_is_impossible_and_leaves_the_others_alone() -> None:
    case = make_case([0], True, n=6)
    case.u[:] = 0.5
    degenerate = np.array([0.0, -60.0])  # a covariance of ones, to the last digit
    value, gradient = case.density.with_gradient(degenerate)
    assert value == -np.inf
    np.testing.assert_array_equal(gradient, 0.0)
    mixed = np.stack([case.thetas[0], degenerate, case.thetas[1]])
    found = case.density(mixed)
    assert found[1] == -np.inf
    np.testing.assert_allclose(found[[0, 2]], case.density(case.thetas[:2]), rtol=1e-9)
    assert np.all(np.isfinite(found[[0, 2]]))


@given(st.integers(0, 10**6), st.sampled_from(CASES), st.integers(2, 30))
@settings(max_examples=40)
def test_the_density_is_finite_everywhere_within_the_bounds(seed: int, kind: tuple[list[int], bool], n: int) -> None:
    case = make_case(*kind, n=n, seed=seed)
    case.u[: n // 2] = case.u[0]
    low, high = np.array(case.density.bounds).T
    rng = np.random.default_rng(seed)
    corners = np.where(rng.random((8, len(low))) < 0.5, low, high)
    inside = low + rng.random((8, len(low))) * (high - low)
    assert np.all(np.isfinite(case.density(np.concatenate([corners, inside]))))
    for theta in corners:
        assert np.all(np.isfinite(case.density.with_gradient(theta)[1]))
        assert np.linalg.eigvalsh(case.density.information(theta)).min() > 0


def test_length_scales_grow_with_the_square_root_of_the_dimension() -> None:
    one, four = Prior.of(1, False), Prior.of(4, False)
    np.testing.assert_allclose(four.mean[:4], one.mean[0] + math.log(2))
    np.testing.assert_allclose(four.mean[4:], one.mean[1:])
    assert Prior.of(4, True).mean.shape == (5,)
    np.testing.assert_array_equal(Prior.of(4, True).deviation, four.deviation[:5])


def test_almost_no_prior_mass_lies_beyond_the_bounds() -> None:
    prior = Prior.of(3, False)
    for (low, high), mean, deviation in zip(prior.bounds, prior.mean, prior.deviation, strict=True):
        inside = stats.norm(mean, deviation).cdf(high) - stats.norm(mean, deviation).cdf(low)
        assert inside > 1 - 1e-5


def test_variances_are_exponentials_and_the_noise_carries_the_jitter() -> None:
    noisy = np.array([[0.3, 0.1, -2.0], [0.0, 1.5, -3.0]])
    amplitude, noise = variances(noisy, 1)
    np.testing.assert_allclose(amplitude, [math.exp(0.1), math.exp(1.5)])
    np.testing.assert_allclose(noise, [math.exp(-2) + JITTER * math.exp(0.1), math.exp(-3) + JITTER * math.exp(1.5)])
    amplitude, noise = variances(noisy[:, :2], 1)
    np.testing.assert_allclose(noise, JITTER * amplitude)

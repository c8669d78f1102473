"""Acquisition terms against quadrature, also in the far tail, and their gradients against differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from hyperpower_runner.acquisition import (
    FEW,
    ExpectedImprovement,
    LowMean,
    ProbabilityBelow,
    Product,
    Term,
    log_expected_improvement,
    log_improvement,
    log_mean,
)
from hyperpower_runner.space import Array
from hyperpower_runner.surrogate.hyperparameters import Prior
from hyperpower_runner.surrogate.posterior import Posterior


def by_quadrature(z: float) -> float:
    """log E[max(z - t, 0)] of a standard normal t, as an integral that keeps its digits however far below z lies."""
    if z >= -1:
        value, _ = integrate.quad(lambda t: (z - t) * stats.norm.pdf(t), -40.0, z, epsabs=0, epsrel=1e-12, limit=200)
        return math.log(value)
    # With t = z - s / |z|: phi(z) / z^2 times the integral of s exp(-s - s^2 / (2 z^2)).
    value, _ = integrate.quad(lambda s: s * math.exp(-s - 0.5 * (s / z) ** 2), 0, 60.0, epsabs=0, epsrel=1e-13)
    return -0.5 * z * z - 0.5 * math.log(2 * math.pi) - 2 * math.log(-z) + math.log(value)


NEAR = [-0.999, -0.5, 0.0, 0.3, 2.0, 8.0, 37.0]
FAR = [-1.0, -1.001, -2.0, -5.0, -10.0, -26.0, -38.0, -38.6, -60.0, -99.9, -100.0, -100.1, -150.0]
FARTHEST = [-1e3, -1e4, -1e6, -1e8, -1e12, -1e100]


@pytest.mark.parametrize("z", NEAR + FAR + FARTHEST)
def test_log_improvement_is_that_of_quadrature(z: float) -> None:
    assert log_improvement(np.array([z]))[0] == pytest.approx(by_quadrature(z), rel=2e-15, abs=5e-11)


@pytest.mark.parametrize("z", [-5.0, -38.0, -100.0, -101.0, -1e4])
def test_in_the_far_tail_what_is_left_beside_the_exponent_is_exact_too(z: float) -> None:
    # Relative to phi(z) / z^2 it is 1 - 3 / z^2 + 15 / z^4 - ..., an alternating series: between two partial sums.
    rest = log_improvement(np.array([z]))[0] + 0.5 * z * z + 0.5 * math.log(2 * math.pi) + 2 * math.log(-z)
    sums = np.cumsum([1.0, -3.0 / z**2, 15.0 / z**4, -105.0 / z**6, 945.0 / z**8])
    slack = 1e-15 * z * z + 1e-10
    assert min(sums[-2:]) - slack <= math.exp(rest) <= max(sums[-2:]) + slack


@pytest.mark.parametrize("z", [200.0, 1e6, 1e100])
def test_far_above_the_improvement_is_the_distance(z: float) -> None:
    assert log_improvement(np.array([z]))[0] == pytest.approx(math.log(z), rel=1e-15)


@pytest.mark.parametrize("switch", [-1.0, -100.0])
def test_log_improvement_is_continuous_where_its_formulas_meet(switch: float) -> None:
    z = switch + np.array([-1e-9, -1e-12, 0.0, 1e-12, 1e-9]) * abs(switch)
    found = log_improvement(z)
    slope = math.exp(stats.norm.logcdf(switch) - by_quadrature(switch))  # of log h, as h' = Phi
    np.testing.assert_allclose(found - found[2], slope * (z - switch), atol=1e-10)


def test_log_improvement_increases_everywhere() -> None:
    z = np.concatenate([-np.geomspace(1e10, 1e-3, 20_000), np.geomspace(1e-3, 1e10, 20_000)])
    assert np.all(np.diff(log_improvement(z)) > 0)


@given(st.floats(-1e7, 1e7))
def test_log_improvement_is_finite_and_above_that_of_the_mean_alone(z: float) -> None:
    found = log_improvement(np.array([z]))[0]
    assert np.isfinite(found)
    if z > 0:
        assert found >= math.log(z) - 1e-15 * abs(math.log(z))


@pytest.mark.parametrize("mean", [-2.0, 0.0, 1.7])
@pytest.mark.parametrize("deviation", [1e-3, 0.2, 1.0, 50.0])
@pytest.mark.parametrize("above", [-6.0, -1.0, 0.0, 2.0])
def test_log_expected_improvement_is_that_of_quadrature(mean: float, deviation: float, above: float) -> None:
    threshold = mean + above * deviation
    density = stats.norm(mean, deviation).pdf
    expected, _ = integrate.quad(
        lambda y: (threshold - y) * density(y), mean - 14 * deviation, threshold, epsabs=0, epsrel=1e-11, limit=200
    )
    found = log_expected_improvement(np.array([mean]), np.array([deviation**2]), np.array([threshold]))[0]
    assert found == pytest.approx(math.log(expected), rel=1e-8, abs=1e-8)


# --- terms, of a posterior


def make_posterior(samples: int = 3, noiseless: bool = False, n: int = 7) -> Posterior:
    rng = np.random.default_rng([samples, n])
    groups = np.array([0, 1, 1, 1, 2])
    prior = Prior.of(3, noiseless)
    thetas = prior.mean + 0.5 * prior.deviation * rng.standard_normal((samples, len(prior.mean)))
    return Posterior.given(thetas, rng.random((n, 5)), groups, rng.standard_normal(n))


POINTS = np.random.default_rng(9).random((8, 5))
Make = Callable[[Posterior], Term]


def improvement(level: float) -> Make:
    def make(posterior: Posterior) -> Term:
        return ExpectedImprovement(posterior, level + 0.2 * posterior.at_points[:, 0])

    return make


def below(bound: float) -> Make:
    return lambda posterior: ProbabilityBelow(posterior, bound)


TERMS: dict[str, Make] = {
    "improvement, likely": improvement(2.0),
    "improvement, certain": improvement(300.0),
    "improvement": improvement(-1.0),
    "improvement, unlikely": improvement(-12.0),
    "improvement, all but impossible": improvement(-300.0),
    "probability, likely": below(2.0),
    "probability, certain": below(300.0),
    "probability": below(-0.3),
    "probability, unlikely": below(-12.0),
    "probability, all but impossible": below(-300.0),
    "mean": LowMean,
    "product": lambda posterior: Product([improvement(-2.0)(posterior), below(0.2)(posterior), below(-1)(posterior)]),
    "product of one": lambda posterior: Product([improvement(-2.0)(posterior)]),
}
every_term = pytest.mark.parametrize("make", list(TERMS.values()), ids=list(TERMS))


def by_samples(posterior: Posterior, of_sample: Callable[[int, float, float], float]) -> Array:
    """The logarithm of the mean over samples of a number that mean and deviation of each give."""
    prediction = posterior.predict(POINTS)
    means = []
    for point in range(len(POINTS)):
        each = [
            of_sample(s, float(prediction.mean[s, point]), math.sqrt(prediction.variance[s, point]))
            for s in range(len(posterior.alpha))
        ]
        means.append(math.log(sum(each) / len(each)))
    return np.array(means)


@pytest.mark.parametrize("level", [-3.0, -0.5, 1.0])
def test_expected_improvement_is_averaged_over_samples_each_with_its_threshold(level: float) -> None:
    posterior = make_posterior()
    thresholds = level + np.array([0.0, 0.4, -0.2])

    def of_sample(s: int, mean: float, deviation: float) -> float:
        return deviation * math.exp(by_quadrature((thresholds[s] - mean) / deviation))

    found = ExpectedImprovement(posterior, thresholds)(POINTS)
    np.testing.assert_allclose(found, by_samples(posterior, of_sample), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bound", [-4.0, 0.0, 2.0])
def test_the_probability_below_is_averaged_over_samples(bound: float) -> None:
    posterior = make_posterior()

    def of_sample(s: int, mean: float, deviation: float) -> float:
        return 0.5 * math.erfc(-(bound - mean) / deviation / math.sqrt(2))

    found = ProbabilityBelow(posterior, bound)(POINTS)
    np.testing.assert_allclose(found, by_samples(posterior, of_sample), rtol=1e-9, atol=1e-9)


def test_the_low_mean_is_minus_the_mean_over_samples() -> None:
    posterior = make_posterior()
    expected = [-sum(column) / 3 for column in posterior.predict(POINTS).mean.T]
    np.testing.assert_allclose(LowMean(posterior)(POINTS), expected, rtol=1e-12)


def test_a_product_is_the_sum_of_logarithms() -> None:
    terms = [make(make_posterior()) for make in (improvement(-1.0), below(0.3), below(-0.6))]
    np.testing.assert_allclose(Product(terms)(POINTS), sum(term(POINTS) for term in terms), rtol=1e-12)


@every_term
@pytest.mark.parametrize("noiseless", [False, True])
def test_gradients_are_difference_quotients(make: Make, noiseless: bool) -> None:
    term = make(make_posterior(noiseless=noiseless))
    value, gradient = term.with_gradient(POINTS)
    assert value.shape == (len(POINTS),)
    assert gradient.shape == POINTS.shape
    np.testing.assert_allclose(value, term(POINTS), rtol=1e-9, atol=1e-9)
    for coordinate in range(POINTS.shape[1]):
        step = np.zeros(POINTS.shape[1])
        step[coordinate] = 1e-5
        quotient = (term(POINTS + step) - term(POINTS - step)) / 2e-5
        atol = 1e-5 * (1 + np.abs(gradient).max())
        np.testing.assert_allclose(gradient[:, coordinate], quotient, rtol=1e-4, atol=atol)


@every_term
def test_one_point_alone_has_the_value_it_has_among_others(make: Make) -> None:
    term = make(make_posterior())
    alone = [term(point[np.newaxis])[0] for point in POINTS]
    np.testing.assert_allclose(alone, term(POINTS), rtol=1e-9, atol=1e-9)


@every_term
@pytest.mark.parametrize("samples", [1, 2, FEW])
def test_with_few_samples_the_rough_term_is_the_exact_one(make: Make, samples: int) -> None:
    term = make(make_posterior(samples))
    np.testing.assert_allclose(term.rough()(POINTS), term(POINTS), rtol=1e-12)


@every_term
@pytest.mark.parametrize("samples", [FEW + 1, 4 * FEW])
def test_with_many_samples_the_rough_term_is_that_of_some_of_them(make: Make, samples: int) -> None:
    posterior = make_posterior(samples)
    expected = make(posterior.thinned(FEW))
    np.testing.assert_allclose(make(posterior).rough()(POINTS), expected(POINTS), rtol=1e-12)


def test_at_an_observation_without_noise_there_is_almost_no_improvement() -> None:
    rng = np.random.default_rng(0)
    u, outputs = rng.random((6, 2)), rng.standard_normal(6)
    prior = Prior.of(2, noiseless=True)
    posterior = Posterior.given(prior.mean[np.newaxis], u, np.array([0, 1]), outputs)
    term = ExpectedImprovement(posterior, posterior.at_points.min(axis=1))
    elsewhere = term(rng.random((50, 2))).max()
    assert term(u).max() < elsewhere - 5
    value, gradient = term.with_gradient(u)
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(gradient))


# --- the mean of exponentials


@given(st.lists(st.lists(st.floats(-700, 700), min_size=3, max_size=3), min_size=1, max_size=8))
def test_log_mean_is_the_logarithm_of_the_mean_of_exponentials(rows: list[list[float]]) -> None:
    found = log_mean(np.array(rows))
    for column, value in zip(zip(*rows, strict=True), found, strict=True):
        highest = max(column)
        expected = highest + math.log(math.fsum(math.exp(element - highest) for element in column) / len(column))
        assert value == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("shift", [-1e5, 1e5])
def test_log_mean_of_numbers_beyond_any_exponential(shift: float) -> None:
    logs = np.array([[0.0, -1.0], [math.log(3.0), -1.0]])
    np.testing.assert_allclose(log_mean(logs + shift), shift + np.array([math.log(2.0), -1.0]), rtol=1e-14)

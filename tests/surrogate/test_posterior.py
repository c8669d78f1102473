"""Predictions against dense algebra, fantasies against conditioning on what was drawn, gradients by differences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from hyperpower_runner.space import Array
from hyperpower_runner.surrogate import posterior as module
from hyperpower_runner.surrogate.hyperparameters import JITTER, Prior
from hyperpower_runner.surrogate.posterior import Posterior

GROUPS = [[0], [0, 1, 2], [0, 1, 1, 1, 2], []]


@dataclass
class Case:
    """Some observations, hyper-parameters, points that are pending and points that are asked about."""

    groups: NDArray[np.intp]
    u: Array
    outputs: Array
    thetas: Array
    pending: Array
    asked: Array

    @property
    def dimensions(self) -> int:
        return len(set(self.groups.tolist()))

    def posterior(self, fantasies: bool = False) -> Posterior:
        if not fantasies:
            return Posterior.given(self.thetas, self.u, self.groups, self.outputs)
        return Posterior.given(self.thetas, self.u, self.groups, self.outputs, self.pending)

    def noise(self, theta: Array) -> float:
        jitter = JITTER * math.exp(theta[self.dimensions])
        return jitter + (math.exp(theta[-1]) if len(theta) > self.dimensions + 1 else 0.0)

    def covariance(self, theta: Array, left: Array, right: Array) -> Array:
        """Of the latent function between points, pair by pair, with the variance of the constant mean."""
        result = np.empty((len(left), len(right)))
        for i, a in enumerate(left):
            for j, b in enumerate(right):
                parts = [((a[c] - b[c]) / math.exp(theta[group])) ** 2 for c, group in enumerate(self.groups)]
                r = math.sqrt(5 * sum(parts))
                result[i, j] = math.exp(theta[self.dimensions]) * (1 + r + r * r / 3) * math.exp(-r) + 1
        return result

    def conditioned(self, theta: Array, u: Array, outputs: Array, at: Array, exact: int = 0) -> tuple[Array, Array]:
        """Mean and covariance of the latent function, given outputs at u, of which the last `exact` have no noise."""
        noises = np.full(len(u), self.noise(theta))
        noises[len(u) - exact :] = JITTER * math.exp(theta[self.dimensions])
        observed = self.covariance(theta, u, u) + np.diag(noises)
        cross = self.covariance(theta, u, at)
        mean = cross.T @ np.linalg.solve(observed, outputs)
        return mean, self.covariance(theta, at, at) - cross.T @ np.linalg.solve(observed, cross)


def make_case(groups: list[int], noiseless: bool = False, n: int = 8, q: int = 3, samples: int = 3) -> Case:
    rng = np.random.default_rng([len(groups), n, noiseless])
    prior = Prior.of(len(set(groups)), noiseless)
    thetas = prior.mean + 0.7 * prior.deviation * rng.standard_normal((samples, len(prior.mean)))
    return Case(
        np.array(groups, dtype=np.intp),
        rng.random((n, len(groups))),
        rng.standard_normal(n),
        thetas,
        rng.random((q, len(groups))),
        rng.random((6, len(groups))),
    )


every_case = pytest.mark.parametrize(
    ("groups", "noiseless"), [(groups, noiseless) for groups in GROUPS for noiseless in (False, True)]
)


@every_case
def test_predictions_are_those_of_dense_algebra(groups: list[int], noiseless: bool) -> None:
    case = make_case(groups, noiseless)
    prediction = case.posterior().predict(case.asked)
    assert prediction.mean.shape == prediction.variance.shape == (3, 6)
    for s, theta in enumerate(case.thetas):
        mean, covariance = case.conditioned(theta, case.u, case.outputs, case.asked)
        np.testing.assert_allclose(prediction.mean[s], mean, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(prediction.variance[s], np.diag(covariance), rtol=1e-6, atol=1e-8)


@every_case
def test_fantasies_condition_on_what_is_expected_without_noise(groups: list[int], noiseless: bool) -> None:
    case = make_case(groups, noiseless)
    prediction = case.posterior(fantasies=True).predict(case.asked)
    for s, theta in enumerate(case.thetas):
        expected, _ = case.conditioned(theta, case.u, case.outputs, case.pending)
        outputs, everything = np.concatenate([case.outputs, expected]), np.concatenate([case.u, case.pending])
        mean, covariance = case.conditioned(theta, everything, outputs, case.asked, exact=len(expected))
        np.testing.assert_allclose(prediction.mean[s], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(prediction.variance[s], np.diag(covariance), rtol=1e-5, atol=1e-6)


@every_case
def test_fantasies_leave_the_mean_and_take_the_doubt_where_they_are(groups: list[int], noiseless: bool) -> None:
    case = make_case(groups, noiseless)
    before, after = case.posterior(), case.posterior(fantasies=True)
    np.testing.assert_allclose(after.predict(case.asked).mean, before.predict(case.asked).mean, rtol=1e-5, atol=1e-6)
    assert np.all(after.predict(case.asked).variance <= before.predict(case.asked).variance * (1 + 1e-9))
    amplitudes = np.exp(case.thetas[:, case.dimensions])[:, np.newaxis]
    assert np.all(after.predict(case.pending).variance < 1e-5 * amplitudes)
    assert np.all(after.predict(case.pending).variance <= before.predict(case.pending).variance)


@every_case
@pytest.mark.parametrize("fantasies", [False, True])
def test_the_means_at_the_points_are_those_predicted_there(groups: list[int], noiseless: bool, fantasies: bool) -> None:
    case = make_case(groups, noiseless)
    posterior = case.posterior(fantasies)
    everything = np.concatenate([case.u, case.pending]) if fantasies else case.u
    assert posterior.at_points.shape == (3, len(everything))
    np.testing.assert_allclose(posterior.at_points, posterior.predict(everything).mean, rtol=1e-6, atol=1e-6)


def test_without_noise_the_observations_are_met_and_their_variance_is_nothing() -> None:
    case = make_case([0, 1], noiseless=True)
    case.thetas[:] = Prior.of(2, noiseless=True).mean
    prediction = case.posterior().predict(case.u)
    np.testing.assert_allclose(prediction.mean, np.tile(case.outputs, (3, 1)), atol=1e-3)
    amplitudes = np.exp(case.thetas[:, 2])[:, np.newaxis]
    assert np.all(prediction.variance > 0)
    assert np.all(prediction.variance < 2 * JITTER * amplitudes + 1e-9)


def test_far_from_all_points_the_prediction_is_the_prior_around_the_mean_that_was_learned() -> None:
    case = make_case([0], n=5)
    prediction = case.posterior().predict(np.array([[1e6]]))
    for s, theta in enumerate(case.thetas):
        observed = case.covariance(theta, case.u, case.u) + case.noise(theta) * np.eye(5)
        precision = np.linalg.solve(observed, np.ones(5))
        assert prediction.mean[s, 0] == pytest.approx(precision @ case.outputs, rel=1e-8)
        assert prediction.variance[s, 0] == pytest.approx(math.exp(theta[1]) + 1 - precision.sum(), rel=1e-8)


@pytest.mark.parametrize("noiseless", [False, True])
def test_tiny_length_scales_cost_no_digits(noiseless: bool) -> None:
    case = make_case([0, 1], noiseless)
    low, _ = np.array(Prior.of(2, noiseless).bounds).T
    case.thetas[:, :2] = low[:2]
    at = np.concatenate([case.u, case.u + 1e-3, case.asked])
    prediction = case.posterior().predict(at)
    for s, theta in enumerate(case.thetas):
        mean, covariance = case.conditioned(theta, case.u, case.outputs, at)
        np.testing.assert_allclose(prediction.mean[s], mean, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(prediction.variance[s], np.diag(covariance), rtol=1e-5, atol=1e-7)


@every_case
@pytest.mark.parametrize("fantasies", [False, True])
def test_gradients_are_difference_quotients(groups: list[int], noiseless: bool, fantasies: bool) -> None:
    case = make_case(groups, noiseless)
    posterior = case.posterior(fantasies)
    # Anywhere, on top of an observation and of a pending point, and next to one.
    at = np.concatenate([case.asked, case.u[:2], case.pending[:1], case.u[:1] + 1e-3])
    prediction, by_mean, by_variance = posterior.predict_with_gradient(at)
    plain = posterior.predict(at)
    np.testing.assert_allclose(prediction.mean, plain.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(prediction.variance, plain.variance, rtol=1e-9, atol=1e-12)
    assert by_mean.shape == by_variance.shape == (3, len(at), len(groups))
    for coordinate in range(len(groups)):
        step = np.zeros(len(groups))
        step[coordinate] = 1e-5
        above, below = posterior.predict(at + step), posterior.predict(at - step)
        scale = 1 + np.abs(by_mean).max()
        np.testing.assert_allclose(
            by_mean[:, :, coordinate], (above.mean - below.mean) / 2e-5, rtol=1e-4, atol=1e-5 * scale
        )
        scale = 1 + np.abs(by_variance).max()
        np.testing.assert_allclose(
            by_variance[:, :, coordinate], (above.variance - below.variance) / 2e-5, rtol=1e-4, atol=1e-5 * scale
        )


def test_on_top_of_the_only_observation_the_gradient_is_nothing() -> None:
    case = make_case([0, 1], n=1)
    _, by_mean, by_variance = case.posterior().predict_with_gradient(case.u)
    np.testing.assert_allclose(by_mean, 0, atol=1e-12)
    np.testing.assert_allclose(by_variance, 0, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 75, 200])
def test_the_prediction_does_not_depend_on_how_many_points_are_held_at_a_time(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case([0, 1, 2])
    posterior = case.posterior(fantasies=True)
    expected = posterior.predict(case.asked)
    monkeypatch.setattr(module, "CHUNK", chunk)
    found = posterior.predict(case.asked)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 4, 7, 9])
def test_a_thinned_posterior_is_that_of_some_samples_of_the_first_and_the_last_among_them(count: int) -> None:
    case = make_case([0, 1], samples=7)
    posterior = case.posterior(fantasies=True)
    spread = posterior.spread(count)
    assert len(set(spread.tolist())) == min(count, 7)
    assert spread[0] == 0
    if count > 1:
        assert spread[-1] == 6
    thinned, whole = posterior.thinned(count), posterior.predict(case.asked)
    np.testing.assert_allclose(thinned.predict(case.asked).mean, whole.mean[spread], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(thinned.predict(case.asked).variance, whole.variance[spread], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(thinned.at_points, posterior.at_points[spread])


@pytest.mark.parametrize("noiseless", [False, True])
def test_points_that_are_pending_more_than_once_or_were_observed_are_predicted(noiseless: bool) -> None:
    case = make_case([0, 1], noiseless)
    case.pending[:] = case.u[0]
    posterior = case.posterior(fantasies=True)
    prediction = posterior.predict(np.concatenate([case.asked, case.u]))
    assert np.all(np.isfinite(prediction.mean))
    assert np.all(prediction.variance > 0)
    assert np.all(np.isfinite(posterior.at_points))
    if noiseless:
        # Within what the jitter leaves open.
        deviations = np.sqrt(JITTER * np.exp(case.thetas[:, 2]))[:, np.newaxis]
        assert np.all(np.abs(posterior.at_points[:, -1:] - case.outputs[0]) < 10 * deviations + 1e-3)

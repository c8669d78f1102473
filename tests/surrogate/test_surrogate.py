"""A whole fit: calibrated on processes it assumes, finite on data that teach nothing, the same for the same seed."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from hyperpower_runner.space import Array
from hyperpower_runner.surrogate import SAMPLES, Surrogate, fit
from hyperpower_runner.surrogate.hyperparameters import Prior


def line(dimensions: int) -> NDArray[np.intp]:
    return np.arange(dimensions)


def assert_finite(surrogate: Surrogate, dimensions: int) -> None:
    asked = np.random.default_rng(1).random((20, dimensions))
    prediction = surrogate.posterior.predict(asked)
    assert np.all(np.isfinite(prediction.mean))
    assert np.all(np.isfinite(prediction.variance))
    assert np.all(prediction.variance > 0)
    assert np.all(np.isfinite(surrogate.posterior.at_points))
    reported = surrogate.diagnostics.to_json()
    assert all(np.isfinite(value) for value in reported.values())


def degenerate(name: str) -> tuple[Array, Array]:
    """Coordinates of some dimensions, and outputs, from which little or nothing can be learned."""
    rng = np.random.default_rng(4)
    u = rng.random((12, 3))
    noise = rng.standard_normal(12)
    constant = np.zeros(12)
    many = rng.random((300, 2))
    cases: dict[str, tuple[Array, Array]] = {
        "one": (u[:1], np.zeros(1)),
        "two": (u[:2], np.array([-1.0, 1.0])),
        "two at one point": (u[[0, 0]], np.array([-1.0, 1.0])),
        "all equal": (u, constant),
        "all equal, many": (many, np.zeros(300)),
        "all one": (u, constant + 1),
        "one point repeated": (np.repeat(u[:1], 12, axis=0), noise),
        "one point repeated, equal": (np.repeat(u[:1], 12, axis=0), constant),
        "each point twice": (np.concatenate([u, u]), np.concatenate([noise, noise + 0.1])),
        "each point twice, the same": (np.concatenate([u, u]), np.concatenate([noise, noise])),
        "on a line": (np.linspace(0, 1, 12)[:, np.newaxis] * np.ones((1, 3)), noise),
        "a dimension never moved": (u * [1.0, 1.0, 0.0], noise),
        "close together": (0.5 + 1e-9 * u, noise),
        "corners": (np.rint(u), noise),
        "an outlier": (u, np.array([*([-0.3] * 11), 3.3])),
        "no dimensions": (np.zeros((5, 0)), noise[:5]),
        "more dimensions than points": (rng.random((3, 20)), noise[:3]),
        "many": (many, np.sin(7 * many[:, 0]) + 0.1 * rng.standard_normal(300)),
    }
    return cases[name]


NAMES = [
    "one", "two", "two at one point", "all equal", "all equal, many", "all one", "one point repeated",
    "one point repeated, equal", "each point twice", "each point twice, the same", "on a line",
    "a dimension never moved", "close together", "corners", "an outlier", "no dimensions",
    "more dimensions than points", "many",
]  # fmt: skip


@pytest.mark.parametrize("noiseless", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_data_that_teach_little_give_finite_predictions(name: str, noiseless: bool) -> None:
    u, outputs = degenerate(name)
    dimensions = u.shape[1]
    pending = np.concatenate([u[:1], np.random.default_rng(2).random((2, dimensions)), u[:1]])
    for seed in range(2):
        rng = np.random.default_rng(seed)
        assert_finite(fit(u, line(dimensions), outputs, rng, noiseless), dimensions)
    assert_finite(fit(u, line(dimensions), outputs, np.random.default_rng(2), noiseless, pending), dimensions)


def test_more_observations_than_teach_the_hyperparameters_all_count_in_predictions() -> None:
    rng = np.random.default_rng(0)
    u = rng.random((450, 1))
    outputs = np.sign(u[:, 0] - 0.5)
    posterior = fit(u, line(1), outputs, rng, noiseless=True).posterior
    assert posterior.alpha.shape[1] == 450
    np.testing.assert_allclose(posterior.predict(u).mean.mean(axis=0), outputs, atol=0.1)


def test_a_smooth_function_is_learned_from_few_evaluations() -> None:
    def function(u: Array) -> Array:
        return np.sin(5 * u[:, 0]) + 0.5 * np.cos(4 * u[:, 1])

    rng = np.random.default_rng(0)
    u, asked = rng.random((35, 2)), rng.random((200, 2))
    prediction = fit(u, line(2), function(u), rng, noiseless=True).posterior.predict(asked)
    error = prediction.mean.mean(axis=0) - function(asked)
    assert np.sqrt(np.mean(error**2)) < 0.05


def test_a_dimension_that_does_nothing_gets_the_longer_length_scale() -> None:
    rng = np.random.default_rng(0)
    u = rng.random((40, 2))
    posterior = fit(u, line(2), np.sin(9 * u[:, 0]), rng).posterior
    lengths = 1 / posterior.scales
    assert np.all(lengths[:, 1] > 2 * lengths[:, 0])


def test_noise_is_told_from_the_function() -> None:
    rng = np.random.default_rng(0)
    u = rng.random((60, 1))
    truth = np.sin(6 * u[:, 0])
    measured = truth + 0.5 * rng.standard_normal(60)
    found = fit(u, line(1), measured, rng).posterior.predict(u).mean.mean(axis=0)
    assert np.mean((found - truth) ** 2) < 0.4 * np.mean((measured - truth) ** 2)


def test_predictions_are_averaged_over_different_samples_at_most_so_many() -> None:
    rng = np.random.default_rng(0)
    for dimensions in (1, 12):
        u, outputs = rng.random((15, dimensions)), rng.standard_normal(15)
        surrogate = fit(u, line(dimensions), outputs, rng)
        samples = len(surrogate.posterior.alpha)
        assert samples == min(SAMPLES, surrogate.diagnostics.walkers)
        assert len(np.unique(surrogate.posterior.amplitudes)) > samples / 2


def test_coordinates_of_one_dimension_share_a_length_scale() -> None:
    rng = np.random.default_rng(0)
    u, outputs = rng.random((15, 4)), rng.standard_normal(15)
    scales = fit(u, np.array([0, 1, 1, 1]), outputs, rng).posterior.scales
    np.testing.assert_array_equal(scales[:, 1], scales[:, 2])
    np.testing.assert_array_equal(scales[:, 1], scales[:, 3])
    assert not np.any(scales[:, 0] == scales[:, 1])


def test_pending_points_lower_the_variance_where_they_are() -> None:
    rng = np.random.default_rng(0)
    u, outputs, pending = rng.random((10, 2)), rng.standard_normal(10), rng.random((2, 2))
    without = fit(u, line(2), outputs, np.random.default_rng(1), noiseless=True)
    surrogate = fit(u, line(2), outputs, np.random.default_rng(1), noiseless=True, pending=pending)
    assert surrogate.posterior.at_points.shape == (len(surrogate.posterior.alpha), 12)
    # The samples are the same: only the fantasies are added.
    np.testing.assert_array_equal(surrogate.posterior.amplitudes, without.posterior.amplitudes)
    after, before = surrogate.posterior.predict(pending).variance, without.posterior.predict(pending).variance
    assert np.all(after < 1e-3 * before)


def test_each_sample_sees_its_own_expectation_at_a_pending_point() -> None:
    rng = np.random.default_rng(0)
    u, outputs, pending = rng.random((10, 2)), rng.standard_normal(10), rng.random((1, 2))
    without = fit(u, line(2), outputs, np.random.default_rng(1)).posterior.predict(pending)
    seen = fit(u, line(2), outputs, np.random.default_rng(1), pending=pending).posterior.at_points[:, 10]
    np.testing.assert_allclose(seen, without.mean[:, 0], rtol=1e-6, atol=1e-8)
    assert np.std(seen) > 0.001


@cache
def ranks_of_held_out_outputs() -> tuple[Array, Array]:
    """Where held-out values of processes drawn from the prior lie in their predictions, and the true log amplitudes
    among the samples: both in [0, 1], and uniform if everything is right (Cook et al. 2006; Talts et al. 2018)."""
    rng = np.random.default_rng(7)
    prior = Prior.of(1, noiseless=False)
    places, amplitudes = [], []
    for _ in range(150):
        theta = prior.mean + prior.deviation * rng.standard_normal(3)
        u = rng.random((13, 1))
        r = math.sqrt(5) * np.abs(u - u.T) / math.exp(theta[0])
        covariance = math.exp(theta[1]) * (1 + r + r * r / 3) * np.exp(-r) + 1 + 1e-9 * np.eye(13)
        latent = np.linalg.cholesky(covariance) @ rng.standard_normal(13)
        outputs = latent[:12] + math.exp(theta[2] / 2) * rng.standard_normal(12)
        posterior = fit(u[:12], line(1), outputs, rng).posterior
        prediction = posterior.predict(u[12:])
        below = stats.norm.cdf((latent[12] - prediction.mean[:, 0]) / np.sqrt(prediction.variance[:, 0]))
        places.append(float(below.mean()))
        amplitudes.append((np.sum(np.log(posterior.amplitudes) < theta[1]) + rng.random()) / (len(below) + 1))
    return np.array(places), np.array(amplitudes)


def test_predictions_of_processes_drawn_from_the_prior_are_calibrated() -> None:
    places, _ = ranks_of_held_out_outputs()
    assert stats.kstest(places, "uniform").pvalue > 1e-3
    # In the tails too: what is given a chance of one in ten happens about so often.
    outside = np.mean((places < 0.05) | (places > 0.95))
    assert abs(outside - 0.1) < 4 * (0.09 / len(places)) ** 0.5


def test_the_hyperparameters_of_processes_drawn_from_the_prior_lie_among_the_samples_like_one_of_them() -> None:
    _, amplitudes = ranks_of_held_out_outputs()
    assert stats.kstest(amplitudes, "uniform").pvalue > 1e-3


def example(seed: int) -> Surrogate:
    rng = np.random.default_rng(0)
    u, outputs, pending = rng.random((20, 3)), rng.standard_normal(20), rng.random((2, 3))
    return fit(u, line(3), outputs, np.random.default_rng(seed), pending=pending)


def fingerprint(surrogate: Surrogate) -> str:
    posterior = surrogate.posterior
    return (posterior.scales.tobytes() + posterior.alpha.tobytes() + posterior.at_points.tobytes()).hex()


def test_the_same_seed_gives_the_same_surrogate_and_another_another() -> None:
    assert fingerprint(example(3)) == fingerprint(example(3))
    assert example(3).diagnostics == example(3).diagnostics
    assert not np.any(example(3).posterior.scales == example(4).posterior.scales)


def test_a_new_process_gives_the_same_surrogate_bit_for_bit() -> None:
    script = """
import sys
import numpy as np
from hyperpower_runner.surrogate import fit
rng = np.random.default_rng(0)
u, outputs, pending = rng.random((20, 3)), rng.standard_normal(20), rng.random((2, 3))
posterior = fit(u, np.arange(3), outputs, np.random.default_rng(3), pending=pending).posterior
sys.stdout.write((posterior.scales.tobytes() + posterior.alpha.tobytes() + posterior.at_points.tobytes()).hex())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )  # fmt: skip
    assert found.stdout == fingerprint(example(3))

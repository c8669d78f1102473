"""The kernel against its closed formula in plain loops, its slope against differences, distances against sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpower_runner.space import Array
from hyperpower_runner.surrogate.kernels import matern52, matern52_slope, squared_differences, squared_distances

SEEDS = st.integers(0, 2**32 - 1)
GROUPS = [[0], [0, 1], [0, 0, 0], [0, 1, 1, 1, 2], [0, 0, 1, 2, 2]]


def by_formula(distance: float) -> float:
    """Rasmussen and Williams (4.17) with nu = 5/2, for a distance in length scales."""
    return (1 + math.sqrt(5) * distance + 5 * distance**2 / 3) * math.exp(-math.sqrt(5) * distance)


@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-4, 0.1, 1.0, 2.5, 10.0, 300.0])
def test_the_kernel_is_its_formula(distance: float) -> None:
    assert matern52(np.array([distance**2]))[0] == pytest.approx(by_formula(distance), rel=1e-13, abs=1e-300)


def test_the_kernel_is_that_of_a_t_distributed_spectrum() -> None:
    # Its spectral density in one dimension is Student's t with 5 degrees of freedom: a formula with no exponential.
    frequencies = np.random.default_rng(0).standard_t(5, size=400_000)
    for distance in (0.3, 1.0, 2.0):
        waves = np.cos(frequencies * distance)
        error = waves.std() / len(waves) ** 0.5
        assert abs(waves.mean() - matern52(np.array([distance**2]))[0]) < 4.5 * error


@pytest.mark.parametrize("squared", [1e-3, 0.04, 0.5, 1.0, 3.0, 40.0])
def test_the_slope_is_the_difference_quotient(squared: float) -> None:
    step = 1e-5 * squared
    quotient = (by_formula((squared + step) ** 0.5) - by_formula((squared - step) ** 0.5)) / (2 * step)
    assert matern52_slope(np.array([squared]))[0] == pytest.approx(quotient, rel=1e-6)


def test_the_slope_is_finite_where_points_meet() -> None:
    one_sided = (by_formula(1e-8**0.5) - 1.0) / 1e-8
    assert matern52_slope(np.zeros(1))[0] == pytest.approx(one_sided, rel=1e-3)


def test_kernel_and_slope_leave_their_argument_alone() -> None:
    squared = np.linspace(0, 4, 9)
    matern52(squared)
    matern52_slope(squared)
    np.testing.assert_array_equal(squared, np.linspace(0, 4, 9))


@pytest.mark.parametrize("groups", GROUPS)
def test_squared_differences_are_sums_over_the_coordinates_of_each_dimension(groups: list[int]) -> None:
    u = np.random.default_rng(1).random((6, len(groups)))
    found = squared_differences(u, np.array(groups))
    assert found.shape == (groups[-1] + 1, 6, 6)
    for dimension in range(groups[-1] + 1):
        for i in range(6):
            for j in range(6):
                expected = sum((u[i, c] - u[j, c]) ** 2 for c, group in enumerate(groups) if group == dimension)
                assert found[dimension, i, j] == pytest.approx(expected, rel=1e-14, abs=0)


def test_without_dimensions_there_are_no_squared_differences() -> None:
    assert squared_differences(np.zeros((3, 0)), np.zeros(0, dtype=np.intp)).shape == (0, 3, 3)


def test_squared_distances_are_those_of_each_pair_in_each_sample() -> None:
    rng = np.random.default_rng(2)
    left, right = rng.random((3, 4, 2)), rng.random((3, 5, 2))
    found = squared_distances(left, right)
    assert found.shape == (3, 4, 5)
    for s in range(3):
        for i in range(4):
            for j in range(5):
                expected = math.dist(left[s, i].tolist(), right[s, j].tolist()) ** 2
                assert found[s, i, j] == pytest.approx(expected, rel=1e-12, abs=1e-14)


@given(SEEDS, st.floats(1e-3, 1e3))
def test_squared_distances_are_never_negative_and_of_a_point_to_itself_nothing(seed: int, scale: float) -> None:
    points = scale * np.random.default_rng(seed).random((20, 3))
    found = squared_distances(points, points)
    assert found.min() >= 0
    assert np.diag(found).max() <= 1e-14 * scale**2


@given(SEEDS, st.sampled_from([1, 2, 5]), st.floats(-3, 3))
def test_covariances_are_symmetric_and_positive_semidefinite(seed: int, dimensions: int, log_scale: float) -> None:
    rng = np.random.default_rng(seed)
    points: Array = rng.random((12, dimensions)) * np.exp(log_scale)
    points = np.concatenate([points, points[:2]])
    covariance = matern52(squared_differences(points, np.arange(dimensions)).sum(axis=0))
    np.testing.assert_array_equal(covariance, covariance.T)
    np.testing.assert_array_equal(np.diag(covariance), 1.0)
    assert np.linalg.eigvalsh(covariance).min() > -1e-12

"""The Matern-5/2 kernel with one length scale per dimension, and its derivatives.

k(r) = (1 + sqrt(5) r + 5 r^2 / 3) exp(-sqrt(5) r), with r^2 = sum_d (u_d - u'_d)^2 / l_d^2 (Rasmussen and Williams,
Gaussian Processes for Machine Learning, eq. 4.17; Snoek et al. 2012 chose it for hyper-parameters because draws of it
are twice differentiable, but no smoother). Everything is a function of r^2, which is smooth where points meet.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner.space import Array

SQRT5 = 5.0**0.5


def matern52(squared: Array) -> Array:
    """k of r^2, elementwise."""
    scaled = np.sqrt(squared)
    scaled *= SQRT5
    decay = np.exp(-scaled)
    scaled *= 1.0 + scaled / 3.0
    scaled += 1.0
    scaled *= decay
    return scaled


def matern52_slope(squared: Array) -> Array:
    """dk / d(r^2), elementwise: -5/6 (1 + sqrt(5) r) exp(-sqrt(5) r)."""
    scaled = SQRT5 * np.sqrt(squared)
    return np.asarray(-5.0 / 6.0 * (1.0 + scaled) * np.exp(-scaled))


def squared_differences(u: Array, groups: NDArray[np.intp]) -> Array:
    """Squared distances of n points along each dimension: shape (D, n, n)."""
    dimensions = int(groups[-1]) + 1 if len(groups) else 0
    squared = np.zeros((dimensions, len(u), len(u)))
    for coordinate, dimension in enumerate(groups):
        difference = u[:, coordinate, np.newaxis] - u[:, coordinate]
        squared[dimension] += difference * difference
    return squared


def squared_distances(left: Array, right: Array) -> Array:
    """r^2 between scaled points: left (..., m, C) and right (..., n, C) give (..., m, n)."""
    inner = left @ np.swapaxes(right, -1, -2)
    inner *= -2.0
    inner += np.sum(left * left, axis=-1)[..., :, np.newaxis]
    inner += np.sum(right * right, axis=-1)[..., np.newaxis, :]
    return np.maximum(inner, 0.0, out=inner)

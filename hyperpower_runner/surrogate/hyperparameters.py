"""The hyper-parameters of the Gaussian process: their prior, and their posterior density given observations.

theta = (log l_1, ..., log l_D, log amplitude, log noise), noise and amplitude being variances of outputs that were
standardised; the noise is missing where evaluations are noiseless. The constant mean has a standard normal prior and is
integrated out exactly, which adds 1 to the covariance of every two outputs. All densities are of theta, up to a
constant.

Priors, each normal in theta:

    length scale  median 0.3 sqrt(D), deviation 0.9 in the logarithm. That it must grow like the square root of D, as
                  distances in a cube do, is due to Hvarfner et al. 2024 ("Vanilla Bayesian optimization performs great
                  in high dimensions"); their location is meant for a maximum, not for sampling, and lies too high.
    amplitude     median 1, deviation 1: outputs are standardised.
    noise         median exp(-5), deviation 2: most likely 3 to 22 % of the outputs' deviation, but hardly bound to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from hyperpower_runner.space import Array
from hyperpower_runner.surrogate.kernels import matern52, matern52_slope, squared_differences

LENGTH_SCALE_MEDIAN, LENGTH_SCALE_DEVIATION = 0.3, 0.9  # the median for D = 1
AMPLITUDE_MEDIAN, AMPLITUDE_DEVIATION = 1.0, 1.0
NOISE_MEDIAN, NOISE_DEVIATION = np.exp(-5.0), 2.0
MEAN_VARIANCE = 1.0
JITTER = 1e-6  # of the amplitude, added to the noise: keeps the covariance of near points positive definite
CHUNK = 1_000_000  # elements of the covariances that are held at a time


@dataclass(frozen=True)
class Prior:
    """Independent normal distributions of the elements of theta."""

    mean: Array
    deviation: Array

    @classmethod
    def of(cls, dimensions: int, noiseless: bool) -> Prior:
        length = np.log(LENGTH_SCALE_MEDIAN * max(dimensions, 1) ** 0.5)
        means = [length] * dimensions + [np.log(AMPLITUDE_MEDIAN)] + [np.log(NOISE_MEDIAN)] * (not noiseless)
        deviations = [LENGTH_SCALE_DEVIATION] * dimensions + [AMPLITUDE_DEVIATION] + [NOISE_DEVIATION] * (not noiseless)
        return cls(np.array(means), np.array(deviations))

    @property
    def bounds(self) -> list[tuple[float, float]]:
        """Where a maximum is looked for: beyond, exponentials lose their digits, and no prior mass is left."""
        reach = 5.0 * self.deviation
        return list(zip((self.mean - reach).tolist(), (self.mean + reach).tolist(), strict=True))

    def log_density(self, theta: Array) -> Array:
        """Of theta, shape (..., P)."""
        return np.asarray(-0.5 * np.sum(((theta - self.mean) / self.deviation) ** 2, axis=-1))


@dataclass(frozen=True)
class Density:
    """The posterior density of theta given n standardised outputs.

    u: coordinates, shape (n, C); groups: the dimension of each coordinate; outputs: shape (n,).
    """

    u: Array
    groups: NDArray[np.intp]
    outputs: Array
    noiseless: bool = False

    @cached_property
    def dimensions(self) -> int:
        return int(self.groups[-1]) + 1 if len(self.groups) else 0

    @cached_property
    def prior(self) -> Prior:
        return Prior.of(self.dimensions, self.noiseless)

    @property
    def bounds(self) -> list[tuple[float, float]]:
        return self.prior.bounds

    @cached_property
    def _squared(self) -> Array:
        return squared_differences(self.u, self.groups)

    @cached_property
    def _below(self) -> tuple[NDArray[np.intp], Array]:
        """Where the strictly lower triangle lies in a flat matrix of n + 1 rows, and its squared differences."""
        n = len(self.outputs)
        rows, columns = np.tril_indices(n, -1)
        return rows * (n + 1) + columns, np.ascontiguousarray(self._squared[:, rows, columns])

    def __call__(self, thetas: Array) -> Array:
        """Log densities of many theta, shape (W, P): shape (W,), -inf where the covariance is not positive."""
        step = max(1, CHUNK // (len(self.outputs) + 1) ** 2)
        chunks = [self._log_likelihood(thetas[start : start + step]) for start in range(0, len(thetas), step)]
        return np.concatenate(chunks) + self.prior.log_density(thetas)

    def _log_likelihood(self, thetas: Array) -> Array:
        # The last row of the Cholesky factor of [[K, y], [y', large]] is L^-1 y: one factorisation gives both terms.
        n, (places, squared) = len(self.outputs), self._below
        amplitude, noise = variances(thetas, self.dimensions)
        bordered = np.zeros((len(thetas), (n + 1) ** 2))
        covariance = matern52(np.exp(-2.0 * thetas[:, : self.dimensions]) @ squared)
        covariance *= amplitude[:, np.newaxis]
        covariance += MEAN_VARIANCE
        bordered[:, places] = covariance
        bordered[:, : n * (n + 2) : n + 2] = (amplitude + noise + MEAN_VARIANCE)[:, np.newaxis]
        bordered[:, n * (n + 1) : -1] = self.outputs
        bordered[:, -1] = 1.0 + 2.0 * np.sum(self.outputs**2) / noise
        factors = _cholesky(bordered.reshape(-1, n + 1, n + 1))
        diagonal = np.diagonal(factors, axis1=1, axis2=2)[:, :n]
        result = -0.5 * np.sum(factors[:, n, :n] ** 2, axis=1) - np.sum(np.log(diagonal), axis=1)
        return np.where(np.isfinite(result), result, -np.inf)

    def with_gradient(self, theta: Array) -> tuple[float, Array]:
        """The log density at one theta, and its gradient, shape (P,); -inf and 0 where K is not positive definite."""
        try:
            solution = self._solve(theta)
        except np.linalg.LinAlgError:
            return -np.inf, np.zeros_like(theta)
        value = -0.5 * self.outputs @ solution.alpha - np.sum(np.log(np.diag(solution.factor)))
        # d log p / d theta_i = 1/2 tr((alpha alpha' - K^-1) dK / d theta_i)
        sensitivity = np.outer(solution.alpha, solution.alpha)
        sensitivity -= solution.inverse
        gradient = np.empty_like(theta)
        gradient[self.dimensions :] = [
            0.5 * (np.sum(sensitivity * dense) + np.trace(sensitivity) * diagonal)
            for dense, diagonal in solution.variance_derivatives
        ]
        sensitivity *= solution.length_derivative
        gradient[: self.dimensions] = 0.5 * solution.scales * (self._flat_squared @ sensitivity.ravel())
        gradient += (self.prior.mean - theta) / self.prior.deviation**2
        return float(value + self.prior.log_density(theta)), gradient

    def information(self, theta: Array) -> Array:
        """Fisher information of the likelihood plus the prior's precision: positive definite, shape (P, P).

        F_ij = 1/2 tr(K^-1 dK/dtheta_i K^-1 dK/dtheta_j): the expected curvature of the negative log density. Raises
        LinAlgError where K is not positive definite.
        """
        solution, identity = self._solve(theta), np.eye(len(self.outputs))
        products = np.empty((len(theta), len(identity), len(identity)))
        for place, (scale, squared) in enumerate(zip(solution.scales, self._squared, strict=True)):
            products[place] = solution.inverse @ (scale * squared * solution.length_derivative)
        for place, (dense, diagonal) in enumerate(solution.variance_derivatives, start=self.dimensions):
            products[place] = solution.inverse @ (dense + diagonal * identity)
        left = products.reshape(len(products), -1)
        right = np.swapaxes(products, 1, 2).reshape(len(products), -1)
        return np.asarray(0.5 * left @ right.T + np.diag(self.prior.deviation**-2.0))

    @cached_property
    def _flat_squared(self) -> Array:
        return self._squared.reshape(self.dimensions, len(self.outputs) ** 2)

    def _solve(self, theta: Array) -> _Solution:
        n, scales = len(self.outputs), np.exp(-2.0 * theta[: self.dimensions])
        amplitude, noise = (float(variance) for variance in variances(theta, self.dimensions))
        squared = (scales @ self._flat_squared).reshape(n, n)
        covariance = amplitude * matern52(squared)
        by_amplitude = covariance.copy(order="C")
        covariance += MEAN_VARIANCE
        covariance[np.diag_indices(n)] += noise
        factor = np.linalg.cholesky(covariance)
        inverse, _ = lapack.dpotri(factor.T, lower=0)  # in Fortran's order the transpose needs no copy
        inverse = np.triu(inverse) + np.triu(inverse, 1).T
        derivatives: list[tuple[Array | float, float]] = [(by_amplitude, JITTER * amplitude)]
        if not self.noiseless:
            derivatives.append((0.0, noise - JITTER * amplitude))
        return _Solution(
            scales, factor, inverse, inverse @ self.outputs, -2.0 * amplitude * matern52_slope(squared), derivatives
        )


@dataclass(frozen=True)
class _Solution:
    """What the gradient and the information share at one theta.

    scales: 1 / l_d^2; factor: the lower Cholesky factor of K; inverse: K^-1; alpha: K^-1 y; length_derivative: what the
    scaled squared differences along d are multiplied by to give dK / d log l_d; variance_derivatives: dK by the
    logarithms of amplitude and noise, as a matrix and a number for the diagonal.
    """

    scales: Array
    factor: NDArray[np.floating[Any]]
    inverse: Array
    alpha: Array
    length_derivative: Array
    variance_derivatives: list[tuple[Array | float, float]]


def variances(theta: Array, dimensions: int) -> tuple[Array, Array]:
    """Amplitude, and noise with the jitter, of theta, shape (..., P): each of shape (...)."""
    amplitude = np.exp(theta[..., dimensions])
    noise = np.exp(theta[..., dimensions + 1]) if theta.shape[-1] > dimensions + 1 else 0.0
    return amplitude, np.asarray(noise + JITTER * amplitude)


def _cholesky(matrices: Array) -> Array:
    """Lower Cholesky factors of a stack of matrices; NaN in place of those that are not positive definite."""
    try:
        return np.asarray(np.linalg.cholesky(matrices))
    except np.linalg.LinAlgError:
        factors = np.full_like(matrices, np.nan)
        for factor, matrix in zip(factors, matrices, strict=True):
            result, failed = lapack.dpotrf(matrix, lower=1)
            if not failed:
                factor[:] = np.tril(result)
        return factors

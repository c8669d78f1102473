"""The Gaussian process given its hyper-parameters and n observations, for S samples of them at once.

Notation: S samples, n observations, q pending points, M points asked about, C coordinates. For each sample, with the
factor K = L L' of the covariance of the outputs, predictions are mean = k' K^-1 y and variance = k(u, u) - |L^-1 k|^2
(Rasmussen and Williams, algorithm 2.1). Variances are those of the latent function, without the noise.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from hyperpower_runner.space import Array
from hyperpower_runner.surrogate.hyperparameters import JITTER, MEAN_VARIANCE, variances
from hyperpower_runner.surrogate.kernels import matern52, matern52_slope, squared_distances

CHUNK = 1_000_000  # elements of the covariances that are held at a time


@dataclass(frozen=True)
class Prediction:
    """Mean and variance of the latent function at M points, for each sample: both of shape (S, M)."""

    mean: Array
    variance: Array


@dataclass(frozen=True)
class Posterior:
    """S Gaussian processes given the same observations.

    points: all coordinates, observed and pending, over each sample's length scales, shape (S, n + q, C).
    inverse_factors: L^-1, shape (S, n + q, n + q); alpha: K^-1 y, shape (S, n + q).
    at_points: the means at observed and pending points, shape (S, n + q).
    """

    scales: Array
    amplitudes: Array
    points: Array
    inverse_factors: Array
    alpha: Array
    at_points: Array

    @classmethod
    def given(
        cls,
        thetas: Array,
        u: Array,
        groups: NDArray[np.intp],
        outputs: Array,
        pending: Array | None = None,
    ) -> Posterior:
        """Condition on outputs, shape (n,), at u, shape (n, C), for thetas, shape (S, P).

        pending: coordinates, shape (q, C), of points being evaluated. Each sample sees a fantasy there: that the latent
        function is what it expects itself ("kriging believer", Ginsbourger et al. 2010), without noise.
        """
        n, dimensions = len(outputs), int(groups[-1]) + 1 if len(groups) else 0
        everything = u if pending is None else np.concatenate([u, pending])
        scales = np.exp(-thetas[:, :dimensions])[:, groups]
        points = everything * scales[:, np.newaxis, :]
        amplitudes, noise_variances = variances(thetas, dimensions)
        noises = np.empty((len(thetas), len(everything)))
        inverse_factors = np.empty((len(thetas), len(everything), len(everything)))
        whitened = np.zeros((len(thetas), len(everything)))  # what is expected adds nothing to what is known
        all_outputs = np.broadcast_to(np.append(outputs, np.zeros(len(everything) - n)), whitened.shape).copy()
        for place, (scaled, amplitude, noise) in enumerate(zip(points, amplitudes, noise_variances, strict=True)):
            covariance = amplitude * matern52(squared_distances(scaled, scaled)) + MEAN_VARIANCE
            noises[place] = np.where(np.arange(len(everything)) < n, noise, JITTER * amplitude)
            covariance[np.diag_indices_from(covariance)] = amplitude + noises[place] + MEAN_VARIANCE
            factor = np.linalg.cholesky(covariance)
            inverse_factors[place] = lapack.dtrtri(factor, lower=1)[0]
            whitened[place, :n] = inverse_factors[place, :n, :n] @ outputs
            all_outputs[place, n:] = factor[n:] @ whitened[place]
        alpha = np.einsum("sij,si->sj", inverse_factors, whitened)
        # (K + noise) alpha = y, so K alpha, the mean, is what is left of y without the noise's share.
        at_points = all_outputs - noises * alpha
        return cls(scales, amplitudes, points, inverse_factors, alpha, at_points)

    def spread(self, count: int) -> NDArray[np.intp]:
        """The places of `count` samples, or of all where there are fewer, evenly spread."""
        samples = len(self.alpha)
        return np.linspace(0, samples - 1, min(count, samples)).astype(np.intp)

    def thinned(self, count: int) -> Posterior:
        """The same with fewer samples."""
        return Posterior(*(getattr(self, each.name)[self.spread(count)] for each in fields(self)))

    def predict(self, u: Array) -> Prediction:
        """Predict M points, u of shape (M, C)."""
        step = max(1, CHUNK // max(self.alpha.size, self.scales.size))
        chunks = [self._predict(u[start : start + step]) for start in range(0, len(u), step)]
        means, variances_ = zip(*chunks, strict=True)
        return Prediction(np.concatenate(means, axis=1), np.concatenate(variances_, axis=1))

    def _predict(self, u: Array) -> tuple[Array, Array]:
        covariance, _ = self._covariance(u)
        mean = np.matmul(covariance, self.alpha[:, :, np.newaxis])[:, :, 0]
        whitened = np.matmul(covariance, np.swapaxes(self.inverse_factors, 1, 2))
        whitened *= whitened
        return mean, self._variance(whitened.sum(axis=2))

    def predict_with_gradient(self, u: Array) -> tuple[Prediction, Array, Array]:
        """Predict M points, and give the gradients of mean and variance by u: both of shape (S, M, C)."""
        covariance, squared = self._covariance(u)
        mean = np.matmul(covariance, self.alpha[:, :, np.newaxis])[:, :, 0]
        whitened = np.matmul(covariance, np.swapaxes(self.inverse_factors, 1, 2))
        variance = self._variance(np.einsum("smn,smn->sm", whitened, whitened))
        # dk/du_c = slope * 2 (u_c - U_c) / l_c^2, summed with weights over the n observations.
        slopes = 2.0 * self.amplitudes[:, np.newaxis, np.newaxis] * matern52_slope(squared)
        gradient_mean = self._weighted(u, slopes * self.alpha[:, np.newaxis, :])
        gradient_variance = self._weighted(u, -2.0 * slopes * np.matmul(whitened, self.inverse_factors))
        return Prediction(mean, variance), gradient_mean, gradient_variance

    def _covariance(self, u: Array) -> tuple[Array, Array]:
        """Covariances with the observations, and r^2: both of shape (S, M, n)."""
        squared = squared_distances(u * self.scales[:, np.newaxis, :], self.points)
        covariance = matern52(squared)
        covariance *= self.amplitudes[:, np.newaxis, np.newaxis]
        covariance += MEAN_VARIANCE
        return covariance, squared

    def _variance(self, explained: Array) -> Array:
        # Never quite zero: rounding leaves about so much where a point was observed without noise.
        prior = (self.amplitudes + MEAN_VARIANCE)[:, np.newaxis]
        return np.maximum(prior - explained, 1e-10 * prior)

    def _weighted(self, u: Array, weights: Array) -> Array:
        """sum_n weights[s, m, n] (u[m] - U[n]) / l^2 for each sample: shape (S, M, C)."""
        scaled = u * self.scales[:, np.newaxis, :]
        total = weights.sum(axis=2)[:, :, np.newaxis] * scaled - np.matmul(weights, self.points)
        return np.asarray(total * self.scales[:, np.newaxis, :])

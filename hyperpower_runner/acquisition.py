"""What a point is worth evaluating: expected improvement and the probability that a constraint holds, in logarithms.

Each term maps coordinates u, shape (M, C), to M logarithms, averaged over the S samples of its Gaussian process; terms
are multiplied by adding them. Logarithms, because EI and its gradient vanish to zero over most of the space (Ament et
al. 2023, arXiv 2310.20708). Lower is better: what is improved on is a threshold y+ from above (3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import erfcx, log_ndtr, ndtr

from hyperpower_runner.space import Array
from hyperpower_runner.surrogate.posterior import Posterior, Prediction

LOG_SQRT_2PI = 0.5 * np.log(2.0 * np.pi)
FEW = 4  # samples of a rough term


class Term(Protocol):
    """The logarithm of one factor of an acquisition function."""

    def __call__(self, u: Array) -> Array:
        """At M points, u of shape (M, C): shape (M,)."""
        ...

    def with_gradient(self, u: Array) -> tuple[Array, Array]:
        """The same, and its gradient by u, shape (M, C)."""
        ...

    def rough(self) -> Term:
        """The same averaged over a few of the samples, to choose among many points at a fraction of the cost."""
        ...


def log_improvement(z: Array) -> Array:
    """log h(z), h(z) = phi(z) + z Phi(z): the log EI of a standard normal variable below z, exact in the far tail."""
    return improvement(z)[0]


def improvement(z: Array) -> tuple[Array, Array, Array]:
    """log h(z) as in `log_improvement`, and Phi(z) / h(z) and phi(z) / h(z), of which its gradients are made."""
    z = np.asarray(z, dtype=np.float64)
    above, below = np.maximum(z, -1.0), np.minimum(z, -1.0)
    density = np.exp(-0.5 * above**2 - LOG_SQRT_2PI)
    near = density + above * ndtr(above)
    # h = phi (1 - |z| m), m = Phi / phi; the difference loses its digits beyond 100, where its series has them all.
    square, mills = below**-2.0, np.sqrt(0.5 * np.pi) * erfcx(-below / np.sqrt(2.0))
    series = square * (1.0 - square * (3.0 - square * (15.0 - 105.0 * square)))
    far = np.where(below < -100.0, series, 1.0 + below * mills)
    logs = np.where(z > -1.0, np.log(near), np.log(far) - 0.5 * below**2 - LOG_SQRT_2PI)
    return logs, np.where(z > -1.0, ndtr(above) / near, mills / far), np.where(z > -1.0, density / near, 1.0 / far)


def log_expected_improvement(mean: Array, variance: Array, threshold: Array) -> Array:
    """log EI(x) = log E[max(y+ - y, 0)] of y ~ N(mean, variance) (3.1), elementwise."""
    deviation = np.sqrt(variance)
    return np.asarray(log_improvement((threshold - mean) / deviation) + np.log(deviation))


@dataclass(frozen=True)
class ExpectedImprovement:
    """log of EI (3.1), averaged over samples. thresholds: y+ of each sample, shape (S,), in the posterior's outputs."""

    posterior: Posterior
    thresholds: Array

    def __call__(self, u: Array) -> Array:
        prediction = self.posterior.predict(u)
        return log_mean(log_expected_improvement(prediction.mean, prediction.variance, self.thresholds[:, np.newaxis]))

    def with_gradient(self, u: Array) -> tuple[Array, Array]:
        prediction, gradient_mean, gradient_variance = self.posterior.predict_with_gradient(u)
        deviation = np.sqrt(prediction.variance)
        z = (self.thresholds[:, np.newaxis] - prediction.mean) / deviation
        # d EI / d mean = -Phi(z) and d EI / d deviation = phi(z), divided by EI = deviation * h(z).
        logs, below, density = improvement(z)
        by_mean, by_variance = -below / deviation, density / (2.0 * prediction.variance)
        gradient = by_mean[..., np.newaxis] * gradient_mean + by_variance[..., np.newaxis] * gradient_variance
        return _averaged(logs + np.log(deviation), gradient)

    def rough(self) -> ExpectedImprovement:
        return ExpectedImprovement(self.posterior.thinned(FEW), self.thresholds[self.posterior.spread(FEW)])


@dataclass(frozen=True)
class ProbabilityBelow:
    """log Pr(g(x) <= bound) under a Gaussian process of g, averaged over its samples.

    With g the latent function of a constraint, this is the factor of CWEI (3.5); Pr(g0 - g >= 0) is the same.
    """

    posterior: Posterior
    bound: float

    def __call__(self, u: Array) -> Array:
        prediction = self.posterior.predict(u)
        return log_mean(log_ndtr(self._z(prediction)))

    def with_gradient(self, u: Array) -> tuple[Array, Array]:
        prediction, gradient_mean, gradient_variance = self.posterior.predict_with_gradient(u)
        deviation = np.sqrt(prediction.variance)
        z = self._z(prediction)
        logs = log_ndtr(z)
        slope = np.sqrt(2.0 / np.pi) / erfcx(-z / np.sqrt(2.0))  # phi / Phi
        by_mean, by_variance = -slope / deviation, -slope * z / (2.0 * prediction.variance)
        gradient = by_mean[..., np.newaxis] * gradient_mean + by_variance[..., np.newaxis] * gradient_variance
        return _averaged(logs, gradient)

    def _z(self, prediction: Prediction) -> Array:
        z = (self.bound - prediction.mean) / np.sqrt(prediction.variance)
        return np.asarray(np.clip(z, -1e30, 1e30))  # whose squares are finite

    def rough(self) -> ProbabilityBelow:
        return ProbabilityBelow(self.posterior.thinned(FEW), self.bound)


@dataclass(frozen=True)
class LowMean:
    """Minus the posterior mean, averaged over samples: its maximum is the point that the surrogate prefers."""

    posterior: Posterior

    def __call__(self, u: Array) -> Array:
        return np.asarray(-self.posterior.predict(u).mean.mean(axis=0))

    def with_gradient(self, u: Array) -> tuple[Array, Array]:
        prediction, gradient_mean, _ = self.posterior.predict_with_gradient(u)
        return -prediction.mean.mean(axis=0), -gradient_mean.mean(axis=0)

    def rough(self) -> LowMean:
        return LowMean(self.posterior.thinned(FEW))


@dataclass(frozen=True)
class Product:
    """The product of independent factors: the sum of their logarithms."""

    terms: Sequence[Term]

    def __call__(self, u: Array) -> Array:
        return np.asarray(sum(term(u) for term in self.terms))

    def with_gradient(self, u: Array) -> tuple[Array, Array]:
        values, gradients = zip(*(term.with_gradient(u) for term in self.terms), strict=True)
        return np.asarray(sum(values)), np.asarray(sum(gradients))

    def rough(self) -> Product:
        return Product([term.rough() for term in self.terms])


def log_mean(logs: Array) -> Array:
    """log of the mean over the S samples of exp(logs), logs of shape (S, M)."""
    highest = logs.max(axis=0)
    return np.asarray(highest + np.log(np.mean(np.exp(logs - highest), axis=0)))


def _averaged(logs: Array, gradients: Array) -> tuple[Array, Array]:
    """log_mean and its gradient, of logs, shape (S, M), and their gradients, shape (S, M, C)."""
    weights = np.exp(logs - logs.max(axis=0))
    weights /= weights.sum(axis=0)
    return log_mean(logs), np.einsum("sm,smc->mc", weights, gradients)

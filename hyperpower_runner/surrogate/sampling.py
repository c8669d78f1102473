"""Samples of the hyper-parameters' posterior: its maximum, a Laplace approximation there, and emcee from there on.

The ensemble starts from draws of the approximation, so that it has little way to go, and needs nothing of an earlier
suggestion: the samples are a function of the observations and the seed. How far they can be trusted is watched, and
reported with them (`Diagnostics`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import emcee
import numpy as np
from scipy import linalg, optimize

from hyperpower_runner.space import Array

MAP_ITERATIONS = 60
MAP_TOLERANCE = 1e-5  # of the log density, relative: sampling goes on from there
ROUNDS = 4  # of `steps` each, at most, until the ensemble stands still
ACCEPTANCE = (0.1, 0.9)  # between these, an ensemble moves as it should (Foreman-Mackey et al. 2013, section 4)
DEPTH = (0.1, 3.0)  # seen in fits of 1 to 100 outputs in 1 to 13 dimensions: 0.5 to 2.8
DRIFT = 3.0  # standard errors that the mean log density of the walkers may move in one round


class LogDensity(Protocol):
    """What is sampled; see `hyperparameters.Density`.

    bounds: of each element of theta; nothing is looked for outside.
    """

    @property
    def bounds(self) -> list[tuple[float, float]]: ...

    def __call__(self, thetas: Array) -> Array: ...

    def with_gradient(self, theta: Array) -> tuple[float, Array]: ...

    def information(self, theta: Array) -> Array: ...


@dataclass(frozen=True)
class Diagnostics:
    """How far samples can be trusted.

    acceptance: the fraction of proposed moves that were accepted.
    autocorrelation_steps: emcee's integrated autocorrelation time of the log density; a lower bound where the chain is
        shorter than some fifty times it.
    drift: by how many standard errors the walkers' mean log density moved in the last round.
    depth: by how much it lies below the maximum, over the P / 2 of a normal density; far from 1, the walkers
        were not where the density is, whether they move or not.
    """

    walkers: int
    steps: int
    acceptance: float
    autocorrelation_steps: float
    drift: float
    depth: float

    @property
    def converged(self) -> bool:
        """Whether the ensemble moves, stands still as a whole, and does so where the density is.

        The autocorrelation time is no part of it: chains are too short for it, but they begin near their end.
        """
        moving = ACCEPTANCE[0] <= self.acceptance <= ACCEPTANCE[1]
        return moving and abs(self.drift) <= DRIFT and DEPTH[0] <= self.depth <= DEPTH[1]

    def to_json(self) -> dict[str, Any]:
        return {
            "converged": self.converged,
            "walkers": self.walkers,
            "steps": self.steps,
            "acceptance": round(self.acceptance, 3),
            "autocorrelation_steps": round(self.autocorrelation_steps, 2),
            "drift": round(self.drift, 2),
            "depth": round(self.depth, 2),
        }


@dataclass(frozen=True)
class Samples:
    """theta, shape (S, P), their log densities, shape (S,), and the maximum that sampling began from, shape (P,)."""

    thetas: Array
    log_densities: Array
    maximum: Array
    diagnostics: Diagnostics


def maximise(density: LogDensity, start: Array) -> Array:
    """The theta of the highest density that L-BFGS-B finds from `start`, shape (P,), within its bounds."""

    def negative(theta: Array) -> tuple[float, Array]:
        value, gradient = density.with_gradient(theta)
        return (-value, -gradient) if np.isfinite(value) else (1e25, np.zeros_like(theta))

    found = optimize.minimize(
        negative, start, jac=True, method="L-BFGS-B", bounds=density.bounds,
        options={"maxiter": MAP_ITERATIONS, "ftol": MAP_TOLERANCE},
    )  # fmt: skip
    return np.asarray(found.x)


def laplace(information: Array, centre: Array, count: int, rng: np.random.Generator) -> Array:
    """Draws of N(centre, information^-1): shape (count, P)."""
    factor = linalg.cholesky(information, lower=True)
    steps = linalg.solve_triangular(factor, rng.standard_normal((len(centre), count)), lower=True, trans="T")
    return np.asarray(centre + steps.T)


def sample(density: LogDensity, start: Array, steps: int, rng: np.random.Generator) -> Samples:
    """Sample theta with the affine-invariant ensemble of emcee, all walkers at once.

    start: where the search for the maximum begins, shape (P,). steps: of one round; rounds are added until the ensemble
    stands still, at most `ROUNDS`.
    """
    maximum = maximise(density, start)
    walkers = 2 * (len(maximum) + 1)
    low, high = np.array(density.bounds).T
    positions = np.clip(laplace(density.information(maximum), maximum, walkers, rng), low, high)
    sampler = emcee.EnsembleSampler(walkers, len(maximum), _finite(density), vectorize=True)
    # emcee draws from numpy's older generator, which must be handed over as a state.
    generator = np.random.RandomState(np.random.MT19937(int(rng.integers(2**63))))
    state = emcee.State(positions, random_state=generator.get_state())
    diagnostics, highest = None, density.with_gradient(maximum)[0]
    for _ in range(ROUNDS):
        state = sampler.run_mcmc(state, steps, skip_initial_state_check=True)
        diagnostics = _diagnose(sampler, steps, highest)
        if diagnostics.converged:
            break
    assert diagnostics is not None
    return Samples(np.asarray(state.coords), np.asarray(state.log_prob), maximum, diagnostics)


def _finite(density: LogDensity) -> Callable[[Array], Array]:
    """Keep walkers within the bounds, where nothing overflows."""
    low, high = np.array(density.bounds).T

    def log_density(thetas: Array) -> Array:
        inside = np.all((thetas >= low) & (thetas <= high), axis=1)
        result = np.full(len(thetas), -np.inf)
        if inside.any():
            result[inside] = density(thetas[inside])
        return result

    return log_density


def _diagnose(sampler: emcee.EnsembleSampler, steps: int, highest: float) -> Diagnostics:
    chain = np.asarray(sampler.get_log_prob())
    half = len(chain) - steps // 2
    first, last = chain[len(chain) - steps : half].mean(axis=0), chain[half:].mean(axis=0)
    # Each walker against itself: the walkers are nearly independent, the steps of one are not.
    differences = last - first
    error = np.std(differences, ddof=1) / len(differences) ** 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        time = float(emcee.autocorr.integrated_time(chain[:, :, np.newaxis], tol=0, quiet=True)[0])
    return Diagnostics(
        walkers=chain.shape[1],
        steps=len(chain),
        acceptance=float(np.mean(sampler.acceptance_fraction)),
        autocorrelation_steps=time if np.isfinite(time) else float(len(chain)),
        drift=float(np.mean(differences) / error) if error > 0 else 0.0,
        depth=float(highest - np.mean(last)) / (0.5 * sampler.ndim),
    )

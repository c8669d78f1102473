"""What HW-IECI and HW-CWEI share: fit a Gaussian process to the history, and evaluate next where the gain is greatest.

    history -> Observations -> Surrogate of each metric that is learned
      -> factors: expected improvement, and probabilities that constraints hold, each averaged over MCMC samples
      -> the maximum of their product among points that are acceptable, and neither tried nor pending

The two differ in the factors of their constraints, which each states in its own module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from hyperpower_runner.acquisition import ExpectedImprovement, Product, Term
from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.maximisation import Maximisation, mutated
from hyperpower_runner.methods.candidates import Candidates
from hyperpower_runner.methods.fits import Fits, one_thread
from hyperpower_runner.methods.observations import Observations
from hyperpower_runner.methods.rand import Rand
from hyperpower_runner.space import Array
from hyperpower_runner.surrogate.embedding import Embedding
from hyperpower_runner.trial import History, Rejection, Suggestion

POOL = 512  # feasible points that the maximisation begins from
MOST_DRAWN = 1_000_000  # to find them
NEAR = 384  # more of them, around the best observations
BEST = 5  # of those
NEAR_STEPS = (0.3, 0.1, 0.03)
LISTED = 50_000  # a finite space of at most so many points is listed instead of drawn from

Feasible = Callable[[Array], NDArray[np.bool_]]


class Bayesian(ABC):
    """A method that proposes where expected improvement, times its constraints' factors, is highest."""

    def __init__(self, config: ExperimentConfig, models: HardwareModels) -> None:
        self.config = config
        self.space = config.space
        self.models = models
        self.embedding = Embedding(config.space)
        self.candidates = Candidates(config.space, models, config.hardware_limits)
        self.rand = Rand(config.space, models, config.hardware_limits)

    @property
    @abstractmethod
    def bounds(self) -> dict[str, float]:
        """The bounds that an observation must meet to be improved upon."""

    @property
    @abstractmethod
    def modelled(self) -> dict[str, float]:
        """Those of them that hardware models decide."""

    def model_factors(self, fits: Fits) -> list[Term]:
        """Factors of the constraints that hardware models decide, beside the exact indicators."""
        return []

    def suggest(self, history: History, rng: np.random.Generator) -> Suggestion:
        observations = Observations.of(history, self.space)
        if len(observations.trials) < self.config.initial_points:
            return self.rand.suggest(history, rng)
        with one_thread():
            fits = Fits(observations, self.embedding, self.config, rng)
            factors = self.factors(fits)
            if not factors:
                return self.rand.suggest(history, rng)
            tried = row_keys(observations.values)

            def feasible(values: Array) -> NDArray[np.bool_]:
                return self.candidates.acceptable(values) & ~repeated(values, tried)

            pool, rejection = self.pool(observations, feasible, rng)
            if not len(pool):
                return self.rand.suggest(history, rng)
            best, score = Maximisation(Product(factors), self.embedding, feasible).best(pool, rng)
        report = {**fits.to_json(), "log_acquisition": round(score, 4)}
        return Suggestion(self.space.to_params(best), self.models.predict_point(best), rejection, report)

    def factors(self, fits: Fits) -> list[Term]:
        """The factors of the acquisition function; none where nothing was learned yet."""
        improvement = self.improvement(fits)
        # While nothing is feasible, what was predicted to be is not: only measurements can tell where to go.
        learned = self.learned(fits.observations) if improvement is not None else self.bounds
        factors: list[Term] = [improvement] if improvement is not None else []
        factors += fits.risks(learned)
        return [*factors, *self.model_factors(fits)] if factors else []

    def learned(self, observations: Observations) -> dict[str, float]:
        """The bounds that measurements must teach: those without a model, and those whose model was proved wrong."""
        predictions = self.models.predict(observations.values)

        def is_learned(metric: str, bound: float) -> bool:
            if metric not in self.modelled:
                return True
            return bool(np.any(observations.exceeded(metric, bound) & (predictions[metric] <= bound)))

        return {metric: bound for metric, bound in self.bounds.items() if is_learned(metric, bound)}

    def improvement(self, fits: Fits) -> ExpectedImprovement | None:
        """EI below y+, the best feasible observation; None where none is feasible: feasibility comes first then."""
        observations = fits.observations
        feasible = observations.observed & observations.feasible(self.modelled)
        for metric in self.bounds.keys() - self.modelled.keys():
            measured = observations.measured(metric)
            if np.isfinite(measured).any():  # what nobody can tell cannot be sought
                feasible &= measured <= self.bounds[metric]
        if not feasible.any():
            return None
        _, posterior = fits.objective()
        # y+ is what the process believes of the best feasible observation: the best of noisy values is too good.
        # Pending points count, so that they are not proposed again for what their own fantasies promise.
        counting = np.ones(posterior.at_points.shape[1], dtype=bool)
        counting[: observations.observed.sum()] = feasible[observations.observed]
        return ExpectedImprovement(posterior, posterior.at_points[:, counting].min(axis=1))

    def pool(self, observations: Observations, feasible: Feasible, rng: np.random.Generator) -> tuple[Array, Rejection]:
        """Feasible points to begin from, shape (count, D): spread over the space, and around the best observations."""
        cardinality = self.space.cardinality
        if cardinality is not None and cardinality <= LISTED:
            chunks = iter(self.space.enumerate())
            everything, rejection = self.candidates.draw(lambda _: next(chunks), cardinality, cardinality)
            spread = everything[feasible(everything)]
            spread = spread[np.sort(rng.permutation(len(spread))[: POOL + NEAR])]
        else:
            spread, rejection = self.candidates.draw(self._propose(rng), POOL, MOST_DRAWN)
            spread = spread[feasible(spread)]
        best = np.argsort(np.where(observations.observed, observations.objective, np.inf), kind="stable")[:BEST]
        around = np.concatenate([observations.values[best], spread[:1]])
        near = np.concatenate([
            mutated(self.space, np.repeat(around, NEAR // len(NEAR_STEPS) // len(around), axis=0), step, rng)
            for step in NEAR_STEPS
        ])  # fmt: skip
        return np.concatenate([spread, near[feasible(near)]]), rejection

    def _propose(self, rng: np.random.Generator) -> Callable[[int], Array]:
        """The first points of a Sobol sequence, and then, for a small feasible set, uniform ones, which cost less."""
        sobol = qmc.Sobol(self.space.dimensions, rng=rng)

        def propose(count: int) -> Array:
            if sobol.num_generated == 0 and count <= POOL:
                return self.space.decode(np.asarray(sobol.random(count)))
            return self.space.sample(rng, count)

        return propose


def row_keys(values: Array) -> set[bytes]:
    """Equal for equal points, values of shape (n, D)."""
    return {row.tobytes() for row in np.ascontiguousarray(values)}


def repeated(values: Array, keys: set[bytes]) -> NDArray[np.bool_]:
    """Which of n points, values of shape (n, D), are among `keys`."""
    return np.array([row.tobytes() in keys for row in np.ascontiguousarray(values)], dtype=bool)

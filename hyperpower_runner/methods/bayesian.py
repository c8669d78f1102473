"""What HW-IECI and HW-CWEI share: fit a Gaussian process to the history, and evaluate next where the gain is greatest.

    history -> Observations -> Surrogate of each metric that is learned
      -> factors: expected improvement, and probabilities that constraints hold, each averaged over MCMC samples
      -> the maximum of their product among points that are acceptable, and neither tried nor pending

The two differ in the factors of their constraints, which each states in its own module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from hyperpower_runner.acquisition import ExpectedImprovement, Product, Term
from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.history import History
from hyperpower_runner.maximisation import Maximisation, mutated
from hyperpower_runner.methods.candidates import Candidates, Propose, repeated, row_keys
from hyperpower_runner.methods.fits import Fits, exact_and_quiet
from hyperpower_runner.methods.observations import Observations
from hyperpower_runner.methods.rand import Rand
from hyperpower_runner.space import Array
from hyperpower_runner.surrogate.embedding import Embedding
from hyperpower_runner.trial import Rejection, Suggestion

POOL = 512  # feasible points that the maximisation begins from
MOST_DRAWN = 1_000_000  # to find them
NEAR = 384  # more of them, around the best observations
BEST = 5  # of those
NEAR_STEPS = (0.3, 0.1, 0.03)
LISTED = 50_000  # a finite space of at most so many points is listed instead of drawn from


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
    def modelled(self) -> dict[str, float]:
        """Those of them that hardware models decide."""
        known = self.models.models if self.config.hardware_aware else {}
        return {metric: bound for metric, bound in self.bounds.items() if metric in known}

    def model_factors(self, fits: Fits) -> list[Term]:
        """Factors of the constraints that hardware models decide, beside the exact indicators."""
        return []

    def suggest(self, history: History, rng: np.random.Generator) -> Suggestion:
        observations = Observations.of(history, self.space)
        if len(observations.trials) < self.config.initial_points:
            return self.rand.suggest(history, rng)
        with exact_and_quiet():
            fits = Fits(observations, self.embedding, self.config, rng)
            factors = self.factors(fits)
            if not factors:
                return self.rand.suggest(history, rng)
            tried = row_keys(observations.values)
            pool, rejection = self.pool(observations, tried, rng)
            if not len(pool):
                return self.rand.suggest(history, rng)

            def feasible(values: Array) -> NDArray[np.bool_]:
                return self.candidates.acceptable(values) & ~repeated(values, tried)

            best, score = Maximisation(Product(factors), self.embedding, feasible).best(pool, rng)
        report = {**fits.to_json(), "log_acquisition": round(score, 4)}
        return Suggestion(self.space.to_params(best), self.models.predict_point(best), rejection, report)

    def factors(self, fits: Fits) -> list[Term]:
        """The factors of the acquisition function; none where nothing was learned yet."""
        feasible = self.feasible(fits.observations)
        # While nothing is feasible, what was predicted to be is not: only measurements can tell where to go.
        factors = fits.risks(self.learned(fits.observations) if feasible.any() else self.bounds)
        if feasible.any():
            factors = [self.improvement(fits, feasible, factors), *factors]
        return [*factors, *self.model_factors(fits)] if factors else []

    def learned(self, observations: Observations) -> dict[str, float]:
        """The bounds that measurements must teach: those without a model, and those whose model went wrong.

        That is where a job was predicted within a budget and measured above it, by more than the model was ever wrong
        about a structure left out of its fit. Lesser excesses are what it says of itself; margins answer for them.
        """
        predictions = self.models.predict(observations.values)

        def is_learned(metric: str, bound: float) -> bool:
            if metric not in self.modelled:
                return True
            predicted = predictions[metric]
            with np.errstate(over="ignore"):  # a models file may hold anything
                usual = np.maximum(bound, self.models.largest_ratio(metric) * predicted)
            return bool(np.any(observations.exceeded(metric, usual) & (predicted <= bound)))

        return {metric: bound for metric, bound in self.bounds.items() if is_learned(metric, bound)}

    def feasible(self, observations: Observations) -> NDArray[np.bool_]:
        """Which observations are feasible, measured or else predicted: booleans of shape (n,)."""
        predictions = self.models.predict(observations.values)
        result = observations.observed.copy()
        for metric, bound in self.bounds.items():
            values = observations.measured(metric)
            if metric in self.modelled:
                values = np.where(observations.has(metric), values, predictions[metric])
            elif not np.isfinite(values).any():
                continue  # what nobody can tell cannot be sought
            result &= values <= bound
        return np.asarray(result)

    def improvement(self, fits: Fits, feasible: NDArray[np.bool_], risks: Sequence[Term]) -> ExpectedImprovement:
        """EI below y+, the process's mean at the best feasible observation: a noisy value is too good.

        Pending points that are more likely feasible than not count too, lest they be proposed again for what their own
        fantasies promise.
        """
        observed, pending = fits.observations.observed, fits.u[fits.observations.pending]
        _, posterior = fits.objective()
        counting = np.concatenate([feasible[observed], likely(risks, pending)])
        return ExpectedImprovement(posterior, posterior.at_points[:, counting].min(axis=1))

    def pool(
        self, observations: Observations, tried: frozenset[bytes], rng: np.random.Generator
    ) -> tuple[Array, Rejection]:
        """Acceptable points to begin from, shape (count, D): spread over the space, and around the best observations.

        tried: the keys of points that may not be among them.
        """
        cardinality = self.space.cardinality
        if cardinality is not None and cardinality <= LISTED:
            listed = np.concatenate(list(self.space.enumerate()))
            propose, wanted, most = _from_list(listed[rng.permutation(cardinality)]), POOL + NEAR, cardinality
        else:
            propose, wanted, most = self._from_space(rng), POOL, MOST_DRAWN
        spread, rejection = self.candidates.draw(propose, wanted, most, tried)
        best = np.argsort(np.where(observations.observed, observations.objective, np.inf), kind="stable")[:BEST]
        around = np.concatenate([observations.values[best], spread[:1]])
        near = np.concatenate([
            mutated(self.space, np.repeat(around, NEAR // len(NEAR_STEPS) // len(around), axis=0), step, rng)
            for step in NEAR_STEPS
        ])  # fmt: skip
        near = near[self.candidates.acceptable(near)]
        return np.concatenate([spread, near[~repeated(near, tried)]]), rejection

    def _from_space(self, rng: np.random.Generator) -> Propose:
        """The first points of a Sobol sequence, and then, for a small feasible set, uniform ones, which cost less."""
        sobol = qmc.Sobol(self.space.dimensions, rng=rng)

        def propose(count: int) -> Array:
            if sobol.num_generated == 0 and count <= POOL:
                return self.space.decode(np.asarray(sobol.random(count)))
            return self.space.sample(rng, count)

        return propose


def _from_list(values: Array) -> Propose:
    begin = 0

    def propose(count: int) -> Array:
        nonlocal begin
        begin += count
        return values[begin - count : begin]

    return propose


def likely(risks: Sequence[Term], u: Array) -> NDArray[np.bool_]:
    """Where each of the probabilities that `risks` stand for is at least one half: booleans of shape (n,)."""
    result = np.ones(len(u), dtype=bool)
    for risk in risks if len(u) else ():
        result &= risk(u) >= np.log(0.5)
    return result

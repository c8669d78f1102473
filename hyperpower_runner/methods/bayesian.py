"""What HW-IECI and HW-CWEI share: fit a Gaussian process to the history, and evaluate next where the gain is greatest.

    history -> Observations -> Surrogate of each metric that is learned
      -> factors: expected improvement, and probabilities that constraints hold, each averaged over MCMC samples
      -> the maximum of their product among points that are acceptable, and neither tried nor pending

The two differ in the factors of their constraints, which each states in its own module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc
from threadpoolctl import threadpool_limits

from hyperpower_runner.acquisition import ExpectedImprovement, ProbabilityBelow, Product, Term
from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.maximisation import Maximisation, mutated
from hyperpower_runner.methods.candidates import Candidates
from hyperpower_runner.methods.observations import Observations
from hyperpower_runner.methods.rand import Rand
from hyperpower_runner.space import Array
from hyperpower_runner.surrogate import Surrogate, fit
from hyperpower_runner.surrogate.embedding import Embedding
from hyperpower_runner.surrogate.outputs import Outputs
from hyperpower_runner.surrogate.posterior import Posterior
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
    def learned(self) -> dict[str, float]:
        """The bounds that hold only as far as measurements have taught: a Gaussian process learns each metric."""

    def constraint_factors(self, observations: Observations, fits: Fits) -> list[Term]:
        """Factors of constraints that hardware models predict."""
        return []

    def suggest(self, history: History, rng: np.random.Generator) -> Suggestion:
        observations = Observations.of(history, self.space)
        if len(observations.trials) < self.config.initial_points:
            return self.rand.suggest(history, rng)
        # One thread: others would take cores from the jobs, and could round otherwise.
        with threadpool_limits(1, "blas"):
            fits = Fits(observations, self.embedding, rng)
            factors = self.factors(observations, fits)
            if not factors:
                return self.rand.suggest(history, rng)
            tried = row_keys(observations.values)

            def feasible(values: Array) -> NDArray[np.bool_]:
                return self.candidates.acceptable(values) & ~repeated(values, tried)

            pool, rejection = self.pool(observations, feasible, rng)
            if not len(pool):
                return self.rand.suggest(history, rng)
            best, score = Maximisation(Product(factors), self.embedding, feasible).best(pool, rng)
        predictions = self.models.predict(best[np.newaxis])
        return Suggestion(
            self.space.to_params(best),
            {metric: float(column[0]) for metric, column in predictions.items()},
            rejection,
            {**fits.to_json(), "log_acquisition": round(score, 4)},
        )

    def factors(self, observations: Observations, fits: Fits) -> list[Term]:
        """The factors of the acquisition function; none where nothing was learned yet."""
        improvement = self.improvement(observations, fits)
        if improvement is not None:
            return [improvement, *self.risks(fits, self.learned), *self.constraint_factors(observations, fits)]
        # What was predicted to be feasible was not: only measurements can tell where to go.
        return [*self.risks(fits, {**self.bounds, **self.learned}), *self.constraint_factors(observations, fits)]

    def risks(self, fits: Fits, learned: Mapping[str, float]) -> list[Term]:
        """The probabilities of what only trials can teach: that a training converges, and that learned bounds hold."""
        observations, factors = fits.observations, list[Term]()
        if observations.diverged.any():
            factors.append(fits.convergence())
        for metric, bound in learned.items():
            if np.isfinite(observations.measured(metric)).any():
                factors.append(fits.below(metric, observations.measured(metric), bound))
        return factors

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds that an observation must meet to be improved upon."""
        limits = self.config.hardware_limits
        return {metric: bound for metric, bound in limits.items() if metric != self.config.optimize}

    def improvement(self, observations: Observations, fits: Fits) -> ExpectedImprovement | None:
        """EI below y+, the best feasible observation; None where none is feasible: feasibility comes first then."""
        observed = observations.observed
        feasible = observations.feasible({**self.bounds, **self.learned})[observed]
        if not feasible.any():
            return None
        _, posterior = fits.objective(self.config)
        # y+ is what the process believes of the best feasible observation: the best of noisy values is too good.
        # Pending points count, so that they are not proposed again for what their own fantasies promise.
        pending = np.ones(posterior.at_points.shape[1] - len(feasible), dtype=bool)
        return ExpectedImprovement(posterior, posterior.at_points[:, np.concatenate([feasible, pending])].min(axis=1))

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


@dataclass
class Fits:
    """Fits surrogates to observations, and keeps how far each can be trusted."""

    observations: Observations
    embedding: Embedding
    rng: np.random.Generator
    diagnostics: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.u = self.embedding(self.observations.values)

    def surrogate(self, name: str, where: NDArray[np.bool_], outputs: Array, noiseless: bool = False) -> Surrogate:
        """Fit standardised outputs at the observations `where`; jobs that are pending enter as fantasies."""
        pending = self.u[self.observations.pending & ~where]
        surrogate = fit(
            self.u[where], self.embedding.groups, outputs, self.rng, noiseless, pending if len(pending) else None
        )
        self.diagnostics[name] = surrogate.diagnostics.to_json()
        return surrogate

    def objective(self, config: ExperimentConfig) -> tuple[Outputs, Posterior]:
        """The process of the metric to minimise, and the scale of its outputs."""
        observed = self.observations.observed
        values = self.observations.objective[observed]
        outputs = Outputs.of(values)
        fitted = self.surrogate(config.optimize, observed, outputs.transform(values), config.noiseless)
        return outputs, fitted.posterior

    def convergence(self) -> ProbabilityBelow:
        """The probability of converging: a process of -1 where trainings did, and +1 where not, is below 0."""
        diverged = self.observations.diverged
        ended = self.observations.observed | diverged
        labels = np.where(diverged[ended], 1.0, -1.0)
        return ProbabilityBelow(self.surrogate("converging", ended, labels).posterior, 0.0)

    def below(self, metric: str, values: Array, bound: float, noiseless: bool = False) -> ProbabilityBelow:
        """Pr(metric <= bound), learned from values, shape (n,), NaN where there is none."""
        known = np.isfinite(values)
        centre, scale = values[known].mean(), values[known].std()
        scale = scale if scale > 0.0 else max(abs(centre), abs(bound - centre), 1e-300)
        posterior = self.surrogate(metric, known, (values[known] - centre) / scale, noiseless).posterior
        return ProbabilityBelow(posterior, float((bound - centre) / scale))

    def to_json(self) -> dict[str, Any]:
        """For job.json: whether all samplings converged, and each one's diagnostics."""
        return {
            "observations": int(self.observations.observed.sum()),
            "converged": all(diagnostics["converged"] for diagnostics in self.diagnostics.values()),
            "processes": self.diagnostics,
        }


def row_keys(values: Array) -> set[bytes]:
    """Equal for equal points, values of shape (n, D)."""
    return {row.tobytes() for row in np.ascontiguousarray(values)}


def repeated(values: Array, keys: set[bytes]) -> NDArray[np.bool_]:
    """Which of n points, values of shape (n, D), are among `keys`."""
    return np.array([row.tobytes() in keys for row in np.ascontiguousarray(values)], dtype=bool)

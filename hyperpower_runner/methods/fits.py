"""The surrogates that one suggestion needs, each fitted to the observations that tell of it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from hyperpower_runner.acquisition import ProbabilityBelow, Term
from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.methods.observations import Observations
from hyperpower_runner.space import Array
from hyperpower_runner.surrogate import MOST_SAMPLED, Surrogate, fit
from hyperpower_runner.surrogate.embedding import Embedding
from hyperpower_runner.surrogate.outputs import Outputs
from hyperpower_runner.surrogate.posterior import Posterior


@dataclass
class Fits:
    """Fits surrogates to observations, and keeps how far each can be trusted."""

    observations: Observations
    embedding: Embedding
    config: ExperimentConfig
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

    def objective(self) -> tuple[Outputs, Posterior]:
        """The process of the metric to minimise, and the scale of its outputs."""
        observed = self.observations.observed
        values = self.observations.objective[observed]
        outputs = Outputs.of(values)
        fitted = self.surrogate(self.config.optimize, observed, outputs.transform(values), self.config.noiseless)
        return outputs, fitted.posterior

    def risks(self, learned: Mapping[str, float]) -> list[Term]:
        """The probabilities of what only trials can teach: that a training converges, and that learned bounds hold."""
        factors: list[Term] = [self.convergence()] if self.observations.diverged.any() else []
        for metric, bound in learned.items():
            values = self.observations.measured(metric)
            known = np.isfinite(values)
            if known.any():
                factors.append(self.below(metric, values, bound, Outputs.of(values[known])))
        return factors

    def convergence(self) -> ProbabilityBelow:
        """The probability of converging: a process of -1 where trainings did, and +1 where not, is below 0."""
        diverged = self.observations.diverged
        ended = self.observations.observed | diverged
        labels = np.where(diverged[ended], 1.0, -1.0)
        return ProbabilityBelow(self.surrogate("converging", ended, labels).posterior, 0.0)

    def predicted_below(self, metric: str, values: Array, bound: float) -> ProbabilityBelow:
        """Pr(metric <= bound), given by a hardware model, which is a function: known without noise at every point.

        values: its predictions at the observations, shape (n,). `MOST_SAMPLED` of them describe it well enough.
        """
        known = np.full(len(values), np.nan)
        places = np.linspace(0, len(values) - 1, min(len(values), MOST_SAMPLED)).astype(np.intp)
        known[places] = values[places]
        return self.below(f"predicted {metric}", known, bound, Outputs.of(values, np.inf), noiseless=True)

    def below(
        self, name: str, values: Array, bound: float, outputs: Outputs, noiseless: bool = False
    ) -> ProbabilityBelow:
        """Pr(metric <= bound), learned from values, shape (n,), NaN where there is none."""
        known = np.isfinite(values)
        posterior = self.surrogate(name, known, outputs.transform(values[known]), noiseless).posterior
        return ProbabilityBelow(posterior, float(outputs.transform(np.array(bound))))

    @property
    def converged(self) -> bool:
        return all(diagnostics["converged"] for diagnostics in self.diagnostics.values())

    def to_json(self) -> dict[str, Any]:
        """For job.json: whether all samplings converged, and each one's diagnostics."""
        return {
            "observations": int(self.observations.observed.sum()),
            "converged": self.converged,
            "processes": self.diagnostics,
        }


@contextmanager
def exact_and_quiet() -> Iterator[None]:
    """Linear algebra on one thread, whatever the caller has set for it and for underflow.

    More threads would take cores from the jobs, and could round otherwise. The limit is the process's, so only one
    suggestion at a time is made.
    """
    with _LOCK, _threads().limit(limits=1, user_api="blas"), np.errstate(under="ignore"):
        yield


_LOCK = threading.Lock()


@functools.cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()

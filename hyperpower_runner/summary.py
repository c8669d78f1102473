"""What a search has come to: counts, violations, elapsed time, and the incumbent, computed from its history.

Pure: it reads no file and no clock, and prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.history import History
from hyperpower_runner.trial import ENDED, Recommendation, Status, Trial

LONGEST_SPAN_S = 100 * 24 * 3600.0


def elapsed_s(spans: Iterable[tuple[float, float]]) -> float:
    """How long a search has worked, in seconds: the time covered by spans (begin, end), pauses left out.

    Where a clock was set in the middle of a job, its span says nothing: one that ends before it began, or lasts longer
    than jobs do, as where a device woke up in 1970, counts 0.
    """
    total, covered_until = 0.0, float("-inf")
    for begin, end in sorted(span for span in spans if 0 <= span[1] - span[0] <= LONGEST_SPAN_S):
        total += max(0.0, end - max(begin, covered_until))
        covered_until = max(covered_until, end)
    return total


def violations(history: Iterable[Trial], constraints: Mapping[str, float]) -> dict[str, int]:
    """How many jobs were started although a budget was predicted to be exceeded, and how many measured above one."""

    def exceeds(values: Mapping[str, float | None]) -> bool:
        found = ((values.get(metric), bound) for metric, bound in constraints.items())
        return any(value is not None and value > bound for value, bound in found)

    trials = list(history) if constraints else []
    return {
        "predicted": sum(exceeds(trial.job.predictions) for trial in trials),
        "measured": sum(exceeds(trial.metrics) for trial in trials),
    }


def unmeasured(history: Iterable[Trial], constraints: Mapping[str, float]) -> int:
    """How many completed jobs were not measured in some constrained metric: no violation of theirs can be seen."""
    completed = (trial for trial in history if trial.objective is not None) if constraints else ()
    return sum(any(trial.metrics.get(metric) is None for metric in constraints) for trial in completed)


@dataclass(frozen=True)
class Summary:
    """One look at a search.

    unfinished: pending and running jobs, with their status.
    """

    config: ExperimentConfig
    history: History
    unfinished: Mapping[int, Status]
    rejected: int
    elapsed_s: float

    @property
    def counts(self) -> dict[str, int]:
        """Jobs by status, and the candidates that never ran."""
        counts = {status.value: self.history.counts.get(status, 0) for status in ENDED}
        running = sum(status is Status.RUNNING for status in self.unfinished.values())
        return {"pending": len(self.unfinished) - running, "running": running, **counts, "rejected": self.rejected}

    @property
    def best(self) -> Trial | None:
        """The incumbent: the best completed trial within every budget."""
        return self.history.best(self.config.constraints)

    @property
    def violations(self) -> dict[str, int]:
        return violations(self.history, self.config.constraints)

    @property
    def surrogate(self) -> dict[str, int]:
        """How many jobs a Gaussian process proposed, and for how many its sampling had not converged."""
        fits = [trial.job.surrogate for trial in self.history if trial.job.surrogate]
        return {"fitted": len(fits), "not_converged": sum(fit.get("converged") is False for fit in fits)}

    def to_json(self) -> dict[str, Any]:
        """The object that `status --json` prints."""
        best = self.best
        return {
            "counts": self.counts,
            "best": best_json(best) if best else None,
            "violations": self.violations,
            "unmeasured": unmeasured(self.history, self.config.constraints),
            "surrogate": self.surrogate,
            "elapsed_s": round(self.elapsed_s, 3),
            "budget": {"evaluations": self.config.evaluations, "hours": self.config.hours},
            "method": self.config.method,
            "hardware_aware": self.config.hardware_aware,
            "optimize": self.config.optimize,
            "platform": dict(self.config.platform),
            "simulated": self.config.simulated,
            "experiment_name": self.config.name,
        }


def best_json(trial: Trial) -> dict[str, Any]:
    """The incumbent, as `best --json` and `status --json` print it."""
    return {
        "job_id": trial.job.job_id,
        "params": trial.job.params,
        "metrics": trial.metrics,
        "predictions": trial.job.predictions,
    }


def preferred_json(recommendation: Recommendation | None) -> dict[str, Any] | None:
    """What `best --json` prints as "preferred": params, expected, low, high, predictions, job_id; or null."""
    return asdict(recommendation) if recommendation else None

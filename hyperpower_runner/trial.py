"""What is known of evaluations: jobs and their results; pure, frozen data.

It knows neither files nor processes. `params` are one point of the search space in natural units; times are seconds
since the epoch. A metric that was not measured is `None` and never counts as feasible. Of the names that each of
100,000 jobs has in its file, memory holds one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

Params = dict[str, Any]
# Of the fields that are there: those that are no numbers, or may be left empty.
JOB_TYPES: tuple[tuple[str, type], ...] = (
    *(("id", int), ("metric", str), ("command", list), ("extrapolated", list)),
    *((name, dict) for name in ("params", "env", "predictions", "surrogate", "platform")),
)
RESULT_TYPES: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    *(("metrics", dict), ("extra", dict), ("host", str)),
    *(("reason", (str, type(None))), ("exit_code", (int, type(None)))),
)
LARGEST_INT = 2**53  # up to which floats are exact; a larger one becomes a float, which all arithmetic takes

PROFILE = "profile"  # the task of a job that runs its network for a meter, instead of training it


class Status(str, Enum):
    """Where a job stands. The first two are derived from what exists on disk; the others are in its result."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    TERMINATED = "terminated"  # early: the training diverged (3.2)
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    LOST = "lost"  # its machine or worker vanished, and so did every retry
    CANCELLED = "cancelled"

    @property
    def is_failure(self) -> bool:
        """True where the evaluation gave nothing although nobody asked it to end."""
        return self in (Status.FAILED, Status.TIMED_OUT, Status.LOST)


ENDED = tuple(status for status in Status if status not in (Status.PENDING, Status.RUNNING))


@dataclass(frozen=True, slots=True)
class Job:
    """One evaluation as the driver asked for it; the content of job.json.

    metric: the metric that the search minimises and the objective must report.
    predictions: what the hardware models said of `params`, by metric.
    surrogate: how the Gaussian process that proposed `params` was fitted, empty where none was.
    command: the words that start the objective, to which the path of job.json is added; env: what they find set.
    stopping_rule: a `StoppingRule` in JSON form, or None for no early termination.
    extrapolated: the metrics whose prediction rests on no profiled structure like this one.
    platform: the device that budgets are about ("meter", "batch-size", "dtype", ...), as in config.json.
    measure: whether the network is measured on it once its training has completed.
    seconds, warm_up_steps, window_s: of the task "profile": for how long to run the inference step, how often at least,
        and how many of the seconds, at their end, are the window that counts.
    created_s: when the driver began to look for `params`; deadline: when the search's budget of hours ends, or None.
    """

    job_id: int
    params: Params
    seed: int
    command: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    metric: str = "error"
    task: str = "evaluate"
    epochs: int | None = None
    threads: int | None = None
    timeout_s: float | None = None
    deadline: float | None = None
    stopping_rule: dict[str, Any] | None = None
    predictions: dict[str, float] = field(default_factory=dict)
    extrapolated: list[str] = field(default_factory=list)
    surrogate: dict[str, Any] = field(default_factory=dict)
    platform: dict[str, Any] = field(default_factory=dict)
    measure: bool = False
    seconds: float | None = None
    warm_up_steps: int | None = None
    window_s: float | None = None
    created_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        content = {
            "id": self.job_id,
            "task": self.task,
            "params": self.params,
            "seed": self.seed,
            "command": self.command,
            "env": self.env,
            "metric": self.metric,
            "epochs": self.epochs,
            "threads": self.threads,
            "timeout_s": self.timeout_s,
            "deadline": self.deadline,
            "stopping_rule": self.stopping_rule,
            "predictions": self.predictions,
            "extrapolated": self.extrapolated,
            "surrogate": self.surrogate,
            "platform": self.platform,
            "measure": self.measure,
            "created_s": self.created_s,
        }
        if self.task == PROFILE:
            content.update(seconds=self.seconds, warm_up_steps=self.warm_up_steps, window_s=self.window_s)
        return content

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """Read the content of a job.json; raises KeyError or TypeError where it is none."""
        known = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        _check_types(data, JOB_TYPES)
        if not all(isinstance(name, str) for name in data.get("extrapolated", ())):
            raise TypeError(f"extrapolated is {data['extrapolated']!r}")
        known["params"] = {sys.intern(name): value for name, value in data["params"].items()}
        known["created_s"] = _number(data.get("created_s", 0.0))
        known["predictions"] = {sys.intern(name): _number(value) for name, value in data.get("predictions", {}).items()}
        return cls(job_id=data["id"], **known)


@dataclass(frozen=True, slots=True)
class Result:
    """How a job ended; the content of result.json.

    metrics: numbers by name, None where one was not measured; extra: whatever else the script reported.
    epoch: the last epoch reported, or the one after which the training was stopped.
    """

    status: Status
    metrics: dict[str, float | None] = field(default_factory=dict)
    reason: str | None = None
    epoch: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    started_s: float = 0.0
    ended_s: float = 0.0
    host: str = ""
    exit_code: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.status.value,
            "metrics": self.metrics,
            "reason": self.reason,
            "epoch": self.epoch,
            "extra": self.extra,
            "started_s": self.started_s,
            "ended_s": self.ended_s,
            "host": self.host,
            "exit_code": self.exit_code,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """Read the content of a result.json; raises KeyError, TypeError or ValueError where it is none."""
        known = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        _check_types(data, RESULT_TYPES)
        known["status"] = Status(data["status"])
        known["metrics"] = {sys.intern(name): _number_or_none(value) for name, value in data.get("metrics", {}).items()}
        known["epoch"] = _number_or_none(data.get("epoch"))
        known["started_s"], known["ended_s"] = _number(data.get("started_s", 0.0)), _number(data.get("ended_s", 0.0))
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Rejection:
    """What the hardware models discarded while one job was looked for: how many candidates, and the first of them.

    first: {"params": ..., "predictions": ...} of each.
    """

    discarded: int = 0
    first: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What a method proposes to evaluate next.

    surrogate: how the Gaussian process behind it was fitted, and how far its sampling can be trusted.
    """

    params: Params
    predictions: dict[str, float] = field(default_factory=dict)
    rejection: Rejection = Rejection()
    surrogate: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The point that the surrogate's posterior mean prefers among all feasible ones, tried or not.

    expected: what the surrogate expects the objective to be there, in its unit; low, high: the borders between which it
        expects it to be with a probability of 90 %.
    job_id: the trial that had these params, or None where none had.
    converged: whether the sampling of the hyper-parameters behind it had.
    """

    params: Params
    expected: float
    low: float
    high: float
    predictions: dict[str, float] = field(default_factory=dict)
    job_id: int | None = None
    converged: bool = True


def _number(value: object) -> float:
    """Read a number of a file, which has no literal for the ones that are not finite."""
    if type(value) is float or (type(value) is int and -LARGEST_INT <= value <= LARGEST_INT):
        return value
    if type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(str(value))
    raise TypeError(f"{value!r} is not a number")


def _number_or_none(value: object) -> float | None:
    return None if value is None else _number(value)


def _check_types(data: Mapping[str, Any], types: tuple[tuple[str, type | tuple[type, ...]], ...]) -> None:
    for name, kind in types:
        if name in data and not isinstance(data[name], kind):
            raise TypeError(f"{name} is {data[name]!r}")


def params_text(params: Params) -> str:
    """Equal for equal params, whatever the order of their names."""
    return repr(sorted(params.items()))


def params_key(params: Params) -> bytes:
    """Likewise, in sixteen bytes: a history keeps one for each of its trials."""
    from hashlib import blake2b  # here, because workers import this module and must start fast

    return blake2b(params_text(params).encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Trial:
    """A job with its result, or without one while it is pending or running.

    hindsight: what the hardware models at hand predict, which may have been fitted after the job had started. It helps
        to judge the job, but the job was not chosen by it.
    known_key: the key of the job's params, where it was made before.
    """

    job: Job
    result: Result | None = None
    hindsight: Mapping[str, float] = field(default_factory=dict)
    known_key: bytes = field(default=b"", repr=False, compare=False)

    @property
    def key(self) -> bytes:
        return self.known_key or params_key(self.job.params)

    @property
    def job_id(self) -> int:
        return self.job.job_id

    @property
    def params(self) -> Params:
        return self.job.params

    @property
    def ended(self) -> bool:
        return self.result is not None

    @property
    def metrics(self) -> dict[str, float | None]:
        return self.result.metrics if self.result else {}

    @property
    def objective(self) -> float | None:
        """The metric to minimise, where the evaluation ran to its end and reported a finite one."""
        if self.result is None or self.result.status is not Status.COMPLETED:
            return None
        value = self.result.metrics.get(self.job.metric)
        return value if value is not None and math.isfinite(value) else None

    def predicted(self, metric: str) -> float | None:
        """What the models at hand predict, or else those by which the job was chosen; None where none does."""
        return self.hindsight.get(metric, self.job.predictions.get(metric))

    def constrained_value(self, metric: str) -> float | None:
        """The measured value of a metric, else the predicted one (by the models at hand, if any), else None."""
        known = (values.get(metric) for values in (self.metrics, self.hindsight, self.job.predictions))
        return next((value for value in known if value is not None), None)

    def is_feasible(self, constraints: Mapping[str, float]) -> bool:
        """True where each constrained metric is known and at most its upper bound."""
        values = {metric: self.constrained_value(metric) for metric in constraints}
        return all(value is not None and value <= constraints[metric] for metric, value in values.items())

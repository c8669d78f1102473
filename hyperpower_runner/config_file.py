"""The form of config.json: its keys, their types and ranges, and the one sentence for what does not fit.

The classes mirror the file key by key; pydantic checks them and writes their JSON Schema. What the values mean together
is the business of `config`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, FiniteFloat, PositiveFloat, PositiveInt

from hyperpower_runner.errors import ConfigError, did_you_mean, shortened
from hyperpower_runner.hardware.measurement import Protocol
from hyperpower_runner.job_files import SCHEMA
from hyperpower_runner.stopping import StoppingRule

# What Spearmint knows and nothing here needs, with what its users should do.
SPEARMINT_ONLY = {
    "database": "nothing needs a database here, all is kept in files",
    "resources": 'use "scheduler" and "max-concurrent"',
    "chooser": 'use "method"',
}


class _File(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
        allow_inf_nan=False,
    )


class VariableFile(_File):
    """One entry of "variables"; Spearmint's keys, and "scale" and "structural"."""

    type: Literal["INT", "FLOAT", "ENUM"]
    size: Annotated[int, Field(ge=1, le=1000)] = 1
    min: FiniteFloat | None = None
    max: FiniteFloat | None = None
    options: list[str | bool | int | FiniteFloat] | None = None
    scale: Literal["linear", "log"] = "linear"
    structural: bool | None = None


class ObjectiveFile(_File):
    """How the objective is started: any command, in the experiment directory."""

    command: Annotated[list[str], Field(min_length=1)]
    env: dict[str, str] = {}
    epochs: PositiveInt | None = None


class BudgetFile(_File):
    """When a search ends, whichever is reached first."""

    evaluations: PositiveInt | None = None
    hours: Annotated[float, Field(gt=0, le=1_000_000)] | None = None


class EarlyTerminationFile(_File):
    """The stopping rule (3.2); see `stopping.StoppingRule`."""

    after_epochs: PositiveInt = StoppingRule.after_epochs
    classes: Annotated[int, Field(ge=2)] | None = StoppingRule.classes
    chance_margin: Annotated[float, Field(ge=0, lt=1)] = StoppingRule.chance_margin
    loss_fall: Annotated[float, Field(ge=0, lt=1)] = StoppingRule.loss_fall
    loss_factor: Annotated[float, Field(gt=1)] = StoppingRule.loss_factor


class PlatformFile(_File):
    """The device that budgets are about; hardware models of another one are refused.

    rail: the power rail to read, for the meter "jetson". trace: a file of recorded traces, for the meter "replay".
    measure_jobs: whether the network of each completed job is measured too.
    """

    meter: str | None = None
    device: Annotated[int, Field(ge=0)] | str | None = None
    batch_size: PositiveInt | None = None
    dtype: str | None = None
    rail: str | None = None
    trace: str | None = None
    measure_jobs: bool = True


class ConstraintFile(_File):
    """A bound with what is asked of the hardware model that predicts the metric; see `hardware.margins`."""

    max: FiniteFloat | str
    confidence: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    recalibrate: bool = False


class ProfilingFile(_File):
    """How structures are measured; see `hardware.measurement.Protocol`."""

    samples: PositiveInt = 100
    warm_up_s: Annotated[float, Field(gt=0)] = Protocol.warm_up_s
    warm_up_steps: Annotated[int, Field(ge=0)] = Protocol.warm_up_steps
    longest_warm_up_s: PositiveFloat = Protocol.longest_warm_up_s
    window_s: PositiveFloat = Protocol.window_s
    sample_hz: Annotated[float, Field(gt=0, le=1000)] = Protocol.sample_hz
    idle_s: PositiveFloat = Protocol.idle_s
    idle_every: PositiveInt = Protocol.idle_every
    reference_every: PositiveInt = Protocol.reference_every
    repeats: PositiveInt = Protocol.repeats
    most_repeats: PositiveInt = Protocol.most_repeats
    half_width: PositiveFloat = Protocol.half_width
    agreement: PositiveFloat = Protocol.agreement
    settled: PositiveFloat = Protocol.settled
    slope: PositiveFloat = Protocol.slope
    clock: PositiveFloat = Protocol.clock
    drift: PositiveFloat = Protocol.drift
    most_redos: Annotated[int, Field(ge=0)] = Protocol.most_redos


class TaskFile(_File):
    """One of Spearmint's "tasks"."""

    type: Literal["OBJECTIVE"] = "OBJECTIVE"
    likelihood: Literal["GAUSSIAN", "NOISELESS"] | None = None


class MethodArgsFile(_File):
    """What some methods can be told; see `config.ExperimentConfig`."""

    sigma_0: Annotated[float, Field(gt=0, le=1)] = 0.1
    initial_points: Annotated[int, Field(ge=1, le=10_000)] = 4


class ConfigFile(_File):
    """config.json as a whole."""

    schema_: Annotated[int, Field(alias="schema", ge=1)] = SCHEMA
    json_schema: Annotated[str, Field(alias="$schema")] = ""
    experiment_name: str | None = None
    language: Literal["PYTHON"] | None = None
    main_file: str | None = None
    objective: ObjectiveFile | None = None
    variables: Annotated[dict[str, VariableFile], Field(min_length=1)]
    optimize: str | None = None
    constraints: dict[str, FiniteFloat | str | ConstraintFile] = {}
    known_constraints: list[str] = []
    method: Literal["rand", "rand-walk", "hw-cwei", "hw-ieci"] = "hw-ieci"
    method_args: MethodArgsFile = MethodArgsFile()
    hardware_aware: bool = True
    early_termination: EarlyTerminationFile | Literal[False] = EarlyTerminationFile()
    budget: BudgetFile = BudgetFile()
    platform: PlatformFile = PlatformFile()
    profiling: ProfilingFile = ProfilingFile()
    tasks: dict[str, TaskFile] = {}
    likelihood: Literal["GAUSSIAN", "NOISELESS"] = "GAUSSIAN"
    scheduler: Literal["local", "slurm"] = "local"
    scheduler_args: dict[str, str | bool | int | FiniteFloat] | list[str] = {}
    max_concurrent: Annotated[int, Field(ge=1, le=10_000)] = 1
    max_finished_jobs: PositiveInt | None = None
    polling_time: PositiveFloat = 1.0
    timeout_s: PositiveFloat | None = None
    max_retries: Annotated[int, Field(ge=0)] = 2
    max_consecutive_failures: PositiveInt = 5
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


def load(text: str) -> dict[str, Any]:
    """Read the text of a config.json as a JSON object; raises ConfigError naming the line or the key."""
    try:
        content = json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1].strip()
        near = f' near "{line[:60]}"' if line else " (the file ends there)" if text.strip() else " (the file is empty)"
        raise ConfigError(f"line {error.lineno}, column {error.colno}: {error.msg}{near}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(error)) from None
    if not isinstance(content, dict):
        raise ConfigError(f"a JSON object was expected, found {type(content).__name__}")
    return content


def check(content: Mapping[str, Any]) -> ConfigFile:
    """Check the content of a config.json key by key; raises ConfigError with one sentence."""
    for key, advice in SPEARMINT_ONLY.items():
        if key in content:
            raise ConfigError(f'"{key}" is a key of Spearmint\'s: {advice}; delete the key')
    try:
        return ConfigFile.model_validate(content)
    except pydantic.ValidationError as error:
        raise ConfigError(_sentence(error, content)) from None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of config.json, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ConfigFile.model_json_schema(by_alias=True)}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f'the key "{key}" stands twice in the same object; keep one of them')
        content[key] = value
    return content


def _sentence(error: pydantic.ValidationError, content: Mapping[str, Any]) -> str:
    """Put the first of pydantic's findings into one sentence; misspelt keys come first, as the likeliest cause."""

    def likelihood(finding: Any) -> tuple[bool, int]:
        """Of the branches of a union, the one that leads deepest into what was written is the one that was meant."""
        return finding["type"] != "extra_forbidden", -len(_path(finding["loc"], content)) - (
            finding["type"] == "missing"
        )

    finding = min(error.errors(), key=likelihood)
    path = _path(finding["loc"], content)
    if finding["type"] == "missing":
        path.append(str(finding["loc"][-1]))
    where, found = ".".join(path) or "a key", finding["input"]
    if finding["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in _model_at(path[:-1]).model_fields.items()]
        inside = f" in {'.'.join(path[:-1])}" if len(path) > 1 else ""
        hint = did_you_mean(path[-1], known)
        return f'unknown key "{path[-1]}"{inside}{hint or "; allowed: " + ", ".join(sorted(known))}'
    if finding["type"] == "missing":
        return f'the key "{path[-1]}" is missing{" in " + ".".join(path[:-1]) if len(path) > 1 else ""}'
    allowed = _allowed(finding)
    hint = did_you_mean(found, re.findall(r"'([^']+)'", allowed)) if isinstance(found, str) else ""
    return f"{where} is {_shown(found)}, but must be {allowed}{hint}"


def _shown(value: object) -> str:
    """A value as it stands in the file; what only a dict of Python's can hold, as Python shows it."""
    try:
        return shortened(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return shortened(repr(value))


def _allowed(finding: Mapping[str, Any]) -> str:
    """What pydantic's message allows, in the words of JSON."""
    if finding["type"] == "too_short":
        return "filled: it is empty"
    if finding["type"] == "invalid_key":
        return "a string: keys are texts"
    allowed = re.sub(r"^Input should (be )?", "", finding["msg"])
    if "EarlyTerminationFile" in allowed:
        return "an object or false"
    allowed = re.sub(r"a valid dictionary( or instance of \w+)?", "an object", allowed)
    return allowed.replace("a valid ", "an " if "integer" in allowed else "a ")


def _path(location: tuple[int | str, ...], content: Any) -> list[str]:
    """The keys that lead to a finding: pydantic also names the branch of a union that it tried, which no user wrote."""
    path: list[str] = []
    for part in location:
        if part in content if isinstance(content, Mapping) else isinstance(content, list) and isinstance(part, int):
            content = content[part]
            path.append(str(part))
    return path


def _model_at(path: list[str]) -> type[_File]:
    """The model whose keys stand at a path of the file."""
    models: dict[str, type[_File]] = {
        "variables": VariableFile,
        "objective": ObjectiveFile,
        "budget": BudgetFile,
        "early-termination": EarlyTerminationFile,
        "platform": PlatformFile,
        "profiling": ProfilingFile,
        "constraints": ConstraintFile,
        "tasks": TaskFile,
        "method-args": MethodArgsFile,
    }
    return models.get(path[0], ConfigFile) if path else ConfigFile

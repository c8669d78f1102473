"""config.json: what it may say, and the one sentence for what it may not.

The classes `*File` mirror the file key by key; pydantic checks them and writes their JSON Schema. `parse` turns them
into an `ExperimentConfig`, which the rest of the package uses. It does not touch the disk, so whether a script exists
is checked elsewhere (`experiment`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, FiniteFloat, PositiveFloat, PositiveInt

from hyperpower_runner.errors import ConfigError, ExpressionError, did_you_mean, shortened
from hyperpower_runner.job_files import SCHEMA
from hyperpower_runner.space import Space, Variable, parse_constraints
from hyperpower_runner.stopping import StoppingRule

METHODS = ("rand", "rand-walk")  # hw-cwei and hw-ieci need the surrogate, which this version does not have
SCHEDULERS = ("local",)
LARGEST_INT = 2**31 - 1
LARGEST_FLOAT = 1e300  # so that the width of a range is finite

# What Spearmint knows and nothing here needs, with what its users should do.
SPEARMINT_ONLY = {
    "database": "nothing needs a database here, all is kept in files",
    "resources": 'use "scheduler" and "max-concurrent"',
    "chooser": 'use "method"',
}

# Units of a bound written as text, by the suffix of the metric's name, and their factor.
UNITS: dict[str, dict[str, float]] = {
    "_bytes": {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "_w": {"mW": 1e-3, "W": 1, "kW": 1e3},
    "_j": {"mJ": 1e-3, "J": 1, "kJ": 1e3, "Wh": 3600},
    "_s": {"ms": 1e-3, "s": 1, "min": 60, "h": 3600},
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
    """The device that budgets are about; hardware models of another one are refused."""

    meter: str | None = None
    device: int | str | None = None
    batch_size: PositiveInt | None = None
    dtype: str | None = None


class TaskFile(_File):
    """One of Spearmint's "tasks"."""

    type: Literal["OBJECTIVE"] = "OBJECTIVE"
    likelihood: str | None = None


class MethodArgsFile(_File):
    sigma_0: Annotated[float, Field(gt=0, le=1)] = 0.1


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
    constraints: dict[str, FiniteFloat | str] = {}
    known_constraints: list[str] = []
    method: Literal["rand", "rand-walk", "hw-cwei", "hw-ieci"] = "rand"
    method_args: MethodArgsFile = MethodArgsFile()
    hardware_aware: bool = True
    early_termination: EarlyTerminationFile | Literal[False] = EarlyTerminationFile()
    budget: BudgetFile = BudgetFile()
    platform: PlatformFile = PlatformFile()
    tasks: dict[str, TaskFile] = {}
    likelihood: Literal["GAUSSIAN", "NOISELESS"] = "GAUSSIAN"
    scheduler: Literal["local"] = "local"
    scheduler_args: dict[str, Any] = {}
    max_concurrent: Annotated[int, Field(ge=1, le=10_000)] = 1
    max_finished_jobs: PositiveInt | None = None
    polling_time: PositiveFloat = 1.0
    timeout_s: PositiveFloat | None = None
    max_retries: Annotated[int, Field(ge=0)] = 2
    max_consecutive_failures: PositiveInt = 5
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


@dataclass(frozen=True)
class ExperimentConfig:
    """A checked config.json.

    command: the words that start the objective, to which the path of job.json is added.
    constraints: upper bounds by metric, in the metric's unit.
    stopping_rule: None where early termination is off.
    evaluations, hours: the budget; None for no limit.
    sigma_0: the standard deviation of rand-walk's steps, in the unit cube (3.5).
    """

    name: str
    space: Space
    command: tuple[str, ...]
    env: Mapping[str, str]
    epochs: int | None
    optimize: str
    constraints: Mapping[str, float]
    method: str
    sigma_0: float
    hardware_aware: bool
    stopping_rule: StoppingRule | None
    evaluations: int | None
    hours: float | None
    platform: Mapping[str, Any]
    scheduler: str
    max_concurrent: int
    polling_time_s: float
    timeout_s: float | None
    max_retries: int
    max_consecutive_failures: int
    seed: int

    @property
    def hardware_limits(self) -> Mapping[str, float]:
        """The constraints that a method applies before anything runs: none when it is unaware of the hardware."""
        return self.constraints if self.hardware_aware else {}


def parse_text(text: str, where: str = "config.json") -> ExperimentConfig:
    """Parse the text of a config.json; raises ConfigError with one sentence that names `where`."""
    try:
        content = json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1].strip()
        near = f' near "{line[:60]}"' if line else " (the file ends there)" if text.strip() else " (the file is empty)"
        raise ConfigError(f"{where}: line {error.lineno}, column {error.colno}: {error.msg}{near}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: a JSON object was expected, found {type(content).__name__}")
    return parse(content, where)


def parse(content: Mapping[str, Any], where: str = "config.json") -> ExperimentConfig:
    """Check the content of a config.json; raises ConfigError with one sentence that names `where` and the key."""
    for key, advice in SPEARMINT_ONLY.items():
        if key in content:
            raise ConfigError(f'{where}: "{key}" is a key of Spearmint\'s: {advice}; delete the key')
    try:
        file = ConfigFile.model_validate(content)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(error, content)}") from None
    try:
        return _config(file)
    except (ConfigError, ExpressionError) as error:
        raise ConfigError(f"{where}: {error}") from None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of config.json, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ConfigFile.model_json_schema(by_alias=True)}


def _config(file: ConfigFile) -> ExperimentConfig:
    if file.schema_ > SCHEMA:
        raise ConfigError(f"schema is {file.schema_}, but this version knows numbers up to {SCHEMA}; use a newer one")
    if file.method not in METHODS:
        raise ConfigError(f'method is "{file.method}", which this version does not have yet; use {_listed(METHODS)}')
    variables = tuple(_variable(name, variable) for name, variable in file.variables.items())
    try:
        space = Space(variables, parse_constraints(file.known_constraints, variables))
    except ExpressionError as error:
        raise ExpressionError(f"known-constraints: {error}") from None
    optimize = _optimize(file)
    return ExperimentConfig(
        name=file.experiment_name or "",
        space=space,
        command=_command(file),
        env=dict(file.objective.env) if file.objective else {},
        epochs=file.objective.epochs if file.objective else None,
        optimize=optimize,
        constraints={metric: _bound(metric, value) for metric, value in file.constraints.items()},
        method=file.method,
        sigma_0=file.method_args.sigma_0,
        hardware_aware=file.hardware_aware,
        stopping_rule=StoppingRule(**file.early_termination.model_dump()) if file.early_termination else None,
        evaluations=_evaluations(file),
        hours=file.budget.hours,
        platform=file.platform.model_dump(by_alias=True, exclude_none=True),
        scheduler=file.scheduler,
        max_concurrent=file.max_concurrent,
        polling_time_s=file.polling_time,
        timeout_s=file.timeout_s,
        max_retries=file.max_retries,
        max_consecutive_failures=file.max_consecutive_failures,
        seed=file.seed,
    )


def _variable(name: str, file: VariableFile) -> Variable:
    where = f"variables.{name}"
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_\-. ]*", name):
        raise ConfigError(f'variables: the name "{name}" is not allowed; begin with a letter or "_"')
    structural = file.structural if file.structural is not None else file.type != "FLOAT"
    if file.type == "ENUM":
        for key in ("min", "max"):
            if getattr(file, key) is not None:
                raise ConfigError(f"{where}.{key}: an ENUM has options, not a range; delete the key")
        options = file.options or []
        if not options:
            raise ConfigError(f"{where}.options: an ENUM needs at least one option, found {options!r}")
        if len({(isinstance(option, bool), option) for option in options}) < len(options):  # 1 == 1.0
            raise ConfigError(f"{where}.options: an option stands there twice: {options!r}")
        if file.scale == "log":
            raise ConfigError(f'{where}.scale: an ENUM has no scale, found "log"; delete the key')
        return Variable(name, "ENUM", options=tuple(options), size=file.size, structural=structural)
    if file.options is not None:
        raise ConfigError(f'{where}.options: only an ENUM has options; use "min" and "max", or "type": "ENUM"')
    low, high = (_end(where, key, file) for key in ("min", "max"))
    if low > high:
        raise ConfigError(f"{where}.min is {low:g}, above max, which is {high:g}; swap them")
    if file.scale == "log" and low <= 0:
        raise ConfigError(f'{where}.min is {low:g}, but scale "log" needs a min above 0; raise it or use "linear"')
    return Variable(name, file.type, low, high, size=file.size, scale=file.scale, structural=structural)


def _end(where: str, key: str, file: VariableFile) -> float:
    value: float | None = getattr(file, key)
    if value is None:
        raise ConfigError(f"{where}.{key} is missing; {file.type} needs min and max")
    if file.type == "INT" and (value != int(value) or abs(value) > LARGEST_INT):
        raise ConfigError(f"{where}.{key} is {value!r}, but an INT needs an integer of at most {LARGEST_INT} in size")
    if abs(value) > LARGEST_FLOAT:
        raise ConfigError(f"{where}.{key} is {value!r}, but must be at most {LARGEST_FLOAT:g} in size")
    return value


def _command(file: ConfigFile) -> tuple[str, ...]:
    if file.objective is not None:
        if file.main_file is not None or file.language is not None:
            raise ConfigError('both "objective" and Spearmint\'s "language"/"main-file" are given; keep one of them')
        return tuple(file.objective.command)
    if file.main_file is None:
        raise ConfigError(
            'nothing to run: add "objective": {"command": ["python", "train.py"]} (or Spearmint\'s "main-file")'
        )
    return ("python", "-m", "hyperpower_runner.objective", file.main_file)


def _optimize(file: ConfigFile) -> str:
    if len(file.tasks) > 1:
        raise ConfigError(f"tasks has {len(file.tasks)} entries; one objective is supported, bounds go to constraints")
    task = next(iter(file.tasks), None)
    if task is not None and file.optimize not in (None, task):
        raise ConfigError(f'optimize is "{file.optimize}", but tasks names "{task}"; keep one of them')
    return file.optimize or task or "error"


def _evaluations(file: ConfigFile) -> int | None:
    given = [number for number in (file.budget.evaluations, file.max_finished_jobs) if number is not None]
    return min(given, default=None)


def _bound(metric: str, value: float | str) -> float:
    """Read an upper bound: a number in the metric's unit, or a text such as "1.15 GB" or "25 %"."""
    physical = next((units for suffix, units in UNITS.items() if metric.endswith(suffix)), None)
    if not isinstance(value, str):
        if value < 0 and (physical or metric == "error"):
            raise ConfigError(f"constraints.{metric} is {value:g}, but no {metric} is below 0")
        return float(value)
    units = physical or {"%": 0.01}
    match = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*([A-Za-z%]+)\s*", value, re.ASCII)
    bound = float(match[1] + (match[2] or "")) * units.get(match[3], math.nan) if match else math.nan
    if math.isfinite(bound):
        return bound
    raise ConfigError(
        f'constraints.{metric} is "{shortened(value)}", but must be a number, or one with a unit: {_listed(units)}'
    )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f'the key "{key}" stands twice in the same object; keep one of them')
        content[key] = value
    return content


def _sentence(error: pydantic.ValidationError, content: Mapping[str, Any]) -> str:
    """Put the first of pydantic's findings into one sentence; misspelt keys come first, as the likeliest cause."""
    findings = sorted(error.errors(), key=lambda finding: finding["type"] != "extra_forbidden")
    finding = findings[0]
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
        "tasks": TaskFile,
        "method-args": MethodArgsFile,
    }
    return models.get(path[0], ConfigFile) if path else ConfigFile


def _listed(words: Any) -> str:
    return ", ".join(words)

"""What config.json means: the search space, the budgets and the rules, as an `ExperimentConfig`.

The form of the file is checked before, in `config_file`; here, what its values say together. It does not touch the
disk, so whether a script exists is checked elsewhere (`experiment`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperpower_runner.config_file import ConfigFile, ConstraintFile, VariableFile, check, load
from hyperpower_runner.errors import ConfigError, ExpressionError, did_you_mean, shortened
from hyperpower_runner.hardware.measurement import Protocol
from hyperpower_runner.hardware.platforms import METERS, OWN_KEYS, is_simulated
from hyperpower_runner.job_files import SCHEMA
from hyperpower_runner.sbatch_options import words_of
from hyperpower_runner.space import Space, Variable, parse_constraints
from hyperpower_runner.stopping import StoppingRule

LARGEST_INT = 2**31 - 1
CONFIDENCE = 0.95  # of a bound that says nothing of it and shall be recalibrated
LARGEST_FLOAT = 1e300  # so that the width of a range is finite

# Units of a bound written as text, by the suffix of the metric's name, and their factor.
UNITS: dict[str, dict[str, float]] = {
    "_bytes": {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "_w": {"mW": 1e-3, "W": 1, "kW": 1e3},
    "_j": {"mJ": 1e-3, "J": 1, "kJ": 1e3, "Wh": 3600},
    "_s": {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600},
}


@dataclass(frozen=True)
class ExperimentConfig:
    """A checked config.json.

    command: the words that start the objective, to which the path of job.json is added.
    constraints: upper bounds by metric, in the metric's unit. confidence: of those whose prediction needs a margin, how
        often it shall hold; recalibrated: those whose margin is learned from measured jobs too.
    stopping_rule: None where early termination is off.
    evaluations, hours: the budget; None for no limit.
    sigma_0: the standard deviation of rand-walk's steps, in the unit cube (3.5).
    initial_points: how many evaluations hw-ieci and hw-cwei draw before their Gaussian process proposes.
    noiseless: whether an evaluation repeated gives the same value again (Spearmint's likelihood NOISELESS).
    platform: the device that budgets are about; measure_jobs: whether completed jobs are measured on it.
    scheduler_args: words of further options of sbatch, for the scheduler "slurm".
    samples, protocol: how many structures are profiled on it, and how. simulated_models: whether the hardware models at
        hand are of a simulated platform, whatever `platform` says.
    """

    name: str
    space: Space
    command: tuple[str, ...]
    env: Mapping[str, str]
    epochs: int | None
    optimize: str
    constraints: Mapping[str, float]
    confidence: Mapping[str, float]
    recalibrated: frozenset[str]
    method: str
    sigma_0: float
    initial_points: int
    noiseless: bool
    hardware_aware: bool
    stopping_rule: StoppingRule | None
    evaluations: int | None
    hours: float | None
    platform: Mapping[str, Any]
    measure_jobs: bool
    samples: int
    protocol: Protocol
    scheduler: str
    scheduler_args: tuple[str, ...]
    max_concurrent: int
    polling_time_s: float
    timeout_s: float | None
    max_retries: int
    max_consecutive_failures: int
    seed: int
    simulated_models: bool = False

    @property
    def simulated(self) -> bool:
        """Whether what is said of power and memory stems from a formula, and was measured nowhere."""
        return self.simulated_models or is_simulated(self.platform)

    def threads_of_job(self, cores: int) -> int:
        """How many threads each of the jobs that share so many cores may use."""
        return max(1, cores // self.max_concurrent)

    @property
    def hardware_limits(self) -> Mapping[str, float]:
        """The constraints that a method applies before anything runs: none when it is unaware of the hardware."""
        return self.constraints if self.hardware_aware else {}


def parse_text(text: str, where: str = "config.json", *, runnable: bool = True) -> ExperimentConfig:
    """Parse the text of a config.json; see `parse`."""
    try:
        return _config(check(load(text)), runnable)
    except (ConfigError, ExpressionError) as error:
        raise ConfigError(f"{where}: {error}") from None


def parse(content: Mapping[str, Any], where: str = "config.json", *, runnable: bool = True) -> ExperimentConfig:
    """Parse the content of a config.json; raises ConfigError with one sentence that names `where` and the key.

    runnable: whether it must say how the objective is started; where it need not and does not, `command` is empty.
    """
    try:
        return _config(check(content), runnable)
    except (ConfigError, ExpressionError) as error:
        raise ConfigError(f"{where}: {error}") from None


def _config(file: ConfigFile, runnable: bool) -> ExperimentConfig:
    if file.schema_ > SCHEMA:
        raise ConfigError(f"schema is {file.schema_}, but this version knows numbers up to {SCHEMA}; use a newer one")
    variables = tuple(_variable(name, variable) for name, variable in file.variables.items())
    try:
        space = Space(variables, parse_constraints(file.known_constraints, variables))
    except ExpressionError as error:
        raise ExpressionError(f"known-constraints: {error}") from None
    optimize = _optimize(file)
    bounds = {
        metric: bound if isinstance(bound, ConstraintFile) else ConstraintFile(max=bound)
        for metric, bound in file.constraints.items()
    }
    return ExperimentConfig(
        name=file.experiment_name or "",
        space=space,
        command=_command(file, runnable),
        env=dict(file.objective.env) if file.objective else {},
        epochs=file.objective.epochs if file.objective else None,
        optimize=optimize,
        constraints={metric: _bound(metric, bound.max) for metric, bound in bounds.items()},
        confidence={
            metric: bound.confidence or CONFIDENCE
            for metric, bound in bounds.items()
            if bound.confidence is not None or bound.recalibrate
        },
        recalibrated=frozenset(metric for metric, bound in bounds.items() if bound.recalibrate),
        method=file.method,
        sigma_0=file.method_args.sigma_0,
        initial_points=file.method_args.initial_points,
        noiseless=_likelihood(file) == "NOISELESS",
        hardware_aware=file.hardware_aware,
        stopping_rule=StoppingRule(**file.early_termination.model_dump()) if file.early_termination else None,
        evaluations=_evaluations(file),
        hours=file.budget.hours,
        platform=_platform(file),
        measure_jobs=file.platform.measure_jobs and file.platform.meter not in (None, "replay"),
        samples=file.profiling.samples,
        protocol=_protocol(file),
        scheduler=file.scheduler,
        scheduler_args=_scheduler_args(file),
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
    return value + 0.0  # never -0.0


def _command(file: ConfigFile, runnable: bool) -> tuple[str, ...]:
    if file.objective is not None:
        if file.main_file is not None or file.language is not None:
            raise ConfigError('both "objective" and Spearmint\'s "language"/"main-file" are given; keep one of them')
        return tuple(file.objective.command)
    if file.main_file is None:
        if not runnable:
            return ()
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


def _likelihood(file: ConfigFile) -> str:
    """Spearmint has the key at the top, and in each task, which counts more."""
    task = next(iter(file.tasks.values()), None)
    return (task.likelihood if task else None) or file.likelihood


def _evaluations(file: ConfigFile) -> int | None:
    given = [number for number in (file.budget.evaluations, file.max_finished_jobs) if number is not None]
    return min(given, default=None)


def _scheduler_args(file: ConfigFile) -> tuple[str, ...]:
    words = words_of(file.scheduler_args)
    if words and file.scheduler != "slurm":
        raise ConfigError(
            f'scheduler-args are options of Slurm\'s sbatch, but scheduler is "{file.scheduler}"; delete them, or set'
            ' "scheduler": "slurm"'
        )
    return words


def _platform(file: ConfigFile) -> dict[str, Any]:
    platform = file.platform.model_dump(by_alias=True, exclude_none=True, exclude={"measure_jobs"})
    meter = platform.get("meter")
    if meter is not None and meter not in METERS:
        allowed = f"{', '.join(METERS)}{did_you_mean(meter, METERS)}"
        raise ConfigError(f'platform.meter is "{shortened(meter)}", but must be one of {allowed}')
    for key, owner in OWN_KEYS.items():
        if key in platform and meter != owner:
            raise ConfigError(f'platform.{key} is for the meter "{owner}" only, found "{meter}"; delete the key')
    if meter == "replay" and "trace" not in platform:
        raise ConfigError('platform.trace is missing; the meter "replay" needs a file of recorded traces')
    return platform


def _protocol(file: ConfigFile) -> Protocol:
    protocol = Protocol(**file.profiling.model_dump(exclude={"samples"}))
    if protocol.most_repeats < protocol.repeats:
        raise ConfigError(
            f"profiling.most-repeats is {protocol.most_repeats}, below repeats, which is {protocol.repeats}; raise it"
        )
    if protocol.longest_warm_up_s < protocol.warm_up_s:
        raise ConfigError(
            f"profiling.longest-warm-up-s is {protocol.longest_warm_up_s:g}, below warm-up-s, which is"
            f" {protocol.warm_up_s:g}; raise it"
        )
    return protocol


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
        f'constraints.{metric} is "{shortened(value)}", but must be a number, or one with a unit: {", ".join(units)}'
    )

"""Ask and tell: a search as a Python object, for notebooks and for whoever runs the evaluations themselves.

    search = Search({"variables": {"x": {"type": "FLOAT", "min": 0, "max": 1}}})
    job = search.ask()
    search.tell(job.job_id, error=train(**job.params))
    search.best()

The driver goes through it too, so there is one place in which a history becomes the next suggestion, and where the
generator for it is made: a suggestion is a function of (config, history, job id). It reads no clock, starts nothing and
writes no file.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hyperpower_runner import methods
from hyperpower_runner.config import ExperimentConfig, parse
from hyperpower_runner.errors import ConfigError, ParamsError, SearchError, did_you_mean, shortened
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.hardware.margins import recalibrated
from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.history import History
from hyperpower_runner.job_files import as_number
from hyperpower_runner.trial import ENDED, Job, Params, Recommendation, Rejection, Result, Status, Trial

RECOMMENDATION = 1  # the third word of the seed of `recommend`, so that it draws what no job draws


class Search:
    """A search in memory.

    config: a dict in the form of config.json, where "objective" may be left out; or the path of an experiment directory
        (or of its config.json): then its hardware/models.json counts, and its jobs are the history to begin with. The
        directory is only read: what is told here is not written there, and `hyperpower-runner run` does not know it.
    models: hardware models, instead of those of the directory.
    history: trials to begin with, instead of those of the directory.
    where: what messages call the config.

    The budget, `max-concurrent`, early termination and the time limits of a config bind `hyperpower-runner run` only;
    here, the caller decides how often to ask. Raises ConfigError, ModelsError or ExperimentError, with one sentence.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | str | os.PathLike[str] | ExperimentConfig,
        *,
        models: HardwareModels | None = None,
        history: History | None = None,
        where: str = "config",
    ) -> None:
        if isinstance(config, str | os.PathLike):
            experiment = _experiment(Path(config))
            config, where = experiment.read_config(runnable=False), str(experiment.config_file)
            models = models or experiment.read_models(config)
            history = experiment.read_history() if history is None else history
        elif isinstance(config, Mapping):
            config = parse(_plain(config), where, runnable=False)
        elif not isinstance(config, ExperimentConfig):
            raise ConfigError(
                f"{where} is {shortened(repr(config))}, but must be a dict in the form of config.json, or a path"
            )
        self.config = config
        self.models = models or HardwareModels(config.space)
        check_jobs(config, history or (), where)
        self._history = History(in_hindsight(history or (), self.models))
        self._copy: History | None = None
        self._method: tuple[Mapping[str, float], methods.Method] | None = None

    # --- what users call

    def ask(self) -> Job:
        """Propose the next params to evaluate: `.job_id` and `.params`, a plain dict in natural units.

        Also `.predictions` of the hardware models, and in `.surrogate` how the Gaussian process was fitted, if one was.
        The job is pending until it is told; asking again before gives another point, to be evaluated beside it.

        Raises SpaceExhaustedError when everything feasible was tried, InfeasibleError when nothing feasible is found.
        """
        job, _ = self.propose()
        self.add(job)
        return deepcopy(job)  # whose params may be changed by who trains with them

    def tell(self, job_id: int, *, status: str = "completed", **metrics: float | None) -> None:
        """Report how a job ended: its metrics, or a status such as "failed", "terminated" or "cancelled".

        metrics: numbers by name, None where one was not measured. One that is not finite is kept but never counts. A
            constrained metric that is neither told nor predicted by a hardware model never counts as met.

        Raises SearchError for a job that is not pending, or for what is no result of it.
        """
        is_id = isinstance(job_id, int | np.integer) and not isinstance(job_id, bool)
        trial = self._history.get(job_id) if is_id else None
        if trial is None:
            pending = [job.job_id for job in self.pending]
            raise SearchError(f"there is no job {shortened(repr(job_id))}; the ids of the pending ones are {pending}")
        if trial.result is not None:
            found = trial.result.status.value
            raise SearchError(f'job {trial.job_id} was told before, as "{found}"; tell more of its params with observe')
        self.end(trial.job_id, self._result(trial.job, status, metrics))

    def observe(self, params: Mapping[str, Any], *, status: str = "completed", **metrics: float | None) -> Job:
        """Add a point that was evaluated elsewhere, with what `tell` would report; returns the job it becomes.

        Raises ParamsError where `params` are not a point of the space, or violate a known constraint, and SearchError
        as `tell` does.
        """
        job = self._observed(params)
        result = self._result(job, status, metrics)
        self.add(job)
        self.end(job.job_id, result)
        return deepcopy(job)

    def best(self) -> Trial | None:
        """The best completed trial that meets every constraint: `.job_id`, `.params`, `.metrics`; None before one."""
        return deepcopy(self._history.best(self.config.constraints))

    def recommend(self) -> Recommendation | None:
        """The point that the surrogate's posterior mean prefers, tried or not; None where too little is known."""
        rng = np.random.default_rng([self.config.seed, len(self._history), RECOMMENDATION])
        return methods.recommend(self.config, self.calibrated_models, self._history, rng)

    @property
    def calibrated_models(self) -> HardwareModels:
        """The hardware models with the margins that the config, and the jobs so far, call for."""
        return calibrated(self.models, self.config, self._history)

    @property
    def method(self) -> methods.Method:
        """What proposes the next params, with the margins that the jobs so far call for."""
        models = self.calibrated_models
        if self._method is None or models.margins != self._method[0]:
            self._method = models.margins, methods.make_method(self.config, models)
        return self._method[1]

    @property
    def history(self) -> History:
        """All trials so far, by job id: a copy that stays as it is, made anew where something was added or told."""
        if self._copy is None:
            self._copy = History(self._history)
        return self._copy

    @property
    def pending(self) -> list[Job]:
        """The jobs that were asked for and not told yet."""
        return [deepcopy(trial.job) for trial in self._history.unfinished]

    # --- what the driver calls besides

    @property
    def live_history(self) -> History:
        """The history itself, which goes on changing, to be read only: it costs nothing, however long it is."""
        return self._history

    def propose(self) -> tuple[Job, Rejection]:
        """What `ask` would return, and which candidates the hardware models discarded for it; changes nothing."""
        job_id = self._next_id()
        suggestion = self.method.suggest(self._history, np.random.default_rng([self.config.seed, job_id]))
        job = Job(
            job_id=job_id,
            params=suggestion.params,
            seed=self._seed(job_id),
            metric=self.config.optimize,
            predictions=suggestion.predictions,
            extrapolated=self._extrapolated(suggestion.params),
            surrogate=suggestion.surrogate,
        )
        return job, suggestion.rejection

    def trial(self, job_id: int) -> Trial:
        return self._history.trial(job_id)

    def add(self, job: Job) -> Trial:
        """Take a job into the history, as pending."""
        return self._put(Trial(replace(job, params=deepcopy(job.params))))

    def end(self, job_id: int, result: Result) -> Trial:
        """Give a job its result."""
        return self._put(replace(self._history.trial(job_id), result=result))

    def _put(self, trial: Trial) -> Trial:
        self._history.put(trial)
        self._copy = None
        return trial

    def _extrapolated(self, params: Params) -> list[str]:
        """The metrics whose prediction rests on no profiled structure like this one."""
        beyond = self.models.extrapolates(self.config.space.from_params(params)[np.newaxis])
        return [metric for metric, where in beyond.items() if where[0]]

    def _next_id(self) -> int:
        return self._history.last_id + 1

    def _seed(self, job_id: int) -> int:
        return int(np.random.SeedSequence([self.config.seed, job_id]).generate_state(1)[0])

    def _observed(self, params: Mapping[str, Any]) -> Job:
        if not isinstance(params, Mapping):
            raise ParamsError(f"params are {shortened(repr(params))}, but must be a dict by variable name")
        space, job_id = self.config.space, self._next_id()
        values = space.from_params({name: _plain(param) for name, param in params.items()})[np.newaxis]
        for constraint, held in zip(space.constraints, space.holds(values)[:, 0], strict=True):
            if not held:
                raise ParamsError(f'the known constraint "{constraint.text}" does not hold at {_shown(params)}')
        found, predictions = space.to_params(values[0]), self.models.predict_point(values[0])
        return Job(job_id, found, self._seed(job_id), metric=self.config.optimize, predictions=predictions)

    def _result(self, job: Job, status: str, told: Mapping[str, Any]) -> Result:
        """Check what is told of a job; raises SearchError."""
        allowed = [one.value for one in ENDED]
        if status not in allowed:
            hint = did_you_mean(status, allowed) if isinstance(status, str) else ""
            raise SearchError(f"status is {shortened(repr(status))}, but must be one of {', '.join(allowed)}{hint}")
        metrics = {name: _number(name, value) for name, value in told.items()}
        if status == Status.COMPLETED.value:
            self._check_told(job, metrics)
        return Result(Status(status), metrics)

    def _check_told(self, job: Job, metrics: Mapping[str, float | None]) -> None:
        """Refuse a completed job without the optimised metric, or with the misspelt name of a constrained one."""
        known = {self.config.optimize, *self.config.constraints}
        own = [name for name in metrics if name not in known]
        if metrics.get(self.config.optimize) is None:
            metric = self.config.optimize
            found = ", ".join(name for name, value in metrics.items() if value is not None) or "no metric"
            near = next((name for name in own if did_you_mean(name, [metric])), None)
            hint = f'; call "{near}" by that name' if near else f'; or tell status="{Status.FAILED.value}"'
            raise SearchError(f'a completed job {job.job_id} needs its "{metric}", but was told {found}{hint}')
        for metric in self.config.constraints:
            near = next((name for name in own if did_you_mean(name, [metric])), None)
            if metric not in metrics and metric not in job.predictions and near:
                what = f'was told "{near}" but no "{metric}", which has a constraint'
                raise SearchError(f"job {job.job_id} {what}; call it by that name")


def in_hindsight(trials: Iterable[Trial], models: HardwareModels) -> Iterable[Trial]:
    """Judge all jobs by what these models predict of them, whichever there were when they started."""
    trials = list(trials)
    if not models.models or not trials:
        return trials
    predicted = models.predict(models.space.from_many([trial.params for trial in trials]))
    columns = {metric: column.tolist() for metric, column in predicted.items()}
    return (
        replace(trial, hindsight={metric: column[row] for metric, column in columns.items()})
        for row, trial in enumerate(trials)
    )


def calibrated(models: HardwareModels, config: ExperimentConfig, history: History) -> HardwareModels:
    """The models with the margins that config.json asks for; raises ModelsError where a model cannot tell them."""
    modelled = [metric for metric in config.confidence if metric in models.models and config.hardware_aware]
    margins = {metric: models.margin(metric, config.confidence[metric]) for metric in modelled}
    for metric in config.recalibrated & margins.keys():
        outcomes = _outcomes(metric, history)
        margins[metric] = recalibrated(
            models.ratios(metric), config.confidence[metric], outcomes, config.constraints[metric]
        )
    return replace(models, margins=margins)


def _outcomes(metric: str, history: History) -> list[tuple[float, float]]:
    """What the models at hand predict, and what was measured, of each job that was: in the order of their ids."""
    pairs = ((trial.predicted(metric), as_number(trial.metrics.get(metric))) for trial in history)
    return [
        (before, after)
        for before, after in pairs
        if before is not None and after is not None and math.isfinite(after) and before > 0
    ]


def check_jobs(config: ExperimentConfig, trials: Iterable[Trial], where: str) -> None:
    """Refuse to go on with jobs of another search: config.json was changed under them. Raises ConfigError."""
    trials = list(trials)
    if all(trial.job.metric == config.optimize for trial in trials):
        with contextlib.suppress(ParamsError):  # of which job, is found out below
            config.space.from_many([trial.params for trial in trials])
            return
    for trial in trials:
        try:
            config.space.from_params(trial.job.params)
        except ParamsError as error:
            problem = f"job {trial.job.job_id} does not fit its variables ({error})"
        else:
            if trial.job.metric == config.optimize:
                continue
            wanted = shortened(trial.job.metric)
            problem = f'job {trial.job.job_id} was run for "{wanted}", but optimize is "{config.optimize}"'
        raise ConfigError(f"{where}: {problem}; undo the change, or begin a new experiment directory")


def _experiment(path: Path) -> Experiment:
    """The experiment whose directory, or config.json, a path names."""
    if path.is_dir() or path.name == "config.json":
        return Experiment((path if path.is_dir() else path.parent).absolute())
    raise ConfigError(f"{path}: is neither an experiment directory nor its config.json")


def _plain(value: Any) -> Any:
    """A value without numpy's types, of which notebooks are full."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _number(name: str, value: Any) -> float | None:
    plain = _plain(value)
    if plain is None:
        return None
    number = None if isinstance(plain, str) else as_number(plain)
    if number is None:
        raise SearchError(f'the metric "{name}" is {shortened(repr(value))}, but must be a number')
    return number


def _shown(params: Mapping[str, Any]) -> str:
    return shortened(str({name: _plain(param) for name, param in params.items()}))

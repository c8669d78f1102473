"""The loop that runs a search: adopt, ingest, suggest, launch, wait, until a budget or the user ends it.

    while True:
        ingest what workers wrote        result.json -> History
        fill the free slots              Method.suggest(history, rng) -> job.json -> launcher
        stop, when nothing runs and nothing more shall
        wait for a worker, a signal, or the polling time

The directory is its only state: a driver that is killed anywhere and started again goes on as if it had not been. With
one slot, a suggestion is a function of (config, history, job id), so both have the same jobs. It prints nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

import numpy as np

from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.errors import ConfigError, InfeasibleError, ParamsError, SpaceExhaustedError
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.launchers import Launcher
from hyperpower_runner.methods import make_method
from hyperpower_runner.slots import Slots
from hyperpower_runner.summary import Summary, elapsed_s
from hyperpower_runner.trial import History, Job, Result, Status, Trial

LONGEST_WAIT_S = 1.0  # so that a request to stop from another host, and the live view, are never far behind


class Why(str, Enum):
    """Why a search ended."""

    BUDGET = "budget"
    EXHAUSTED = "exhausted"
    INFEASIBLE = "infeasible"
    FAILURES = "failures"
    STOPPED = "stopped"  # by the stop command
    INTERRUPTED = "interrupted"  # by a signal


@dataclass(frozen=True)
class Ending:
    """Why, and one sentence about it."""

    why: Why
    sentence: str


class Observer(Protocol):
    """Is told what happens; must not change anything."""

    def started(self, trial: Trial, adopted: bool) -> None: ...

    def ended(self, trial: Trial) -> None: ...

    def note(self, text: str) -> None: ...

    def tick(self, summary: Callable[[], Summary]) -> None: ...


class Driver:
    """Runs one search. The caller holds the experiment's lock."""

    def __init__(
        self,
        experiment: Experiment,
        config: ExperimentConfig,
        models: HardwareModels,
        launcher: Launcher,
        observer: Observer,
        interrupted: Callable[[], int] = lambda: 0,
    ) -> None:
        self.experiment = experiment
        self.config = config
        self.method = make_method(config, models)
        self.observer = observer
        self.interrupted = interrupted  # how often Ctrl-C was pressed
        self.slots = Slots(experiment, launcher, config.max_retries, observer.note)
        self.trials = {trial.job.job_id: trial for trial in experiment.read_history()}
        self.discarded = dict(experiment.read_rejections())  # candidates, by the job that was looked for
        self.ending: Ending | None = None
        self._told_to_wait = self._told_of_stop = False
        self._failures = 0  # in a row, since this driver was started
        self._history: History | None = None
        self._elapsed_before_s = elapsed_s(experiment.working_spans(self.history, time.time()))
        self._begun_s = time.monotonic()
        check_jobs(experiment, config, self.history)

    def run(self) -> Ending:
        """Run until the search ends; returns why."""
        self._adopt()
        while True:
            for job_id, result in self.slots.ended():
                self._ingest(job_id, result)
            self._check_ending()
            while self.ending is None and len(self.slots.active) < self.config.max_concurrent:
                self._fill_slot()
                self._check_ending()
            self.observer.tick(self.summary)
            if self.ending is not None and not self.slots.active:
                return self.ending
            self.slots.wait(min(self.config.polling_time_s, LONGEST_WAIT_S))

    @property
    def history(self) -> History:
        if self._history is None:
            self._history = History(tuple(self.trials[job_id] for job_id in sorted(self.trials)))
        return self._history

    def summary(self) -> Summary:
        jobs = [*self.slots.active, *self.slots.waiting]
        unfinished = {job_id: self.experiment.status(self.trials[job_id]) for job_id in jobs}
        return Summary(self.config, self.history, unfinished, sum(self.discarded.values()), self._elapsed_s())

    def _adopt(self) -> None:
        """Take over the jobs that an earlier driver left without a result."""
        for job_id, trial in self.trials.items():
            if not trial.ended and self.slots.adopt(job_id):
                self.observer.started(trial, adopted=True)

    def _ingest(self, job_id: int, result: Result) -> None:
        trial = replace(self.trials[job_id], result=result)
        self.trials[job_id], self._history = trial, None
        self._failures = self._failures + 1 if result.status.is_failure else 0
        self.observer.ended(trial)

    def _fill_slot(self) -> None:
        """Start a job that waits for its next attempt, or else a new one."""
        if self.slots.waiting:
            job_id = self.slots.start_waiting()
        else:
            job = self._next_job()
            if job is None:
                return
            self.experiment.write_job(job)
            job_id, self._history = job.job_id, None
            self.trials[job_id] = Trial(job)
            self.slots.start(job_id)
        self.observer.started(self.trials[job_id], adopted=False)

    def _next_job(self) -> Job | None:
        """Ask the method for the next job; None, with the reason as the ending, where it has none."""
        created_s = time.time()
        job_id = max(self.trials, default=0) + 1
        try:
            suggestion = self.method.suggest(self.history, np.random.default_rng([self.config.seed, job_id]))
        except SpaceExhaustedError as error:
            self.ending = Ending(Why.EXHAUSTED, f"The search is complete: {error}.")
            return None
        except InfeasibleError as error:
            self.ending = Ending(Why.INFEASIBLE, f"{self.experiment.config_file}: {error}")
            return None
        if suggestion.rejection.discarded:
            self.experiment.append_rejection(job_id, suggestion.rejection)
            self.discarded[job_id] = suggestion.rejection.discarded
        rule, hours = self.config.stopping_rule, self.config.hours
        return Job(
            job_id=job_id,
            params=suggestion.params,
            seed=int(np.random.SeedSequence([self.config.seed, job_id]).generate_state(1)[0]),
            command=list(self.config.command),
            env=dict(self.config.env),
            metric=self.config.optimize,
            epochs=self.config.epochs,
            threads=max(1, _cores() // self.config.max_concurrent),
            timeout_s=self.config.timeout_s,
            deadline=None if hours is None else created_s + hours * 3600 - self._elapsed_s(),
            stopping_rule=rule.to_json() if rule is not None else None,
            predictions=suggestion.predictions,
            created_s=created_s,
        )

    def _check_ending(self) -> None:
        """See whether no more jobs shall be started, or the running ones shall be cancelled."""
        if self.slots.waiting and self.ending and self.ending.why in (Why.BUDGET, Why.EXHAUSTED):
            self.ending = None  # a vanished job belongs to the evaluations that were started: see below
        request, pressed = self.experiment.stop_request(), self.interrupted()
        asked = None
        if pressed:
            asked = Ending(Why.INTERRUPTED, "Interrupted: no more jobs are started, everything is saved.")
        elif request is not None:
            asked = Ending(Why.STOPPED, "Stopped on request: no more jobs are started, everything is saved.")
        if (pressed > 1 or (request or {}).get("cancel")) and not self.slots.cancelled:
            self.observer.note(f"Cancelling {len(self.slots.active)} running jobs.")
            self.slots.cancel("the search was cancelled")
            self.ending = asked
        self.ending = self.ending or asked or self._budget_ending()
        if (self.ending and not self._told_to_wait) or (asked and not self._told_of_stop):
            self._told_to_wait, self._told_of_stop = self.ending is not None, asked is not None
            if self.slots.active and self.ending and not self.slots.cancelled:
                again = " Ctrl-C again cancels them." if pressed else ""
                self.observer.note(f"{self.ending.sentence} Waiting for {len(self.slots.active)} running jobs.{again}")

    def _budget_ending(self) -> Ending | None:
        config = self.config
        if self._failures >= config.max_consecutive_failures:
            return Ending(Why.FAILURES, f"{self._failures} jobs in a row failed.")
        if config.hours is not None and self._elapsed_s() >= config.hours * 3600:
            return Ending(Why.BUDGET, f"The budget of {config.hours:g} hours is used up.")
        started = len(self.trials) - self.history.counts.get(Status.CANCELLED, 0)
        if config.evaluations is not None and started >= config.evaluations and not self.slots.waiting:
            return Ending(Why.BUDGET, f"The budget of {config.evaluations} evaluations is used up.")
        return None

    def _elapsed_s(self) -> float:
        return self._elapsed_before_s + time.monotonic() - self._begun_s


def check_jobs(experiment: Experiment, config: ExperimentConfig, history: History) -> None:
    """Refuse to go on with jobs of another search: config.json was changed under them. Raises ConfigError."""
    for trial in history:
        try:
            config.space.from_params(trial.job.params)
        except ParamsError as error:
            problem = f"job {trial.job.job_id} does not fit its variables ({error})"
        else:
            if trial.job.metric == config.optimize:
                continue
            problem = f'job {trial.job.job_id} was run for "{trial.job.metric}", but optimize is "{config.optimize}"'
        raise ConfigError(f"{experiment.config_file}: {problem}; undo the change, or begin a new experiment directory")


def _cores() -> int:
    """How many cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

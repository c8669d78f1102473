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
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

import numpy as np

from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.errors import ConfigError, ParamsError, SpaceExhaustedError
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.launchers import Launcher, WorkerState
from hyperpower_runner.methods import make_method
from hyperpower_runner.summary import Summary, elapsed_s
from hyperpower_runner.trial import History, Job, Result, Status, Trial

LONGEST_WAIT_S = 1.0  # so that a request to stop from another host, and the live view, are never far behind


class Why(str, Enum):
    """Why a search ended."""

    BUDGET = "budget"
    EXHAUSTED = "exhausted"
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
        self.models = models
        self.method = make_method(config, models)
        self.launcher = launcher
        self.observer = observer
        self.interrupted = interrupted  # how often Ctrl-C was pressed
        self.trials = {trial.job.job_id: trial for trial in experiment.read_history()}
        self.discarded = dict(experiment.read_rejections())  # candidates, by the job that was looked for
        self.active: set[int] = set()
        self.ending: Ending | None = None
        self._cancelled = False
        self._failures = 0  # in a row, since this driver was started
        self._launches: dict[int, int] = {}
        self._history: History | None = None
        self._elapsed_before_s = elapsed_s(self._ended_history(), 0.0)
        self._begun_s = time.monotonic()
        self._check_space()

    def run(self) -> Ending:
        """Run until the search ends; returns why."""
        self.experiment.clear_stop()
        self._adopt()
        while True:
            self._ingest()
            self._check_ending()
            while self.ending is None and len(self.active) < self.config.max_concurrent:
                self._start_next()
                self._check_ending()
            self.observer.tick(self.summary)
            if self.ending is not None and not self.active:
                return self.ending
            files = {job_id: self.experiment.job_files(job_id) for job_id in self.active}
            self.launcher.poll(files, min(self.config.polling_time_s, LONGEST_WAIT_S))

    @property
    def history(self) -> History:
        if self._history is None:
            self._history = History(tuple(self.trials[job_id] for job_id in sorted(self.trials)))
        return self._history

    def summary(self) -> Summary:
        unfinished = {job_id: self.experiment.status(self.trials[job_id]) for job_id in self.active}
        return Summary(self.config, self.history, unfinished, sum(self.discarded.values()), self._elapsed_s())

    def _adopt(self) -> None:
        """Take over the jobs without a result: watch those whose worker lives, start the others."""
        for job_id, trial in list(self.trials.items()):
            if not trial.ended:
                self.active.add(job_id)
                if self.experiment.job_files(job_id).last_attempt() == 0:
                    self._launch(job_id)
                self.observer.started(trial, adopted=True)

    def _ingest(self) -> None:
        """Take in the results of ended jobs; start lost ones again, or give them up."""
        files = {job_id: self.experiment.job_files(job_id) for job_id in self.active}
        states = self.launcher.poll(files, 0.0)  # before the results: a worker may write one and end in between
        for job_id in sorted(self.active):
            if states[job_id] is WorkerState.ALIVE:
                continue  # a slot is free when its worker is gone, not when it has written its result
            result = self.experiment.read_result(job_id)
            if result is None and states[job_id] is WorkerState.GONE:
                result = self._retry_or_give_up(job_id)
            if result is not None:
                self._end(job_id, result)

    def _end(self, job_id: int, result: Result) -> None:
        self.active.discard(job_id)
        trial = replace(self.trials[job_id], result=result)
        self.trials[job_id], self._history = trial, None
        self._failures = self._failures + 1 if result.status.is_failure else 0
        self.observer.ended(trial)

    def _retry_or_give_up(self, job_id: int) -> Result | None:
        """Start a job whose worker vanished again; returns the result of one that is not."""
        files = self.experiment.job_files(job_id)
        attempts = max(files.last_attempt(), self._launches.get(job_id, 0))
        if self._cancelled or files.stop.exists():
            return self._give_up(job_id, Status.CANCELLED, "the search was cancelled")
        if attempts > self.config.max_retries:
            return self._give_up(job_id, Status.LOST, f"its worker vanished {attempts} times")
        if self.ending is not None and self.ending.why in (Why.INTERRUPTED, Why.STOPPED):
            self.active.discard(job_id)  # it stays without a result, and the next driver starts it again
            return None
        self.observer.note(
            f"job {job_id}: its worker vanished; attempt {attempts + 1} of {self.config.max_retries + 1}"
        )
        self._launch(job_id)
        return None

    def _give_up(self, job_id: int, status: Status, reason: str) -> Result:
        now_s = time.time()
        result = Result(status, reason=reason, started_s=now_s, ended_s=now_s, host=socket.gethostname())
        return self.experiment.write_result(job_id, result)

    def _start_next(self) -> None:
        """Fill one slot: suggest, write the job, launch its worker."""
        created_s = time.time()
        job_id = max(self.trials, default=0) + 1
        try:
            suggestion = self.method.suggest(self.history, np.random.default_rng([self.config.seed, job_id]))
        except SpaceExhaustedError as error:
            self.ending = Ending(Why.EXHAUSTED, f"The search is complete: {error}.")
            return
        if suggestion.rejection.discarded:
            self.experiment.append_rejection(job_id, suggestion.rejection)
            self.discarded[job_id] = suggestion.rejection.discarded
        rule, hours = self.config.stopping_rule, self.config.hours
        job = Job(
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
        self.experiment.write_job(job)
        self.trials[job_id], self._history = Trial(job), None
        self.active.add(job_id)
        self._launch(job_id)
        self.observer.started(self.trials[job_id], adopted=False)

    def _launch(self, job_id: int) -> None:
        files = self.experiment.job_files(job_id)
        self._launches[job_id] = self._launches.get(job_id, files.last_attempt()) + 1
        self.launcher.submit(files, files.last_attempt() + 1)

    def _check_ending(self) -> None:
        """See whether no more jobs shall be started, or the running ones shall be cancelled."""
        request = self.experiment.stop_request()
        pressed = self.interrupted()
        if (pressed > 1 or (request and request.get("cancel"))) and not self._cancelled:
            self._cancelled = True
            for job_id in self.active:
                self.launcher.cancel(self.experiment.job_files(job_id), "the search was cancelled")
            self.observer.note(f"cancelling {len(self.active)} running jobs")
        if self.ending is None:
            self.ending = self._reason_to_end(pressed > 0, request is not None)
            if self.ending is not None and self.active:
                self.observer.note(f"{self.ending.sentence} Waiting for {len(self.active)} running jobs.")

    def _reason_to_end(self, interrupted: bool, asked: bool) -> Ending | None:
        config = self.config
        if interrupted:
            return Ending(Why.INTERRUPTED, "Interrupted: no more jobs are started, everything is saved.")
        if asked:
            return Ending(Why.STOPPED, "Stopped on request: no more jobs are started, everything is saved.")
        if self._failures >= config.max_consecutive_failures:
            return Ending(Why.FAILURES, f"{self._failures} jobs in a row failed.")
        started = len(self.trials) - self.history.counts.get(Status.CANCELLED, 0)
        if config.evaluations is not None and started >= config.evaluations:
            return Ending(Why.BUDGET, f"The budget of {config.evaluations} evaluations is used up.")
        if config.hours is not None and self._elapsed_s() >= config.hours * 3600:
            return Ending(Why.BUDGET, f"The budget of {config.hours:g} hours is used up.")
        return None

    def _elapsed_s(self) -> float:
        return self._elapsed_before_s + time.monotonic() - self._begun_s

    def _ended_history(self) -> History:
        return History(tuple(trial for trial in self.trials.values() if trial.ended))

    def _check_space(self) -> None:
        """Refuse to go on with jobs that are not points of the space: config.json was changed under them."""
        for job_id, trial in self.trials.items():
            try:
                self.config.space.from_params(trial.job.params)
            except ParamsError as error:
                raise ConfigError(
                    f"{self.experiment.config_file}: job {job_id} does not fit its variables ({error}); undo"
                    " the change, or begin a new experiment directory"
                ) from None


def _cores() -> int:
    """How many cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""The loop that runs a search: adopt, ingest, suggest, launch, wait, until a budget or the user ends it.

    while True:
        ingest what workers wrote        result.json -> History
        fill the free slots              Search.propose() -> job.json -> launcher
        stop, when nothing runs and nothing more shall
        wait for a worker, a signal, or the polling time

The directory is its only state: a driver that is killed anywhere and started again goes on as if it had not been. As a
suggestion is a function of (config, history, job id), see `search`, both have the same jobs with one slot. It prints
nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Protocol

from hyperpower_runner import processes
from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.errors import (
    PASSING,
    ExperimentError,
    InfeasibleError,
    LaunchError,
    LockedError,
    SpaceExhaustedError,
)
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.history import History
from hyperpower_runner.launchers import Launcher
from hyperpower_runner.search import Search
from hyperpower_runner.slots import Slots
from hyperpower_runner.summary import Summary, elapsed_s
from hyperpower_runner.trial import Job, Result, Status, Trial

LONGEST_WAIT_S = 1.0  # so that a request to stop from another host, and the live view, are never far behind


class Why(str, Enum):
    """Why a search ended."""

    BUDGET = "budget"
    EXHAUSTED = "exhausted"
    INFEASIBLE = "infeasible"
    FAILURES = "failures"
    CANCELLED = "cancelled"  # one job after another, by somebody else
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
        overtaken: Callable[[], bool] = lambda: False,
    ) -> None:
        self.experiment = experiment
        self.config = config
        history, where = experiment.read_history(), str(experiment.config_file)
        self.search = Search(config, models=models, history=history, where=where)
        self.observer = observer
        self.interrupted = interrupted  # how often Ctrl-C was pressed
        self.overtaken = overtaken  # whether another driver has this directory now
        self.slots = Slots(experiment, launcher, config.max_retries, observer.note)
        self.discarded = dict(experiment.read_rejections())  # candidates, by the job that was looked for
        self.rejected = sum(self.discarded.values())
        self._common = _in_common(config)
        self.ending: Ending | None = None
        self._told_to_wait = self._told_of_stop = self._told_of_sampling = False
        self._short_of = ""  # what the system lacked at the last step
        self._told_of_extrapolation: set[str] = set()
        self._adopted: set[int] = set()  # jobs of an earlier driver, which may have been asked to end
        self._failures = 0  # in a row, since this driver was started
        self._was_cancelled = False  # the last of them, and by somebody else
        self._elapsed_before_s = elapsed_s(experiment.working_spans(self.history, time.time()))
        self._begun_s = time.monotonic()

    def run(self) -> Ending:
        """Run until the search ends; returns why."""
        self._adopt()
        while True:
            try:
                self._step()
                self._tell_of_relief()
                self.experiment.finished.keep()  # what was read of earlier jobs, now that the slots have work
                if self.ending is not None and not self.slots.active:
                    return self.ending
                self.slots.wait(min(self.config.polling_time_s, LONGEST_WAIT_S))
            except (OSError, LaunchError) as error:
                lasts = bool(self._short_of)  # what passes at once ends nothing
                self._bear(error)
                if lasts and (self.interrupted() or self.experiment.stop_request() is not None):
                    why = Why.INTERRUPTED if self.interrupted() else Why.STOPPED
                    return Ending(why, "Ended while it waited: jobs that run go on, and the next run takes them over.")
                time.sleep(LONGEST_WAIT_S)

    def _step(self) -> None:
        """Ingest what has ended, and fill the slots. What raised OSError is done by the next step."""
        self._check_place()
        for job_id, result in self.slots.ended():
            self._ingest(job_id, result)
        self._check_ending()
        while self.ending is None and len(self.slots.active) < self.config.max_concurrent:
            self._fill_slot()
            self._check_ending()
        self.observer.tick(self.summary)

    def _check_place(self) -> None:
        """Raise LockedError where this is not the one driver of the directory any more, or ExperimentError."""
        root = self.experiment.root
        if self.overtaken():
            raise LockedError(f"{root}: another driver runs this search now; look with status")
        try:
            root.stat()
        except FileNotFoundError:
            raise ExperimentError(f"{root}: was moved while its search ran; run it where it is now") from None

    def _bear(self, error: OSError | LaunchError) -> None:
        """Say what the system is short of, once; raises the error where waiting would not help."""
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in PASSING:
            raise error
        lacking = os.strerror(cause.errno or 0)
        if lacking != self._short_of:
            self._short_of = lacking
            where = cause.filename or self.experiment.root
            sentence = str(error) if isinstance(error, LaunchError) else f"{where}: {lacking}"
            self.observer.note(f"{sentence}; waiting for better times (Ctrl-C ends the search, all is saved)")

    def _tell_of_relief(self) -> None:
        if self._short_of:
            self.observer.note(f'The search goes on: "{self._short_of}" has passed.')
            self._short_of = ""

    @property
    def history(self) -> History:
        """The history as it stands, live."""
        return self.search.live_history

    def summary(self) -> Summary:
        jobs = [*self.slots.active, *self.slots.waiting]
        unfinished = {job_id: self._status(job_id) for job_id in jobs}
        return Summary(self.config, self.history, unfinished, self.rejected, self._elapsed_s())

    def _status(self, job_id: int) -> Status:
        try:
            return self.experiment.status(self.search.trial(job_id))
        except (ExperimentError, OSError):  # a script wrote into its job's folder: what is only shown ends no search
            return Status.RUNNING if job_id in self.slots.active else Status.PENDING

    def _adopt(self) -> None:
        """Take over the jobs that an earlier driver left without a result."""
        for trial in self.history.unfinished:
            self._adopted.add(trial.job_id)
            if self.slots.adopt(trial.job_id):
                self.observer.started(trial, adopted=True)

    def _ingest(self, job_id: int, result: Result) -> None:
        trial = self.search.end(job_id, result)
        self.experiment.finished.append(trial)
        # What nobody here cancelled, Slurm did perhaps, and would do again with the next one.
        asked_for = self.slots.cancelled is not None or job_id in self._adopted
        self._was_cancelled = result.status is Status.CANCELLED and not asked_for
        self._failures = self._failures + 1 if result.status.is_failure or self._was_cancelled else 0
        self.observer.ended(trial)

    def _fill_slot(self) -> None:
        """Start a job that waits for its next attempt, or else a new one."""
        if self.slots.waiting:
            trial = self.search.trial(min(self.slots.waiting))
            self.experiment.restore_job(trial.job)
            self.slots.start_waiting()
        else:
            job = self._next_job()
            if job is None:
                return
            self.experiment.write_job(job)
            trial = self.search.add(job)
            self.slots.start(job.job_id)
        self.observer.started(trial, adopted=False)
        self._tell_of_sampling(trial.job)
        self._tell_of_extrapolation(trial.job)

    def _next_job(self) -> Job | None:
        """Ask the method for the next job; None, with the reason as the ending, where it has none."""
        created_s = time.time()
        try:
            job, rejection = self.search.propose()
        except SpaceExhaustedError as error:
            self.ending = Ending(Why.EXHAUSTED, f"The search is complete: {error}.")
            return None
        except InfeasibleError as error:
            self.ending = Ending(Why.INFEASIBLE, f"{self.experiment.config_file}: {error}")
            return None
        if rejection.discarded:
            self.experiment.append_rejection(job.job_id, rejection, self.config.platform)
            self.rejected += rejection.discarded - self.discarded.get(job.job_id, 0)
            self.discarded[job.job_id] = rejection.discarded
        hours = self.config.hours
        deadline = None if hours is None else created_s + hours * 3600 - self._elapsed_s()
        return replace(job, deadline=deadline, created_s=created_s, **self._common)

    def _tell_of_sampling(self, job: Job) -> None:
        """Say once that a suggestion rests on a sample of hyper-parameters that had not converged."""
        if job.surrogate.get("converged") is False and not self._told_of_sampling:
            self._told_of_sampling = True
            self.observer.note(
                f"job {job.job_id}: the hyper-parameters of its Gaussian process were sampled, but their chain had not"
                " converged; the suggestion is feasible as any, but may be a worse guess (status counts such jobs)"
            )

    def _tell_of_extrapolation(self, job: Job) -> None:
        """Say once of each metric that it is predicted of networks unlike those that were profiled."""
        for metric in job.extrapolated:
            if metric in self.config.constraints and metric not in self._told_of_extrapolation:
                self._told_of_extrapolation.add(metric)
                self.observer.note(
                    f"job {job.job_id}: its {metric} is extrapolated, since no network as large or as small was"
                    " profiled; profile more structures of this space, and fit again"
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
            if self._was_cancelled:
                return Ending(
                    Why.CANCELLED, f"{self._failures} jobs in a row were cancelled by somebody else, or failed."
                )
            return Ending(Why.FAILURES, f"{self._failures} jobs in a row failed.")
        if config.hours is not None and self._elapsed_s() >= config.hours * 3600:
            return Ending(Why.BUDGET, f"The budget of {config.hours:g} hours is used up.")
        started = len(self.history) - self.history.counts.get(Status.CANCELLED, 0)
        if config.evaluations is not None and started >= config.evaluations and not self.slots.waiting:
            return Ending(Why.BUDGET, f"The budget of {config.evaluations} evaluations is used up.")
        return None

    def _elapsed_s(self) -> float:
        return self._elapsed_before_s + time.monotonic() - self._begun_s


def _in_common(config: ExperimentConfig) -> dict[str, Any]:
    """The fields that all jobs of a config share: once in memory, however many jobs there will be."""
    return {
        "command": list(config.command),
        "env": dict(config.env),
        "epochs": config.epochs,
        "threads": config.threads_of_job(processes.cores()) if config.scheduler == "local" else None,
        "timeout_s": config.timeout_s,
        "stopping_rule": config.stopping_rule.to_json() if config.stopping_rule is not None else None,
        "platform": dict(config.platform),
        "measure": config.measure_jobs,
    }

"""The jobs in the search's slots: launched, watched, tried again when their worker vanishes, given up, cancelled.

It says which jobs have ended and how; which to start, and when to stop, is the driver's to decide. A job is tried again
only when a slot is given to it, so a resumed search never runs more at a time than it may.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

from hyperpower_runner import presence
from hyperpower_runner.errors import ExperimentError
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.job_files import JobFiles, read_json
from hyperpower_runner.launchers import Fate, Launcher, WorkerState
from hyperpower_runner.trial import Result, Status

WATCH_S = 25.0  # for a heartbeat, of which there is one every 10 s
CANCELLED = "the search was cancelled"


class Slots:
    """Jobs by id: `active` ones occupy a slot; `waiting` ones, with the number of the attempt to make, need one.

    retries: further attempts at a job whose worker vanished; note: is told about those.
    """

    def __init__(self, experiment: Experiment, launcher: Launcher, retries: int, note: Callable[[str], None]) -> None:
        self.experiment = experiment
        self.launcher = launcher
        self.retries = retries
        self.note = note
        self.active: set[int] = set()
        self.waiting: dict[int, int] = {}
        self.cancelled: str | None = None  # why all are asked to end
        self._to_cancel: set[int] = set()
        self._launches: dict[int, int] = {}  # also of workers that ended before they claimed their attempt

    def adopt(self, job_id: int) -> bool:
        """Take over a job without a result; True where it has a worker that may live, or waits in a queue."""
        files = self.experiment.job_files(job_id)
        gone = self.launcher.poll({job_id: files}, 0.0)[job_id] is WorkerState.GONE
        if gone and files.last_attempt() == 0:
            # The worker of a killed driver may be about to claim this attempt. Then the one started here goes home.
            self.waiting[job_id] = 1
            return False
        self.active.add(job_id)
        return not gone

    def start(self, job_id: int, attempt: int = 1) -> None:
        """Launch a worker for a job, which waits on where that fails; raises LaunchError or OSError."""
        self.waiting[job_id] = attempt
        self.launcher.submit(self.experiment.job_files(job_id), attempt)
        self._launches[job_id] = max(attempt, self._launches.get(job_id, 0) + 1)
        self.active.add(job_id)
        del self.waiting[job_id]

    def start_waiting(self) -> int:
        """Give a slot to the first waiting job; returns its id."""
        job_id = min(self.waiting)
        self.start(job_id, self.waiting[job_id])
        return job_id

    def ended(self) -> Iterator[tuple[int, Result]]:
        """Free the slots of the jobs that have ended, and yield their results."""
        self._cancel_further()
        files = {job_id: self.experiment.job_files(job_id) for job_id in self.active}
        states = self.launcher.poll(files, 0.0)  # before the results: a worker may write one and end in between
        for job_id in sorted(self.active):
            if states[job_id] is WorkerState.ALIVE:
                continue  # a slot is free when its worker is gone, not when it has written its result
            result = self.experiment.read_result(job_id)
            if result is None and states[job_id] is WorkerState.GONE:
                result = self._vanished(job_id)
            if result is not None or states[job_id] is WorkerState.GONE or self.cancelled:
                self.active.discard(job_id)
            if result is not None:
                yield job_id, result

    def wait(self, timeout_s: float) -> None:
        """Sleep until a worker ends, a signal arrives, or the time is over."""
        self.launcher.poll({job_id: self.experiment.job_files(job_id) for job_id in self.active}, timeout_s)

    def cancel(self, reason: str = CANCELLED) -> None:
        """Ask all active jobs to end now."""
        self.cancelled = reason
        self._to_cancel = set(self.active)
        self._cancel_further()

    def _cancel_further(self) -> None:
        """Cancel what is left to cancel; raises OSError where the directory does not take the request."""
        for job_id in sorted(self._to_cancel):
            if job_id in self.active and self.cancelled is not None:
                self.launcher.cancel(self.experiment.job_files(job_id), self.cancelled)
            self._to_cancel.discard(job_id)

    def _vanished(self, job_id: int) -> Result | None:
        """Put a job whose worker is gone without a result back in the queue, or give it up."""
        files = self.experiment.job_files(job_id)
        attempt = files.last_attempt()
        attempts = max(attempt, self._launches.get(job_id, 0))
        fate = self.launcher.fate(files)
        if self.cancelled is not None or files.stop.exists():
            return self._give_up(job_id, Fate(self.cancelled or CANCELLED, Status.CANCELLED))
        if fate.status is not None:
            return self._give_up(job_id, fate)
        if attempts > self.retries:
            times = f"{attempts} times" if attempts > 1 else "and max-retries is 0"
            return self._give_up(job_id, Fate(f"{fate.clause} {times}", Status.LOST))
        self.note(f"job {job_id}: {fate.clause}; attempt {attempts + 1} of {self.retries + 1}")
        self.waiting[job_id] = attempt + 1
        return None

    def _give_up(self, job_id: int, fate: Fate) -> Result:
        assert fate.status is not None
        files = self.experiment.job_files(job_id)
        begun_s, ended_s = files.signs_s() or (time.time(),) * 2
        result = Result(fate.status, reason=fate.clause, started_s=begun_s, ended_s=ended_s, host=socket.gethostname())
        # First the result: a driver that finds nothing but `stop` takes the job for one that was to be cancelled.
        result = self.experiment.write_result(job_id, result)
        self.launcher.cancel(files, fate.clause)  # its script may have outlived its worker
        return result


def living(experiment: Experiment, launcher: Launcher, note: Callable[[str], None]) -> list[int]:
    """The jobs that have a worker, or wait in a queue; those on hosts that cannot be seen are watched for a while."""
    files = {job_id: experiment.job_files(job_id) for job_id in experiment.unfinished()}
    if not files:  # there is no need to ask a queue
        return []
    states = launcher.poll(files, 0.0)
    found = [job_id for job_id, state in states.items() if state is WorkerState.ALIVE]
    unknown = [job_id for job_id, state in states.items() if state is WorkerState.UNKNOWN]
    found += [job_id for job_id in unknown if _may_wait(files[job_id])]
    unseen = {files[job_id].heartbeat: job_id for job_id in unknown if job_id not in found}
    if unseen:
        note(f"Jobs {sorted(unseen.values())} cannot be seen from here; watching for {WATCH_S:g} s whether they beat")
        found += [unseen[heartbeat] for heartbeat in presence.beating(unseen, WATCH_S)]
    return sorted(found)


def _may_wait(files: JobFiles) -> bool:
    """Whether a job whose state is unknown may be in a queue that does not answer now."""
    claimed = files.last_attempt()
    try:
        submitted = (read_json(files.launch) or {}).get("attempt")
    except ExperimentError:
        submitted = None
    return not claimed or (isinstance(submitted, int) and submitted > claimed)


def cancel_left(
    experiment: Experiment, launcher: Launcher, reason: str, note: Callable[[str], None]
) -> tuple[list[int], list[int]]:
    """Cancel the jobs that have a worker, or wait in a queue, but no driver.

    Returns those that have ended so, and those that were asked to end but cannot be seen from here.
    """
    slots = Slots(experiment, launcher, 0, note)
    left = living(experiment, launcher, note)
    for job_id in left:
        slots.adopt(job_id)
    slots.cancel(reason)
    ended = []
    while slots.active:
        ended += [job_id for job_id, _ in slots.ended()]
        slots.wait(1.0)
    return sorted(ended), [job_id for job_id in left if job_id not in ended]

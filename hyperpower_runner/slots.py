"""The jobs in the search's slots: launched, watched, tried again when their worker vanishes, given up, cancelled.

It says which jobs have ended and how; which to start, and when to stop, is the driver's to decide. A job is tried again
only when a slot is given to it, so a resumed search never runs more at a time than it may.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

from hyperpower_runner.experiment import Experiment
from hyperpower_runner.launchers import Launcher, WorkerState
from hyperpower_runner.trial import Result, Status


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
        self.cancelled = False
        self._launches: dict[int, int] = {}  # also of workers that ended before they claimed their attempt

    def adopt(self, job_id: int) -> bool:
        """Take over a job without a result; True where it has a worker that may live."""
        files = self.experiment.job_files(job_id)
        attempt = files.last_attempt()
        if attempt == 0:
            # The worker of a killed driver may be about to claim this attempt. Then the one started here goes home.
            self.waiting[job_id] = 1
            return False
        self.active.add(job_id)
        return self.launcher.poll({job_id: files}, 0.0)[job_id] is not WorkerState.GONE

    def start(self, job_id: int, attempt: int = 1) -> None:
        """Launch a worker for a job."""
        self.active.add(job_id)
        self._launches[job_id] = max(attempt, self._launches.get(job_id, 0) + 1)
        self.launcher.submit(self.experiment.job_files(job_id), attempt)

    def start_waiting(self) -> int:
        """Give a slot to the first waiting job; returns its id."""
        job_id = min(self.waiting)
        self.start(job_id, self.waiting.pop(job_id))
        return job_id

    def ended(self) -> Iterator[tuple[int, Result]]:
        """Free the slots of the jobs that have ended, and yield their results."""
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

    def cancel(self, reason: str) -> None:
        """Ask all active jobs to end now."""
        self.cancelled = True
        for job_id in self.active:
            self.launcher.cancel(self.experiment.job_files(job_id), reason)

    def _vanished(self, job_id: int) -> Result | None:
        """Put a job whose worker is gone without a result back in the queue, or give it up."""
        files = self.experiment.job_files(job_id)
        attempt = files.last_attempt()
        attempts = max(attempt, self._launches.get(job_id, 0))
        if self.cancelled or files.stop.exists():
            return self._give_up(job_id, Status.CANCELLED, "the search was cancelled")
        if attempts > self.retries:
            return self._give_up(job_id, Status.LOST, f"its worker vanished {attempts} times")
        self.note(f"job {job_id}: its worker vanished; attempt {attempts + 1} of {self.retries + 1}")
        self.waiting[job_id] = attempt + 1
        return None

    def _give_up(self, job_id: int, status: Status, reason: str) -> Result:
        self.launcher.cancel(self.experiment.job_files(job_id), reason)  # its script may have outlived its worker
        now_s = time.time()
        result = Result(status, reason=reason, started_s=now_s, ended_s=now_s, host=socket.gethostname())
        return self.experiment.write_result(job_id, result)

"""Workers as jobs of a Slurm cluster, which reads and writes the experiment directory as this host does.

Each is put into the queue by sbatch under a random name that is on disk before, so a driver that was killed anywhere
finds its jobs again, and submits none twice. One squeue tells of all. What lies on disk is trusted more than what Slurm
says: a result before everything, and a heartbeat before Slurm's word that a node failed. Slurm does not retry; that is
for the driver to decide.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperpower_runner import worker
from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.errors import ExperimentError, LaunchError
from hyperpower_runner.job_files import JobFiles, read_json, write_json
from hyperpower_runner.launchers import VANISHED, Fate, WorkerState
from hyperpower_runner.launchers import slurm_commands as slurm
from hyperpower_runner.launchers.heartbeats import Heartbeats
from hyperpower_runner.launchers.slurm_queue import Queue
from hyperpower_runner.sbatch_options import say_time
from hyperpower_runner.trial import Status

PACKAGE_PARENT = Path(__file__).parents[2]  # as in local.py: `python -m` looks for modules in its directory first
GRACE_S = 60.0  # for files to become visible here, and for a heartbeat, after Slurm said that a job ended
SILENCE_S = 120.0  # a worker that began, is not suspended, and has not beaten for so long is gone
# For a worker to begin where Slurm says that it runs. A node that hangs looks like one that is slow to prepare, but is
# not to hold a slot for ever; and as an attempt is claimed once, a worker that is merely late makes nothing run twice.
UNCLAIMED_S = 900.0
ACCEPTED_S = 120.0  # for a job that sbatch took to appear in the queue, which some sites cache, before it is sent again
ABSENT_S = 10.0  # likewise for one of which nobody knows whether sbatch took it
LOOK_S = 10.0  # between two looks into the folder of a running job: a shared file system pays for each
SPARE_S = 90.0  # for a worker to begin, and to end its script at its time limit
PATIENCE_S = 30.0  # with a job in the queue, before the user is told why it waits
MOST_SUBMISSIONS = 3  # of one attempt, when the queue forgets them

FATES = {
    "TIMEOUT": Fate("Slurm ended it at its time limit", Status.TIMED_OUT),
    "DEADLINE": Fate("Slurm ended it at its deadline", Status.TIMED_OUT),
    "CANCELLED": Fate("it was cancelled in Slurm", Status.CANCELLED),
    "OUT_OF_MEMORY": Fate("Slurm ended it because it needed more memory than it may use", Status.FAILED),
}


@dataclass
class _Submission:
    """A worker in the queue, or on its way into it. Times are of the monotonic clock."""

    token: str  # its name in the queue
    attempt: int
    since_s: float
    again_s: float  # when it is submitted again if the queue does not list it
    submissions: int = 0  # by this launcher, and accepted
    heard: bool = False  # whether the queue was seen since
    entry: slurm.Entry | None = None  # what the queue said of it last
    ended_s: float | None = None  # since when the queue says that it ended, or no longer lists it
    started_s: float = math.inf  # since when it should have begun: the queue says so, and its folder can be read
    claimed: bool = False  # whether its worker began
    look_s: float = 0.0  # when its folder is looked into again
    cancelled: bool = False
    fate: Fate | None = None  # once it is gone


class SlurmLauncher:
    """Submits workers to Slurm; finds those that an earlier driver submitted.

    words: further options of sbatch, see `job_options`. wake: a descriptor that ends a `poll` early when it becomes
    readable, or None. polling_s: the least time between two calls of squeue. note: is told what a user should know.
    """

    def __init__(
        self,
        words: Sequence[str] = (),
        wake: int | None = None,
        polling_s: float = 1.0,
        note: Callable[[str], None] = lambda text: None,
        grace_s: float = GRACE_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._words = list(words)
        self._wake = wake
        self._polling_s = polling_s
        self._note = note
        self._grace_s, self._silence_s = grace_s, silence_s
        self._accepted_s, self._absent_s = min(ACCEPTED_S, 2 * grace_s), min(ABSENT_S, grace_s)
        self._look_s = min(LOOK_S, grace_s / 4)
        self._heartbeats = Heartbeats(self._look_s)
        self._submissions: dict[str, _Submission] = {}  # by job folder
        self._to_cancel: set[str] = set()  # names of jobs that Slurm did not cancel when it was asked to
        self._queue = Queue(polling_s)
        self._out = False  # whether Slurm did not answer the last time
        self._told: set[str] = set()

    def submit(self, files: JobFiles, attempt: int) -> None:
        """Put a worker into the queue, or find the one that a killed driver put there."""
        known = self._submission(files)
        if known is not None and known.attempt == attempt and known.fate is None:
            return
        token = f"{slurm.PREFIX}{int(files.folder.name)}-{os.urandom(8).hex()}"
        write_json(files.launch, {"attempt": attempt, "token": token})
        now_s = time.monotonic()
        submission = self._submissions[str(files.folder)] = _Submission(token, attempt, now_s, now_s)
        self._heartbeats.forget(files)
        if not self._out:
            self._sbatch(files, submission)

    def poll(self, jobs: dict[int, JobFiles], timeout_s: float) -> dict[int, WorkerState]:
        until_s = time.monotonic() + timeout_s
        for files in jobs.values():
            self._submission(files)  # before Slurm is asked, so that the first answer tells of all
        while True:
            self._hear_all()
            states = {job_id: self._state(files) for job_id, files in jobs.items()}
            unasked = self._queue.asked_s == -math.inf and not self._out and WorkerState.UNKNOWN in states.values()
            left_s = math.inf if unasked else until_s - time.monotonic()
            if left_s <= 0 or WorkerState.GONE in states.values() or self._queue.wait(left_s, self._wake):
                return states

    def fate(self, files: JobFiles) -> Fate:
        submission = self._submissions.get(str(files.folder))
        return (submission.fate if submission is not None else None) or VANISHED

    def cancel(self, files: JobFiles, reason: str) -> None:
        files.request_stop(reason)
        submission = self._submission(files)
        if submission is not None and submission.ended_s is None:
            submission.cancelled = True
            self._scancel(submission.token)
            self._queue.hurry()

    # --- what Slurm is told

    def _sbatch(self, files: JobFiles, submission: _Submission) -> None:
        """Submit a worker; where Slurm does not take it now, a later poll does so again. Raises LaunchError."""
        root, job_id = files.folder.parent.parent.resolve(), files.folder.name
        command = [sys.executable, "-m", "hyperpower_runner.worker", str(root), job_id, str(submission.attempt)]
        output = slurm.filename_pattern(str(root / "jobs" / job_id / files.output.name))
        words = ["--output", output, "--open-mode", "append", "--chdir", str(PACKAGE_PARENT)]
        patience_s = self._absent_s
        try:
            slurm.submit([*self._words, *words], submission.token, f"exec {shlex.join(command)}")
            submission.submissions += 1
            patience_s = self._accepted_s
        except slurm.AwayError as error:
            self._miss(error)
        except slurm.LaterError as error:
            self._tell(f"Slurm takes no more jobs now ({error}); they are submitted when it does")
        except LaunchError:
            files.launch.unlink(missing_ok=True)
            self._forget(files)
            raise
        submission.since_s, submission.heard = time.monotonic(), False
        submission.again_s = submission.since_s + patience_s

    def _scancel(self, token: str) -> None:
        """Cancel a job; where Slurm does not do it now, a later poll asks again, also when another attempt is made."""
        self._to_cancel.add(token)
        if self._out:
            return
        try:
            slurm.cancel(token)
            self._to_cancel.discard(token)
        except slurm.AwayError as error:
            self._miss(error)
        except (slurm.LaterError, LaunchError) as error:  # it may be about to end by itself
            self._tell(f"a job could not be cancelled in Slurm ({error}); it is tried again")

    # --- what Slurm tells

    def _hear_all(self) -> None:
        """Take in what the queue says, where it says something now."""
        try:
            answer = self._queue.look()
        except slurm.AwayError as error:
            self._miss(error)
            return
        if answer is None:
            return
        if self._out:
            self._note("Slurm answers again.")
        self._out = False
        for submission in self._submissions.values():
            self._hear(submission, answer.get(submission.token, []))
        for token in sorted(self._to_cancel):
            if token in answer and all(entry.ended for entry in answer[token]):
                self._to_cancel.discard(token)
            else:
                self._scancel(token)

    def _miss(self, error: slurm.AwayError) -> None:
        """Slurm is not there: until it is, nothing is known of its jobs."""
        if not self._out:
            self._note(f"Slurm does not answer ({error}); the search goes on when it does")
        self._out = True

    def _hear(self, submission: _Submission, entries: Sequence[slurm.Entry]) -> None:
        """Take in what the queue says of one job."""
        if self._queue.asked_s <= submission.since_s:
            return  # it was asked before the job was submitted
        submission.heard = True
        # Of a job that was submitted twice, the one that runs counts; of those that ended, not the one that went home.
        told = max(entries, key=lambda entry: (not entry.ended, entry.state != "COMPLETED"), default=None)
        submission.entry = told or submission.entry
        started = told is not None and told.started
        submission.started_s = min(submission.started_s, time.monotonic()) if started else math.inf
        if told is not None and not told.ended:
            submission.ended_s = None
        elif (submission.entry is not None or submission.claimed) and submission.ended_s is None:
            submission.ended_s, submission.look_s = time.monotonic(), -math.inf

    # --- what that means

    def _state(self, files: JobFiles) -> WorkerState:
        submission = self._submission(files)
        if submission is None:
            return self._state_unlisted(files)
        now_s = time.monotonic()
        if now_s >= submission.look_s:
            near = submission.entry is None or submission.ended_s is not None
            submission.look_s = now_s + (self._polling_s if near else self._look_s)
            names = _names_in(files.folder)
            submission.claimed = submission.claimed or files.attempt(submission.attempt).name in names
            if files.result.name in names:
                self._forget(files)
                return WorkerState.GONE
            if not names:  # the file system is away
                submission.started_s = max(submission.started_s, now_s)
        if submission.fate is None and not self._out:
            submission.fate = self._follow_up(files, submission, now_s)
        if submission.fate is not None:
            return WorkerState.GONE
        known = submission.entry is not None or submission.submissions
        return WorkerState.ALIVE if known and not self._out else WorkerState.UNKNOWN

    def _follow_up(self, files: JobFiles, submission: _Submission, now_s: float) -> Fate | None:
        """Submit a job without a result that the queue forgot again, and cancel one whose worker hangs.

        Returns why its worker is gone; None while it may yet live.
        """
        entry = submission.entry
        if entry is None and not submission.claimed:
            return self._submit_again(files, submission)
        if submission.ended_s is not None:
            over_s = min(now_s - submission.ended_s, self._heartbeats.silent_s(files))
            if over_s >= self._grace_s or (submission.cancelled and not submission.claimed):
                return _fate_of(files, entry, submission.claimed)
        elif entry is None:
            return None  # the queue has not been heard since it began
        elif entry.suspended:
            self._heartbeats.forget(files)
        elif submission.claimed:
            if self._heartbeats.silent_s(files) >= self._silence_s:
                clause = f"its worker gave no sign of life for {self._silence_s:g} s, although Slurm says {entry.state}"
                return self._abandon(submission, clause)
        elif entry.waits and now_s - submission.since_s > PATIENCE_S:
            why = entry.reason if entry.state == "PENDING" else f"{entry.state} {entry.reason}".strip()
            self._tell(f"job {int(files.folder.name)}", f"waits in the queue of Slurm: {why}")
        elif now_s - submission.started_s >= UNCLAIMED_S:
            clause = f"its worker did not begin within {UNCLAIMED_S / 60:g} min, although Slurm says {entry.state}"
            return self._abandon(submission, f"{clause}; does its node hang, or not reach {files.folder}?")
        return None

    def _submit_again(self, files: JobFiles, submission: _Submission) -> Fate | None:
        """Submit a job that is not in the queue again; returns why not, if it was cancelled, or submitted too often."""
        if submission.heard and submission.cancelled:
            return FATES["CANCELLED"]
        if submission.heard and self._queue.asked_s >= submission.again_s:
            if submission.submissions >= MOST_SUBMISSIONS:
                return self._abandon(submission, f"Slurm took it {submission.submissions} times, but does not list it")
            self._sbatch(files, submission)
        return None

    def _abandon(self, submission: _Submission, clause: str) -> Fate:
        """Cancel a job that another attempt may replace, for the reason given."""
        self._scancel(submission.token)
        return Fate(clause)

    def _state_unlisted(self, files: JobFiles) -> WorkerState:
        """Of a worker that no launcher of this kind started, there are but its files."""
        if not files.last_attempt() or files.result.exists():
            return WorkerState.GONE
        return WorkerState.GONE if self._heartbeats.silent_s(files) >= self._silence_s else WorkerState.UNKNOWN

    def _tell(self, what: str, why: str = "") -> None:
        """Tell the user something; of several jobs in the same case only of the first."""
        if (why or what) not in self._told:
            self._told.add(why or what)
            self._note(f"{what} {why}".strip())

    # --- what is known

    def _submission(self, files: JobFiles) -> _Submission | None:
        """What was submitted last for a job, by this launcher or an earlier one."""
        known = self._submissions.get(str(files.folder))
        if known is not None:
            return known
        record = {}
        with contextlib.suppress(ExperimentError):
            record = read_json(files.launch) or {}
        attempt, token = record.get("attempt"), str(record.get("token"))
        if type(attempt) is not int or attempt < files.last_attempt() or not _is_name_of(files, token):
            return None
        now_s = time.monotonic()
        found = self._submissions[str(files.folder)] = _Submission(token, attempt, now_s, now_s + self._absent_s)
        return found

    def _forget(self, files: JobFiles) -> None:
        self._submissions.pop(str(files.folder), None)
        self._heartbeats.forget(files)


def job_options(config: ExperimentConfig) -> list[str]:
    """The options that all workers of an experiment are submitted with: the user's, and a limit of time."""
    words = list(config.scheduler_args)
    if config.timeout_s is not None and not say_time(words):
        # The worker keeps to timeout-s by itself. Slurm's limits are in minutes, and for a worker that cannot.
        longest_s = config.timeout_s + SPARE_S + (worker.LONGEST_MEASUREMENT_S if config.measure_jobs else 0.0)
        words.append(f"--time={math.ceil(longest_s / 60)}")
    return words


def _fate_of(files: JobFiles, entry: slurm.Entry | None, claimed: bool) -> Fate:
    """What Slurm's last word on a job means, where no result was left."""
    if entry is None or not entry.ended:
        return Fate("its worker vanished, and so did its job from the queue of Slurm")
    if entry.state in FATES and (claimed or entry.state != "TIMEOUT"):  # which says nothing of params never tried
        return FATES[entry.state]
    if claimed:
        return Fate(f"its worker vanished (Slurm says {entry.how})")
    if entry.unstarted:
        return Fate(f"Slurm could not start its worker; does its node see {files.folder}?")
    return Fate(f"its worker ended before it began (Slurm says {entry.how}; see {files.output})")


def _is_name_of(files: JobFiles, token: str) -> bool:
    """Whether `submit` may have made it: scancel would take any other name, and "", for somebody else's jobs."""
    return re.fullmatch(f"{slurm.PREFIX}{int(files.folder.name)}-[0-9a-f]+", token) is not None


def _names_in(folder: Path) -> set[str]:
    """The files of a folder. It is listed, because NFS then asks its server for new ones."""
    try:
        return {entry.name for entry in os.scandir(folder)}
    except OSError:
        return set()

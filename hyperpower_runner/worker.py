"""Runs one job to its end: starts the script, supervises it, writes its result.

    python -m hyperpower_runner.worker EXPERIMENT JOB_ID ATTEMPT

The worker is a process of its own that outlives a killed driver. It claims the attempt (so that no two workers run it),
copies the script's output to output.log, touches the heartbeat, enforces the time limit, ends a training that the
stopping rule calls diverged, has the network of a completed job measured, and writes result.json exactly once. On a
full disk it waits for room. Told to end by a signal, without a request to stop, it leaves no result, so that the job is
tried again. It knows nothing of the search: all it needs is in job.json. Standard library only, because a worker is
started for every job.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hyperpower_runner import processes
from hyperpower_runner.errors import PASSING, ExperimentError, printable, shortened
from hyperpower_runner.job_files import (
    LONGEST_LINE,
    JobFiles,
    as_number,
    last_object,
    read_json,
    write_json,
)
from hyperpower_runner.stopping import StoppingRule
from hyperpower_runner.supervision.attempt import Attempt
from hyperpower_runner.supervision.attending import Orders, attend
from hyperpower_runner.supervision.job_watch import JobWatch
from hyperpower_runner.supervision.learning_curve import LearningCurve
from hyperpower_runner.supervision.process_tree import ProcessTree, why_not_started
from hyperpower_runner.supervision.reported import MEASUREMENT, explain_exit, read_metrics
from hyperpower_runner.supervision.script_output import CHUNK, OutputLog, Stream
from hyperpower_runner.trial import Job, Result, Status

HEARTBEAT_S = 10.0  # a shared file system pays for each
WATCH_S = 0.5  # how often progress and the request to stop are looked at, at the start of a job
LONGEST_WATCH_S = 5.0  # likewise of an old one
WATCHES = 50  # looks at least over the age of a job, until they are that far apart
DIVERGED_GRACE_S = 20.0  # for a script to end by itself after its training diverged
STOP_GRACE_S = 10.0  # likewise after a request to stop
LONGEST_MEASUREMENT_S = 600.0  # of a completed job's network, until the device is free and its set-up included
LONGEST_REASON = 500
ORDER_S = 1.0  # for a signal to reach this worker, after it ended the script
SUSPENDED_S = 3 * HEARTBEAT_S  # a worker that did nothing for so long could not
PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0  # between two tries at what may pass

T = TypeVar("T")


class NoResultError(Exception):
    """The worker ends without a result, for the reason given."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class Worker:
    """The supervision of one script, from its start to its result."""

    def __init__(self, root: Path, files: JobFiles, job: Job, attempt: int, orders: Orders, log: OutputLog) -> None:
        self.root = root
        self.files = files
        self.job = job
        self.attempt = Attempt(files, attempt)
        self.orders = orders
        self.log = log
        rule = StoppingRule.from_json(job.stopping_rule) if job.stopping_rule is not None else None
        self.curve = LearningCurve(files.progress, job.job_id, job.metric, rule)
        self.watch = JobWatch(files, self.attempt)
        self.timed_out = False
        self.started_s, self._begun = time.time(), time.monotonic()  # the first may jump
        self._next_beat = self._next_look = self._ticked = 0.0  # on the monotonic clock
        self._deadline = math.inf
        self._waits_for: int | None = None  # the kind of error
        self._announced: set[int] = set()  # signals that were passed on to the script

    def work(self) -> None:
        """Claim the attempt, run the job, and write its result; raises NoResultError, or OSError where it cannot."""
        # Whoever writes this file runs the attempt; a second worker, of a driver that could not know, goes home.
        if self.files.result.exists() or not self._insist(self.attempt.claim):
            return
        result = self._run() if self.attempt.number == 1 else self._run_again()
        self.watch.look(time.monotonic(), sure=True)
        self._check_standing()
        content = {"id": self.job.job_id, **result.to_json()}
        self._insist(lambda: write_json(self.files.result, content, exclusive=True))
        with contextlib.suppress(OSError):
            self.files.trained.unlink(missing_ok=True)  # whoever deletes the result wants another training

    def _run_again(self) -> Result:
        """Make up for an attempt that was lost: only in part where it was lost while its network was measured."""
        self._insist(self.attempt.end_remains)
        trained = self._insist(self._trained)
        if trained is None:
            self._insist(self._put_aside_curve)
            return self._run()
        return replace(self._with_measurement(trained), ended_s=trained.ended_s)  # nobody worked in between

    def _put_aside_curve(self) -> None:
        """The curve of the training that was lost is not this one's."""
        if self.files.progress.exists():
            self.files.progress.replace(self.files.progress.with_name(f"progress-{self.attempt.number - 1}.jsonl"))

    def _insist(self, write: Callable[[], T]) -> T:
        """Write, again and again while that may pass; raises NoResultError where the worker shall end meanwhile."""
        pause_s = PAUSE_S
        while True:
            ordered = self.orders.number is not None  # before the try, so that there is one after the order
            try:
                return write()
            except OSError as error:
                if error.errno not in PASSING:
                    raise
                if error.errno != self._waits_for:
                    self._waits_for = error.errno
                    self.log.say(f"{self.files.folder}: {error}; waiting for better times")
            if ordered:
                raise self._interrupted()
            self.orders.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self._keep_up()
            self._check_standing()

    def _interrupted(self) -> NoResultError:
        number = self.orders.number or signal.SIGTERM
        sentence = (
            f"the worker was told to end by {signal.Signals(number).name}: no result, so that the job is tried again"
        )
        return NoResultError(sentence, 128 + number)

    def _check_standing(self) -> None:
        """Raise NoResultError where this attempt does not count any more."""
        if self.watch.is_given_up:
            why = "it was taken for lost and another one begun, or its job was deleted"
            raise NoResultError(f"this attempt does not count any more, since {why}: it leaves no result", 0)

    def _keep_up(self) -> float:
        """Do what is due now and then; returns when that is next, on the monotonic clock."""
        now = time.monotonic()
        if now >= self._next_beat:
            self.watch.beat()
            self._next_beat = now + HEARTBEAT_S
        if now >= self._next_look:
            self.watch.look(now)
            self._read(self.curve.look)
            self._next_look = now + min(LONGEST_WATCH_S, max(WATCH_S, (now - self._begun) / WATCHES))
        return min(self._next_beat, self._next_look)

    def _read(self, look_at_curve: Callable[[], object]) -> None:
        was_full = self.curve.is_full
        look_at_curve()
        if self.curve.is_full and not was_full:
            self.log.say(f"{self.files.progress}: is too long; what comes now is not read")

    def _run(self) -> Result:
        self.started_s, self._begun = time.time(), time.monotonic()  # it may have waited for its claim
        self.watch.look(time.monotonic(), sure=True)
        if self.watch.stop_reason is not None:
            return self._result(Status.CANCELLED, self.watch.stop_reason, None)
        if self.orders.number is not None:
            raise self._interrupted()
        try:
            script = self._start()
        except (OSError, ValueError, TypeError) as error:
            return self._result(Status.FAILED, why_not_started(self.job.command, self.root, error), None)
        stdout = Stream(script.stdout, LONGEST_LINE, self.log)
        stderr = Stream(script.stderr, CHUNK, self.log)
        self.orders.passed_on()  # what came before was not for this script
        self._ticked = time.monotonic()
        self._deadline = self._ticked + self.job.timeout_s if self.job.timeout_s else math.inf
        with script:
            attend(script, [stdout, stderr], self.orders, lambda: self._tick(script))
        if script.exit_code is None:
            self.log.say(f"process {script.pid} could not be ended, not even by SIGKILL")
        # The script may have acted on what came since the last look; and who sends a signal has written why, before.
        self.watch.look(time.monotonic(), sure=True)
        self._read(self.curve.read_out)
        result = self._judge(script, stdout.tail, stderr.tail)
        return self._with_measurement(result) if self.job.measure and result.status is Status.COMPLETED else result

    def _trained(self) -> Result | None:
        try:
            content = read_json(self.files.trained)
            return Result.from_json(content) if content is not None else None
        except (ExperimentError, KeyError, TypeError, ValueError):
            return None  # it was not this program that wrote it

    def _start(self) -> ProcessTree:
        path = str(self.files.job.resolve())
        environment = processes.script_environment(path, self.job.threads, self.job.env)
        environment[processes.WORKER_VARIABLE] = processes.mark_of(self.attempt.identity)
        return ProcessTree([*self.job.command, path], cwd=self.root, env=environment)

    def _tick(self, script: ProcessTree) -> float:
        """See whether the script must end."""
        next_at = self._keep_up()
        now = time.monotonic()
        if now - self._ticked > SUSPENDED_S:  # perhaps both were stopped, by a scheduler that needed the cores
            self._deadline += now - self._ticked
        self._ticked = now
        for number in self.orders.passed_on():
            self._announced.add(number)
            script.signal(number)
        if now >= self._deadline and not script.signalled:
            self.timed_out = True
        if self.timed_out or self.orders.number is not None or self.watch.is_given_up:
            script.end_within(0.0)
        elif self.watch.stop_reason is not None:
            script.end_within(STOP_GRACE_S)
        elif self.curve.decision.stop:
            script.end_within(DIVERGED_GRACE_S)
        return min(next_at, script.enforce(), self._deadline if not self.timed_out else math.inf)

    def _with_measurement(self, result: Result) -> Result:
        """Have the trained network's power and memory measured; what the script itself reported of them is kept aside.

        Until then the result is kept aside, so that a worker that is killed meanwhile loses no training.
        """
        self._insist(lambda: write_json(self.files.trained, {"id": self.job.job_id, **result.to_json()}))
        content = self._measure()
        measured = {name: as_number(value) for name, value in content.pop("metrics", {}).items()}
        told = {name: value for name, value in result.metrics.items() if name in measured}
        extra = {**result.extra, MEASUREMENT: {**content, "reported": told} if told else content}
        ended_s = max(result.ended_s, self._now_s())
        return replace(result, metrics={**result.metrics, **measured}, extra=extra, ended_s=ended_s)

    def _measure(self) -> dict[str, Any]:
        """What `hardware.measuring` says of this job, or the reason why it says nothing."""
        command = [sys.executable, "-m", "hyperpower_runner.hardware.measuring", str(self.root), self.files.folder.name]
        environment = {**os.environ, processes.WORKER_VARIABLE: processes.mark_of(self.attempt.identity)}
        deadline, told = time.monotonic() + LONGEST_MEASUREMENT_S, ""

        def tick() -> float:
            nonlocal told
            next_at = self._keep_up()
            if self.orders.number is not None or self.watch.is_given_up or self.watch.stop_reason is not None:
                told = told or "it was asked to stop"
            elif time.monotonic() >= deadline:
                told = told or f"it took longer than {LONGEST_MEASUREMENT_S:g} s"
            if told:
                measuring.end_within(0.0)
            return min(next_at, measuring.enforce(), math.inf if told else deadline)

        with ProcessTree(command, env=environment) as measuring:
            stdout = Stream(measuring.stdout, LONGEST_LINE)
            attend(measuring, [stdout, Stream(measuring.stderr, CHUNK, self.log)], self.orders, tick)
        content = last_object(stdout.tail)  # what stands before it, features(params) printed
        if content is not None and isinstance(content.get("metrics", {}), dict) and not told:
            return content
        return {"reason": told or f"measuring ended with exit code {measuring.exit_code}; see output.log"}

    def _judge(self, script: ProcessTree, stdout: bytes, stderr: bytes) -> Result:
        """Turn how the script ended into a result; a request or a limit that ended it comes before its exit code."""
        measured = {"duration_s": round(self._now_s() - self.started_s, 3)}
        metrics, extra, complaint = read_metrics(stdout, self.job.metric, measured)
        status, reason = Status.COMPLETED, complaint
        if self.watch.stop_reason is not None:
            status, reason = Status.CANCELLED, self.watch.stop_reason
        elif self.timed_out:
            status, reason = Status.TIMED_OUT, f"it ran longer than timeout-s, {self.job.timeout_s:g} s"
        elif self.curve.decision.stop:
            status, reason = Status.TERMINATED, self.curve.decision.reason
            if metrics.get(self.job.metric) is None:
                metrics[self.job.metric] = self.curve.reached
        elif self._is_ended_with(script):
            raise self._interrupted()
        elif self._announced & {-(script.exit_code or 0), (script.exit_code or 0) - 128}:
            sentence = (
                f"its script was ended by a signal that was passed on ({explain_exit(script.exit_code or 0, stderr)})"
            )
            raise NoResultError(f"{sentence}: no result, so that the job is tried again", 1)
        elif script.exit_code:
            status, reason = Status.FAILED, explain_exit(script.exit_code, stderr)
        elif complaint:
            status = Status.FAILED
        return self._result(status, reason, script.exit_code, metrics, extra)

    def _is_ended_with(self, script: ProcessTree) -> bool:
        """Whether a signal that asked this worker to end ended the script; Slurm sends it to both, one by one."""
        if not script.signalled and script.exit_code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            self.orders.wait(ORDER_S)
        return self.orders.number is not None and (script.signalled or script.exit_code != 0)

    def _result(
        self,
        status: Status,
        reason: str | None,
        exit_code: int | None,
        metrics: dict[str, float | None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> Result:
        return Result(
            status=status,
            metrics=metrics or {},
            reason=printable(shortened(reason, LONGEST_REASON)) if reason is not None else None,
            epoch=self.curve.decision.epoch if status is Status.TERMINATED else self.curve.epoch,
            extra=extra or {},
            started_s=self.started_s,
            ended_s=self._now_s(),
            host=self.attempt.identity["host"],
            exit_code=exit_code,
        )

    def _now_s(self) -> float:
        """Seconds since the epoch by a clock that does not jump after the worker has started."""
        return self.started_s + time.monotonic() - self._begun


def read_job(path: Path) -> Job:
    """Read a job.json; raises ExperimentError."""
    content = read_json(path)
    if content is None:
        raise ExperimentError(f"{path}: there is no such file")
    try:
        job = Job.from_json(content)
        if not job.command or not all(isinstance(word, str) for word in job.command):
            raise TypeError(f"command is {job.command!r}")
        if not isinstance(job.timeout_s, int | float | None):
            raise TypeError(f"timeout_s is {job.timeout_s!r}")
        if not isinstance(job.stopping_rule, dict | None):
            raise TypeError(f"stopping_rule is {job.stopping_rule!r}")
        StoppingRule.from_json(job.stopping_rule or {})
        return job
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        found = shortened(repr(error), LONGEST_REASON)
        raise ExperimentError(f"{path}: is not a job file ({found}); restore it or delete its folder") from None


def main(root: Path, job_id: str, attempt: int) -> int:
    """Claim an attempt at a job, run it, and write its result; returns the exit code."""
    processes.name_worker(job_id)
    orders = Orders()  # before the claim: whoever reads it may send one
    files = JobFiles(root / "jobs" / job_id)
    log = OutputLog(files.output)
    try:
        Worker(root, files, read_job(files.job), attempt, orders, log).work()
    except NoResultError as end:
        log.say(f"{files.folder}: {end}")
        return end.exit_code
    except ExperimentError as error:
        log.say(str(error))
        return 1
    except OSError as error:
        log.say(f"{files.folder}: it cannot be run to its end ({error})")
        return 1
    return 0


if __name__ == "__main__":
    # The driver waits for this process's end to fill the slot, so the interpreter is not taken down in good order.
    os._exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))

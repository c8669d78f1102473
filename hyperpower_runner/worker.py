"""Runs one job to its end: starts the script, supervises it, writes its result.

    python -m hyperpower_runner.worker EXPERIMENT JOB_ID ATTEMPT

The worker is a process of its own that outlives a killed driver. It claims the attempt (so that no two workers run it),
copies the script's output to output.log, touches the heartbeat, enforces the time limit, ends a training that the
stopping rule calls diverged, has the network of a completed job measured, and writes result.json exactly once. It knows
nothing of the search: all it needs is in job.json. Standard library only, because a worker is started for every job.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from hyperpower_runner import processes
from hyperpower_runner.errors import printable, shortened
from hyperpower_runner.job_files import JobFiles, as_number, last_object, read_json, read_json_lines, write_json
from hyperpower_runner.stopping import CONTINUE, CurvePoint, Decision, StoppingRule, decide
from hyperpower_runner.trial import Job, Result, Status

HEARTBEAT_S = 5.0  # a shared file system pays for each
WATCH_S = 0.5  # how often progress and the request to stop are looked at
DIVERGED_GRACE_S = 20.0  # for a script to end by itself after its training diverged
STOP_GRACE_S = 10.0  # likewise after a request to stop
TERM_GRACE_S = 5.0  # between SIGTERM and SIGKILL
DRAIN_S = 0.5  # for output that is still in the pipes when the script has ended
LONGEST_MEASUREMENT_S = 600.0  # of a completed job's network, until the device is free and its set-up included
LONGEST_LINE = 1 << 20
LONGEST_REASON = 500
BLIND_POLL_S = 0.02  # where the system cannot say when a process ends


class Worker:
    """The supervision of one script, from its start to its result."""

    def __init__(self, root: Path, files: JobFiles, job: Job) -> None:
        self.root = root
        self.files = files
        self.job = job
        self.rule = StoppingRule.from_json(job.stopping_rule) if job.stopping_rule is not None else None
        self.started_s = time.time()
        self.tail = b""  # of the script's stdout
        self.curve: list[CurvePoint] = []
        self.reached: float | None = None  # the last finite value of the wanted metric in progress.jsonl
        self.decision: Decision = CONTINUE
        self.cancelled: str | None = None  # why
        self.timed_out = False
        self._progress_size = 0
        self._kill_at: float | None = None  # on the monotonic clock: when the script has had its grace
        self._signalled = False
        self._told_to_end = False

    def run(self) -> Result:
        trained = read_json(self.files.trained)
        if trained is not None:  # by an earlier attempt, which was lost while the network was measured
            return self._with_measurement(Result.from_json(trained))
        try:
            script = self._start()
        except (OSError, ValueError) as error:
            return self._result(Status.FAILED, self._why_not_started(error), None)
        with script:  # closes the pipes
            try:
                self._supervise(script)
            finally:
                self._end_group(script, signal.SIGKILL)  # whatever the script left behind, or itself after an error
        self._watch(time.monotonic())  # once more: the script may have acted on what came since the last look
        result = self._judge(script.returncode)
        return self._with_measurement(result) if self.job.measure and result.status is Status.COMPLETED else result

    def on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """End the script, and write that it was cancelled."""
        self._told_to_end = True

    def _why_not_started(self, error: Exception) -> str:
        program = self.job.command[0]
        sentence = f"the command {self.job.command!r} could not be started: {error}"
        if isinstance(error, OSError) and error.errno == errno.ENOEXEC:
            return f'{sentence}; "{program}" needs a first line such as #!/bin/bash'
        if isinstance(error, FileNotFoundError) and (self.root / program).is_file():
            return f'{sentence}; the first line of "{program}" names no program (has it the line ends of Windows?)'
        return sentence

    def _start(self) -> subprocess.Popen[bytes]:
        path = self.files.job.resolve()
        environment = processes.script_environment(str(path), self.job.threads, self.job.env)
        return subprocess.Popen(
            [*self.job.command, str(path)],
            cwd=self.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=os.setpgrp,  # a group of its own within the worker's session
        )

    def _supervise(self, script: subprocess.Popen[bytes]) -> None:
        """Copy output and watch the clock until the script has ended."""
        deadline = time.monotonic() + self.job.timeout_s if self.job.timeout_s else math.inf
        next_beat = next_watch = 0.0
        with selectors.DefaultSelector() as selector:
            for name in ("stdout", "stderr"):
                selector.register(getattr(script, name), selectors.EVENT_READ, name)
            ended = processes.wait_handle(script.pid)
            if ended is not None:
                selector.register(ended, selectors.EVENT_READ, "end")
            while script.poll() is None:
                now = time.monotonic()
                if now >= next_beat:
                    with contextlib.suppress(OSError):  # a missed beat must not end a training
                        self.files.heartbeat.touch()
                    next_beat = now + HEARTBEAT_S
                if now >= next_watch:
                    self._watch(now)
                    next_watch = now + WATCH_S
                if now >= deadline and not self.timed_out:
                    self.timed_out, self._kill_at = True, now
                self._enforce(script, now)
                wake_at = min(next_beat, next_watch, deadline if not self.timed_out else math.inf)
                wake_at = wake_at if ended is not None else min(wake_at, now + BLIND_POLL_S)
                self._copy_output(selector, max(0.0, wake_at - now))
            if ended is not None:
                selector.unregister(ended)
                os.close(ended)
            drained_at = time.monotonic() + DRAIN_S  # a grandchild may hold the pipes open for ever
            while selector.get_map() and time.monotonic() < drained_at:
                if not self._copy_output(selector, 0.02):
                    self._end_group(script, signal.SIGKILL)

    def _watch(self, now: float) -> None:
        """Look at what others may have written: the request to stop, and the learning curve."""
        if self.files.stop.exists() and self.cancelled is None:
            self.cancelled = self.files.stop.read_text(errors="replace").strip() or "it was asked to stop"
            self._kill_at = now + STOP_GRACE_S
        self._read_progress()
        if self.decision.stop and self._kill_at is None:
            self._kill_at = now + DIVERGED_GRACE_S

    def _read_progress(self) -> None:
        try:
            size = self.files.progress.stat().st_size
        except FileNotFoundError:
            return
        if size == self._progress_size:
            return
        self._progress_size = size
        self.curve = []
        for line in read_json_lines(self.files.progress):
            epoch = as_number(line.get("epoch"))
            if epoch is not None and math.isfinite(epoch):
                self.curve.append(CurvePoint(epoch, as_number(line.get("error")), as_number(line.get("loss"))))
                value = as_number(line.get(self.job.metric))
                self.reached = value if value is not None and math.isfinite(value) else self.reached
        if self.rule is not None:
            self.decision = decide(self.curve, self.rule)

    def _enforce(self, script: subprocess.Popen[bytes], now: float) -> None:
        """End a script whose grace is over: SIGTERM first, SIGKILL when that did not help."""
        if self._told_to_end and not self._signalled:
            self.cancelled, self._kill_at = self.cancelled or "the worker was told to end", now
        if self._kill_at is None or now < self._kill_at:
            return
        self._end_group(script, signal.SIGKILL if self._signalled else signal.SIGTERM)
        self._signalled, self._kill_at = True, now + TERM_GRACE_S

    def _end_group(self, script: subprocess.Popen[bytes], number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(script.pid, number)

    def _copy_output(self, selector: selectors.BaseSelector, timeout_s: float) -> bool:
        """Copy what is in the pipes to output.log, which is this process's stdout; False when nothing came."""
        copied = False
        for key, _ in selector.select(timeout_s):
            if key.data == "end":
                continue  # the loop sees by itself that the script has ended
            chunk = os.read(key.fd, 1 << 16)
            if not chunk:
                selector.unregister(key.fileobj)
                continue
            copied = True
            with contextlib.suppress(OSError):  # the disk is full: the log is lost, the evaluation need not be
                os.write(sys.stdout.fileno(), chunk)
            if key.data == "stdout":
                self.tail = (self.tail + chunk)[-LONGEST_LINE:]
        return copied

    def _with_measurement(self, result: Result) -> Result:
        """Have the trained network's power and memory measured; what the script itself reported of them is kept aside.

        Until then the result is kept aside, so that a worker that is killed meanwhile loses no training.
        """
        write_json(self.files.trained, {"id": self.job.job_id, **result.to_json()})
        content = self._measure()
        measured = {name: as_number(value) for name, value in content.pop("metrics", {}).items()}
        told = {name: value for name, value in result.metrics.items() if name in measured}
        extra = {**result.extra, "measurement": {**content, "reported": told} if told else content}
        return replace(result, metrics={**result.metrics, **measured}, extra=extra, ended_s=time.time())

    def _measure(self) -> dict[str, Any]:
        """What `hardware.measuring` says of this job, or the reason why it says nothing."""
        command = [sys.executable, "-m", "hyperpower_runner.hardware.measuring", str(self.root), self.files.folder.name]
        deadline, told = time.monotonic() + LONGEST_MEASUREMENT_S, ""
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            preexec_fn=processes.group_that_ends_with_parent(),
        ) as measuring:
            while True:
                with contextlib.suppress(OSError):
                    self.files.heartbeat.touch()
                try:
                    stdout, _ = measuring.communicate(timeout=WATCH_S)
                    break
                except subprocess.TimeoutExpired:
                    now = time.monotonic()
                    if not told and (self._told_to_end or self.files.stop.exists()):
                        told = "it was asked to stop"
                    elif now < deadline:
                        continue
                    self._end_group(measuring, signal.SIGTERM if deadline > now or not told else signal.SIGKILL)
                    told, deadline = told or f"it took longer than {LONGEST_MEASUREMENT_S:g} s", now + TERM_GRACE_S
        content = last_object(stdout)  # what stands before it, features(params) printed
        if content is not None and isinstance(content.get("metrics", {}), dict) and not told:
            return content
        return {"reason": told or f"measuring ended with exit code {measuring.returncode}; see output.log"}

    def _judge(self, exit_code: int) -> Result:
        """Turn how the script ended into a result; a request or a limit that ended it comes before its exit code."""
        measured = {"duration_s": round(time.time() - self.started_s, 3)}
        metrics, extra, complaint = read_metrics(self.tail, self.job.metric, measured)
        status, reason = Status.COMPLETED, complaint
        if self.cancelled is not None:
            status, reason = Status.CANCELLED, self.cancelled
        elif self.timed_out:
            status, reason = Status.TIMED_OUT, f"it ran longer than timeout-s, {self.job.timeout_s:g} s"
        elif self.decision.stop:
            status, reason = Status.TERMINATED, self.decision.reason
            if metrics.get(self.job.metric) is None:
                metrics[self.job.metric] = self.reached
        elif exit_code != 0:
            status, reason = Status.FAILED, _explain_exit(exit_code)
        elif complaint:
            status = Status.FAILED
        return self._result(status, reason, exit_code, metrics, extra)

    def _result(
        self,
        status: Status,
        reason: str | None,
        exit_code: int | None,
        metrics: dict[str, float | None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> Result:
        ended_s = time.time()
        last_epoch = self.curve[-1].epoch if self.curve else None
        return Result(
            status=status,
            metrics=metrics or {},
            reason=printable(shortened(reason, LONGEST_REASON)) if reason is not None else None,
            epoch=self.decision.epoch if status is Status.TERMINATED else last_epoch,
            extra=extra or {},
            started_s=self.started_s,
            ended_s=ended_s,
            host=socket.gethostname(),
            exit_code=exit_code,
        )


def read_metrics(
    stdout: bytes, wanted: str, measured: Mapping[str, float]
) -> tuple[dict[str, float | None], dict[str, Any], str | None]:
    """Read the metrics from the last line of a script's stdout, beside those `measured` by the worker.

    Returns the metrics (finite numbers, None for what was not measured), whatever else the object held, and a sentence
    that says why the `wanted` metric could not be had, or None.
    """
    lines = [line for line in stdout.splitlines() if line.strip()]
    if not lines:
        complaint = f'it printed nothing; its last line of stdout must be a JSON object such as {{"{wanted}": 0.1}}'
        return dict(measured), {}, complaint
    content = last_object(stdout)
    if content is None:
        shown = lines[-1][:80].decode("utf-8", errors="replace")
        complaint = f'the last line of its stdout is not a JSON object such as {{"{wanted}": 0.1}}, but "{shown}"'
        return dict(measured), {}, complaint
    metrics: dict[str, float | None] = dict(measured)
    extra: dict[str, Any] = {}
    for name, value in content.items():
        number = as_number(value)
        if number is not None:
            metrics[name] = number if math.isfinite(number) else None
        elif value is None:
            metrics[name] = None
        else:
            extra[name] = value
    if wanted not in metrics and wanted not in extra:
        return metrics, extra, f'it reported {", ".join(content) or "no metric"}, but not "{wanted}"'
    if metrics.get(wanted) is None:
        found = shortened(repr(content[wanted]))
        return metrics, extra, f'it reported "{wanted}" as {found}, which is not a finite number'
    return metrics, extra, None


def _explain_exit(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}; see its output.log"
    try:
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was killed by signal {-code}"


def main(root: Path, job_id: str, attempt: int) -> int:
    """Claim an attempt at a job, run it, and write its result; returns the exit code."""
    files = JobFiles(root / "jobs" / job_id)
    content = read_json(files.job)
    if content is None:
        print(f"{files.job}: there is no such file", file=sys.stderr, flush=True)
        return 1
    worker = Worker(root, files, Job.from_json(content))
    signal.signal(signal.SIGTERM, worker.on_sigterm)  # before the claim: whoever reads it may send one
    # Whoever writes this file runs the attempt; a second worker, started by a driver that could not know, goes home.
    if files.result.exists() or not write_json(files.attempt(attempt), processes.own_identity(), exclusive=True):
        return 0
    if attempt > 1 and files.progress.exists():  # the curve of the training that was lost is not this one's
        files.progress.replace(files.progress.with_name(f"progress-{attempt - 1}.jsonl"))
    write_json(files.result, {"id": content["id"], **worker.run().to_json()}, exclusive=True)
    return 0


if __name__ == "__main__":
    # The driver waits for this process's end to fill the slot, so the interpreter is not taken down in good order.
    os._exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))

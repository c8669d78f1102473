"""Where networks are measured: one inference process at a time, while a meter is read; its account is a trace.

It knows how a script is started, sampled and ended, and which meter a platform names; not what a trace is worth
(`measurement`), nor what is measured when (`profiling`).

A script may be in any language. It is started with the path of a job.json that holds "task": "profile", and runs its
inference step back to back for "seconds", at least "warm_up_steps" times. It may say two things: by a first line in
progress.jsonl, beside that file, that the inference begins now (otherwise it counts from "seconds" before the end), and
by the last line of its stdout, one JSON object, what it did: "steps" and "duration_s", other numbers, and texts.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Protocol

from hyperpower_runner import processes
from hyperpower_runner.errors import InferenceError, MeterError, did_you_mean, shortened
from hyperpower_runner.hardware import measurement
from hyperpower_runner.hardware.meters import Meter
from hyperpower_runner.hardware.platforms import METERS
from hyperpower_runner.hardware.traces import Sample, Trace
from hyperpower_runner.job_files import JobFiles, as_number, last_object, write_json
from hyperpower_runner.trial import PROFILE, Job

SET_UP_S = 120.0  # to import a framework, build a network and warm up a slow one, beside the seconds asked for
BEGIN_S = 0.02  # how often it is looked whether the inference has begun
DRAIN_S = 0.5  # for output that is still in the pipe when the script has ended
LONGEST_TAIL = 1 << 20
LONGEST_QUOTE = 300
PROVENANCE = frozenset({"framework", "dtype", "batch_size", "device"})  # never metrics, even as numbers

Hook = Callable[[dict[str, Any]], Mapping[str, Any]]


class Bench(Protocol):
    """Measures the networks of jobs on one platform.

    platform: what every point measured here must carry, in JSON form. metrics: which of "power_w" and "memory_bytes"
    are measured.
    """

    platform: Mapping[str, Any]
    metrics: frozenset[str]

    def preflight(self) -> None:
        """Raise MeterError, with one sentence that says what to do, where a measurement now would be worth nothing."""
        ...

    def idle(self, seconds: float) -> Trace:
        """What is seen while nothing runs."""
        ...

    def run(self, job: Job, folder: Path, sample_hz: float) -> Trace:
        """Measure one job's inference step (see `inference_job`), in a fresh process whose files are in `folder`.

        Raises InferenceError where the script is at fault, MeterError where the device is.
        """
        ...

    def close(self) -> None:
        """Let go of the device."""
        ...


class DeviceBench:
    """A real device, read by a meter, and the objective's inference step as a process of its own.

    root: the experiment directory, where scripts are started. env: what they find set, unless a job says otherwise.
    sample_hz: how often the idle device is read. set_up_s: how much longer than asked a script may take.
    """

    def __init__(
        self,
        meter: Meter,
        root: Path,
        *,
        env: Mapping[str, str] | None = None,
        sample_hz: float = measurement.Protocol.sample_hz,
        set_up_s: float = SET_UP_S,
    ) -> None:
        self.platform = meter.platform
        self.metrics = meter.metrics
        self._meter = meter
        self._root = root
        self._env = dict(env or {})
        self._sample_hz = sample_hz
        self._set_up_s = set_up_s

    def preflight(self) -> None:
        self._meter.preflight()

    def idle(self, seconds: float) -> Trace:
        """What the device does when no process uses it.

        No context of a framework is alive then, because this process never opens one and a script's ends with it: a GPU
        may sleep more deeply than under a program that waits. Idle power is stored beside the models, not used by them.
        """
        self._meter.preflight()
        begin_s = time.monotonic()
        samples = []
        while (now_s := time.monotonic()) < begin_s + seconds:
            samples.append(self._meter.sample())
            time.sleep(max(0.0, min(begin_s + seconds, now_s + 1 / self._sample_hz) - time.monotonic()))
        return Trace(tuple(samples), begin_s, begin_s + seconds, provenance={"idle": True})

    def run(self, job: Job, folder: Path, sample_hz: float) -> Trace:
        seconds = job.seconds or 0.0
        files = JobFiles(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files.progress.unlink(missing_ok=True)  # that of an earlier run would tell when this one begins
        write_json(files.job, job.to_json())
        self._meter.preflight()
        with files.output.open("wb") as log, self._start(job, files, log) as script:
            run = _Run(script, files, self._meter, 1 / sample_hz)
            try:
                self._meter.attach(script.pid)
                run.watch(time.monotonic() + seconds + self._set_up_s)
            finally:
                _kill_group(script)  # whatever the script left behind, or itself after an error
            run.drain()
        if run.overdue:
            raise InferenceError(
                f"the inference step of job {job.job_id} did not end within {seconds + self._set_up_s:g} s,"
                f' {seconds:g} s of it for inference, the rest to set up; make it stop after "seconds" of its job.json,'
                " or lower profiling.warm-up-steps where one step takes seconds"
                f"{_quoted(files, run.tail)}"
            )
        if script.returncode != 0:
            raise InferenceError(
                f"the inference step of job {job.job_id} {_how_it_ended(script.returncode)}; try it by hand with"
                f" --inference 1{_quoted(files, run.tail)}"
            )
        return _trace(run, seconds)

    def close(self) -> None:
        self._meter.close()

    def _start(self, job: Job, files: JobFiles, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the script as the worker starts a training; it does not outlive this process."""
        path = files.job.resolve()
        environment = processes.script_environment(str(path), job.threads, {**self._env, **job.env})
        try:
            return subprocess.Popen(
                [*job.command, str(path)],
                cwd=self._root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                preexec_fn=processes.group_that_ends_with_parent(),  # in the session, so that whoever ends that ends it
            )
        except (OSError, ValueError) as error:
            raise InferenceError(
                f"the command {job.command!r} could not be started ({error}); correct objective.command in config.json"
            ) from None


def inference_job(job: Job, protocol: measurement.Protocol, warm_up_s: float) -> Job:
    """The job that asks for its inference step over so long a warm-up and the window of the protocol."""
    return replace(
        job,
        task=PROFILE,
        seconds=warm_up_s + protocol.window_s,
        warm_up_steps=protocol.warm_up_steps,
        window_s=protocol.window_s,
    )


class _Run:
    """What is seen of one script from its start to its end."""

    def __init__(self, script: subprocess.Popen[bytes], files: JobFiles, meter: Meter, period_s: float) -> None:
        assert script.stdout is not None
        self.samples: list[Sample] = []
        self.tail = b""  # of stdout
        self.started_s = self.ended_s = self.spoke_s = time.monotonic()  # spoke: when stdout last said something
        self.begun_s: float | None = None
        self.overdue = False
        self._script, self._files, self._meter, self._period_s = script, files, meter, period_s
        self._stdout = script.stdout

    def watch(self, deadline_s: float) -> None:
        """Read the meter and the script's output until it ends, or until the deadline."""
        next_s = self.started_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while self._script.poll() is None:
                now_s = time.monotonic()
                if now_s >= deadline_s:
                    self.overdue = True
                    break
                if now_s >= next_s:
                    self.samples.append(self._meter.sample())
                    next_s = max(next_s + self._period_s, now_s)
                if self.begun_s is None and self._has_begun():
                    self.begun_s = now_s
                wait_s = min(next_s - time.monotonic(), math.inf if self.begun_s is not None else BEGIN_S)
                if selector.select(max(0.0, wait_s)) and not self._read():
                    selector.unregister(self._stdout)
        self.ended_s = time.monotonic()

    def drain(self) -> None:
        """Read what the script's group, which has been killed, left in the pipe."""
        deadline_s = time.monotonic() + DRAIN_S  # what left the group may hold the pipe open, and print, for ever
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while (left_s := deadline_s - time.monotonic()) > 0 and selector.select(left_s) and self._read():
                pass

    def _has_begun(self) -> bool:
        try:
            return self._files.progress.stat().st_size > 0
        except FileNotFoundError:
            return False

    def _read(self) -> bool:
        """Take what stdout holds now; False at its end."""
        chunk = os.read(self._stdout.fileno(), 1 << 16)
        if chunk.strip():
            self.spoke_s = time.monotonic()
        self.tail = (self.tail + chunk)[-LONGEST_TAIL:]
        return bool(chunk)


def _trace(run: _Run, seconds: float) -> Trace:
    """Join what the meter saw and what the script said.

    The inference ends when the script prints what it did, since to end itself takes a framework a while.
    """
    said = last_object(run.tail)
    end_s = run.ended_s if said is None else min(run.spoke_s, run.ended_s)
    begin_s = run.begun_s if run.begun_s is not None else max(run.started_s, end_s - seconds)
    reported: dict[str, float] = {}
    provenance: dict[str, Any] = {}
    if said is None and run.begun_s is None:
        raise InferenceError(
            "the script neither wrote a line to progress.jsonl nor ended with a JSON object on its stdout, so nobody"
            ' can tell that it ran its inference: where job.json says "task": "profile", it must print one, such as'
            ' {"steps": 9}'
        )
    for name, value in (said or {}).items():
        number = as_number(value)
        if name in PROVENANCE or (number is None and value is not None):
            provenance[name] = int(number) if number is not None and number.is_integer() else value
        elif number is not None and math.isfinite(number):
            reported[name] = number
    steps, duration_s = reported.pop("steps", 0.0), reported.pop("duration_s", 0.0)
    step_s = duration_s / steps if steps > 0 and duration_s > 0 else None
    return Trace(tuple(run.samples), begin_s, end_s, step_s, reported, provenance, frozenset(said or ()))


def _kill_group(script: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(script.pid, signal.SIGKILL)


def _how_it_ended(code: int) -> str:
    return f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"


def _quoted(files: JobFiles, stdout: bytes) -> str:
    """The end of what a script said, as the end of a sentence: of its errors, or else of its output."""
    said = files.log_tail(lines=3) or "\n".join(stdout.decode("utf-8", errors="replace").split("\n")[-3:]).strip()
    return f'; it said "...{said[-LONGEST_QUOTE:]}"' if said else "; it said nothing"


def make_bench(platform: Mapping[str, Any], root: Path, features: Hook | None = None) -> Bench:
    """The bench that "platform" of config.json asks for.

    features: of params, by which simulated platforms tell networks apart. Raises MeterError where the platform names no
    meter, or one that cannot be used here.
    """
    meter = platform.get("meter")
    if meter == "nvml":
        from hyperpower_runner.hardware.meters.nvml import NvmlMeter

        board = NvmlMeter(platform.get("device"))
        # CUDA may number the devices in another order than NVML; a UUID names the same one to both.
        env = {"CUDA_VISIBLE_DEVICES": board.platform["uuid"]} if "uuid" in board.platform else {}
        return DeviceBench(board, root, env=env)
    if meter == "rapl":
        from hyperpower_runner.hardware.meters.rapl import RaplMeter

        return DeviceBench(RaplMeter(), root)
    if meter == "jetson":
        from hyperpower_runner.hardware.meters.jetson import JetsonMeter

        return DeviceBench(JetsonMeter(rail=platform.get("rail")), root)
    if meter == "host":
        from hyperpower_runner.hardware.meters.host import HostMeter

        return DeviceBench(HostMeter(), root)
    if meter == "replay":
        from hyperpower_runner.hardware.meters.replay import ReplayBench

        return ReplayBench(root / platform["trace"])
    if meter in METERS:
        from hyperpower_runner.hardware.meters import simulated

        return simulated.make(platform, features)
    found = "names no meter" if meter is None else f'names the meter "{shortened(str(meter))}", which there is not'
    raise MeterError(
        f"platform of config.json {found}; allowed are {', '.join(METERS)}{did_you_mean(str(meter or ''), METERS)}"
    )

"""Workers as processes of this machine, each in a session of its own so that it outlives the driver.

They are forked by a nursery, which ends with the driver. A worker that an earlier driver started is found by the
identity that it wrote into its attempt file.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hyperpower_runner import processes
from hyperpower_runner.errors import LaunchError
from hyperpower_runner.job_files import JobFiles
from hyperpower_runner.launchers import VANISHED, Fate, WorkerState
from hyperpower_runner.launchers.heartbeats import LOOK_S, Heartbeats

BLIND_POLL_S = 0.05  # where the system cannot say when a process ends
PACKAGE_PARENT = Path(__file__).parents[2]  # `python -m` looks for modules in its directory first: not in the user's
SILENCE_S = 120.0  # a worker on another host that has not beaten for so long is gone
ANSWER_S = 60.0  # for a nursery to fork, on a machine that is short of everything


class LocalLauncher:
    """Runs each worker as a process of this machine; adopts those that an earlier driver left.

    wake: a descriptor that ends a `poll` early when it becomes readable (a signal arrived), or None.
    silence_s: for how long a worker on another host may give no sign of life.
    root: an experiment that will want workers soon: its nursery is made at once, while the caller reads the jobs.
    """

    def __init__(self, wake: int | None = None, silence_s: float = SILENCE_S, root: Path | None = None) -> None:
        self._started: dict[str, dict[str, Any]] = {}  # identities of this launcher's workers, by job folder
        self._nurseries: dict[Path, subprocess.Popen[bytes]] = {}  # by experiment; few have more than one
        self._silence_s = silence_s
        self._heartbeats = Heartbeats(min(LOOK_S, silence_s / 4))
        self._wake = wake
        weakref.finalize(self, _dismiss, self._nurseries)
        if root is not None:
            with contextlib.suppress(OSError):  # which is told when a worker is wanted
                self._nursery(root.resolve())

    def submit(self, files: JobFiles, attempt: int) -> None:
        """Start a worker; its own messages and the script's output go to output.log."""
        root = files.folder.parent.parent.resolve()
        request = {"job": files.folder.name, "attempt": attempt}
        try:
            try:
                answer = _ask(self._nursery(root), request)
            except BrokenPipeError:  # somebody killed it; a second time is no accident
                _dismiss(self._nurseries)
                answer = _ask(self._nursery(root), request)
        except OSError as error:
            raise LaunchError(f"{files.folder}: its worker could not be started ({error})") from error
        self._started[str(files.folder)] = answer

    def poll(self, jobs: dict[int, JobFiles], timeout_s: float) -> dict[int, WorkerState]:
        states = {job_id: self._state(files) for job_id, files in jobs.items()}
        if timeout_s > 0 and WorkerState.GONE not in states.values():
            alive = [jobs[job_id] for job_id, state in states.items() if state is WorkerState.ALIVE]
            self._wait(alive, timeout_s)
            states = {job_id: self._state(files) for job_id, files in jobs.items()}
        return states

    def fate(self, files: JobFiles) -> Fate:
        return VANISHED

    def cancel(self, files: JobFiles, reason: str) -> None:
        try:
            files.request_stop(reason)
        finally:
            identity = self._living(files)
            if identity is None:
                processes.kill_remains(files.claim(files.last_attempt()) or {})
            else:
                with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended, or is a colleague's
                    os.kill(identity["pid"], signal.SIGTERM)

    def _nursery(self, root: Path) -> subprocess.Popen[bytes]:
        if root not in self._nurseries:
            self._nurseries[root] = subprocess.Popen(
                [sys.executable, "-m", "hyperpower_runner.launchers.nursery", str(root)],
                cwd=PACKAGE_PARENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        return self._nurseries[root]

    def _state(self, files: JobFiles) -> WorkerState:
        started = self._started.get(str(files.folder))
        if started is not None:
            if processes.is_alive(started):
                return WorkerState.ALIVE
            del self._started[str(files.folder)]
        claim = files.claim(files.last_attempt())
        alive = processes.works_in(files.folder, claim) if claim is not None else False
        if alive is None:
            return WorkerState.GONE if self._heartbeats.silent_s(files) > self._silence_s else WorkerState.UNKNOWN
        return WorkerState.ALIVE if alive else WorkerState.GONE

    def _living(self, files: JobFiles) -> dict[str, Any] | None:
        """The identity of a job's worker, where it lives on this machine."""
        started = self._started.get(str(files.folder))
        if started is not None and processes.is_alive(started):
            return started
        claim = files.claim(files.last_attempt())
        return claim if claim and processes.works_in(files.folder, claim) else None

    def _wait(self, jobs: Iterable[JobFiles], timeout_s: float) -> None:
        """Sleep until a worker ends, a signal arrives, or the time is over."""
        with contextlib.ExitStack() as handles:
            selector = handles.enter_context(selectors.DefaultSelector())
            for files in jobs:
                identity = self._living(files)
                handle = processes.wait_handle(identity["pid"]) if identity is not None else None
                if handle is None:  # it has ended just now, or the system cannot say when it does
                    timeout_s = min(timeout_s, BLIND_POLL_S if self._living(files) else 0.0)
                else:
                    handles.callback(os.close, handle)
                    selector.register(handle, selectors.EVENT_READ)
            if self._wake is not None:
                selector.register(self._wake, selectors.EVENT_READ)
            selector.select(timeout_s)


def _ask(nursery: subprocess.Popen[bytes], request: dict[str, Any]) -> dict[str, Any]:
    """Have a nursery fork a worker; returns its identity, raises OSError."""
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    os.write(nursery.stdin.fileno(), json.dumps(request).encode() + b"\n")
    ready, _, _ = select.select([nursery.stdout], [], [], ANSWER_S)
    line = nursery.stdout.readline() if ready else b""
    if not line.endswith(b"\n"):
        nursery.kill()
        raise BrokenPipeError("the process that forks workers has ended")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise OSError(answer["errno"], answer["error"])
    return answer


def _dismiss(nurseries: dict[Path, subprocess.Popen[bytes]]) -> None:
    """End the nurseries; their workers go on."""
    while nurseries:
        _, nursery = nurseries.popitem()
        for pipe in (nursery.stdin, nursery.stdout):
            if pipe is not None:
                pipe.close()
        nursery.wait()

"""Workers as processes of this machine, each in a session of its own so that it outlives the driver.

A worker that an earlier driver started is found by the identity that it wrote into its attempt file.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hyperpower_runner import processes
from hyperpower_runner.errors import LaunchError
from hyperpower_runner.job_files import JobFiles, read_json, write_text
from hyperpower_runner.launchers import WorkerState

BLIND_POLL_S = 0.05  # where the system cannot say when a process ends
PACKAGE_PARENT = Path(__file__).parents[2]  # `python -m` looks for modules in its directory first: not in the user's
SILENCE_S = 60.0  # a worker on another host that has not beaten for so long is gone


class LocalLauncher:
    """Runs each worker as a child process; adopts those that an earlier driver left.

    wake: a descriptor that ends a `poll` early when it becomes readable (a signal arrived), or None.
    """

    def __init__(self, wake: int | None = None) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}  # by job folder
        self._wake = wake

    def submit(self, files: JobFiles, attempt: int) -> None:
        """Start a worker; its own messages and the script's output go to output.log."""
        if attempt > 1:
            self._end_remains(files, attempt - 1)
        root, job_id = files.folder.parent.parent.resolve(), files.folder.name
        command = [sys.executable, "-m", "hyperpower_runner.worker", str(root), job_id, str(attempt)]
        try:
            with files.output.open("ab") as log:
                self._children[str(files.folder)] = subprocess.Popen(
                    command,
                    cwd=PACKAGE_PARENT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise LaunchError(f"{files.folder}: its worker could not be started ({error})") from None

    def poll(self, jobs: dict[int, JobFiles], timeout_s: float) -> dict[int, WorkerState]:
        states = {job_id: self._state(files) for job_id, files in jobs.items()}
        if timeout_s > 0 and WorkerState.GONE not in states.values():
            self._wait(jobs.values(), timeout_s)
            states = {job_id: self._state(files) for job_id, files in jobs.items()}
        return states

    def cancel(self, files: JobFiles, reason: str) -> None:
        write_text(files.stop, reason + "\n")
        pid = self._pid(files)
        if pid is None:
            self._end_remains(files, files.last_attempt())
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)

    def _state(self, files: JobFiles) -> WorkerState:
        child = self._children.get(str(files.folder))
        if child is not None and child.poll() is None:  # poll also reaps
            return WorkerState.ALIVE
        identity = self._identity(files)
        alive = processes.is_alive(identity) if identity is not None else False
        if alive is None:
            return WorkerState.GONE if self._is_silent(files) else WorkerState.UNKNOWN
        return WorkerState.ALIVE if alive else WorkerState.GONE

    def _identity(self, files: JobFiles) -> dict[str, Any] | None:
        """Who claimed the latest attempt."""
        attempt = files.last_attempt()
        return read_json(files.attempt(attempt)) if attempt else None

    def _is_silent(self, files: JobFiles) -> bool:
        """Whether the latest attempt was neither claimed nor gave a heartbeat for long."""
        signs = [files.attempt(files.last_attempt()), files.heartbeat]
        return time.time() - max(path.stat().st_mtime for path in signs if path.exists()) > SILENCE_S

    def _wait(self, jobs: Iterable[JobFiles], timeout_s: float) -> None:
        """Sleep until a worker ends, a signal arrives, or the time is over."""
        handles = []
        with selectors.DefaultSelector() as selector:
            for files in jobs:
                pid = self._pid(files)
                handle = processes.wait_handle(pid) if pid is not None else None
                if handle is None:
                    timeout_s = min(timeout_s, BLIND_POLL_S)
                else:
                    handles.append(handle)
                    selector.register(handle, selectors.EVENT_READ)
            if self._wake is not None:
                selector.register(self._wake, selectors.EVENT_READ)
            selector.select(timeout_s)
        for handle in handles:
            os.close(handle)

    def _pid(self, files: JobFiles) -> int | None:
        """The worker of a job, where it lives on this machine."""
        child = self._children.get(str(files.folder))
        if child is not None and child.poll() is None:
            return child.pid
        identity = self._identity(files)
        return int(identity["pid"]) if identity is not None and processes.is_alive(identity) else None

    def _end_remains(self, files: JobFiles, attempt: int) -> None:
        """Kill what a dead worker's script left running on this machine."""
        identity = read_json(files.attempt(attempt)) if attempt else None
        if identity is not None and processes.is_alive(identity) is False:
            processes.kill_session(identity)

"""A process and all that comes of it: started, told to end when its time is over, and ended without a rest.

On Linux the caller becomes the parent of every descendant that loses its own, so a process that forks twice, leads a
session of its own or changes its name stays within reach. It knows nothing of jobs or of what a process prints.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from hyperpower_runner import processes

TERM_GRACE_S = 5.0  # between SIGTERM and SIGKILL
KILL_S = 10.0  # for SIGKILL to work: a process that waits for a dead disk is not ended by it
STOPS = 8  # passes at most in which all are stopped, so that none forks while it is killed


class ProcessTree:
    """A child of this process, which leads a process group, and its descendants. A context: on the way out all end.

    One of them at a time, in a process that has no other children.

    pid, stdout, stderr: of the child; ended: a descriptor that becomes readable when it ends, or None.
    end_at: on the monotonic clock, when it is told to end; signalled: whether it was.
    """

    def __init__(self, command: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        """Start it; raises OSError or ValueError."""
        processes.adopt_orphans()
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=processes.group_that_ends_with_parent(),  # in the session, so that whoever ends that ends it
        )
        self.pid = self._process.pid
        self.ended = processes.wait_handle(self.pid)
        self.end_at = math.inf
        self.signalled = False
        self._kill_at = math.inf
        self._is_hopeless = False

    def __enter__(self) -> ProcessTree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_hopeless:
            self.kill()
        for pipe in (self.stdout, self.stderr):
            pipe.close()
        if self.ended is not None:
            os.close(self.ended)

    @property
    def stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stderr(self) -> IO[bytes]:
        assert self._process.stderr is not None
        return self._process.stderr

    @property
    def exit_code(self) -> int | None:
        """The child's, negative for a signal; None while it runs, and where even SIGKILL did not end it."""
        return self._process.returncode

    def goes_on(self) -> bool:
        """Whether the child runs, or was told to end and has left descendants which are in their grace."""
        if self._is_hopeless:
            return False
        left = self.has_left()
        return self.exit_code is None or (self.signalled and left and time.monotonic() < self._kill_at)

    def end_within(self, seconds: float) -> None:
        """Have it told to end after so many seconds from now, unless that is due sooner."""
        self.end_at = min(self.end_at, time.monotonic() + seconds)

    def signal(self, number: int) -> None:
        """Send a signal to the child's process group."""
        if self.exit_code is None:
            _send(_groups([self.pid]), number)

    def enforce(self) -> float:
        """Do what is due: SIGTERM to all, later SIGKILL. Returns when something is due next, on the monotonic clock."""
        now = time.monotonic()
        if not self.signalled and now >= self.end_at:
            self.signalled, self._kill_at = True, now + TERM_GRACE_S
            told = _groups(self._all())
            _send(told, signal.SIGTERM)
            _send(told, signal.SIGCONT)  # one that was stopped could not act on it
        elif now >= self._kill_at:
            self._is_hopeless = not self.kill()
        return self._kill_at if self.signalled else self.end_at

    def kill(self) -> bool:
        """End all that is left, at once; False where that cannot be done within KILL_S seconds."""
        give_up_at = time.monotonic() + KILL_S
        pause_s = 0.001
        while self.has_left():
            if time.monotonic() > give_up_at:
                return False
            stopped: set[int] = set()
            for _ in range(STOPS):
                others = set(self._all()) - stopped
                if not others:
                    break
                _send(others, signal.SIGSTOP)
                stopped |= others
            _send(stopped, signal.SIGKILL)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.1)
        return True

    def has_left(self) -> bool:
        """Whether anything of it is left. The orphans that have ended are buried on the way."""
        running = self._process.poll() is None
        if sys.platform != "linux":
            return running or _group_lives(self.pid)
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return False
            if found is None or (running and found.si_pid == self.pid):  # whose end is seen by the next poll
                return True
            os.waitpid(found.si_pid, 0)

    def _all(self) -> list[int]:
        """What there is to be signalled; without /proc that is the child's group, as a negative number."""
        found = processes.descendants()
        return [-self.pid] if found is None else found


def why_not_started(command: list[str], cwd: Path, error: Exception) -> str:
    """Explain why a `ProcessTree` could not be made."""
    program, sentence = command[0], f"the command {command!r} could not be started: {error}"
    if isinstance(error, OSError) and error.errno == errno.ENOEXEC:
        return f'{sentence}; "{program}" needs a first line such as #!/bin/bash'
    if isinstance(error, FileNotFoundError) and (cwd / program).is_file():
        return f'{sentence}; the first line of "{program}" names no program (has it the line ends of Windows?)'
    return sentence


def _groups(pids: Iterable[int]) -> set[int]:
    """The process groups of these, as negative numbers: a shell may just be starting another member."""
    found = set()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            group = os.getpgid(pid) if pid > 0 else -pid
            found.add(pid if group == os.getpgrp() else -group)
    return found


def _send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True

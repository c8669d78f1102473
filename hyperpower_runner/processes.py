"""Processes seen from outside: which one wrote a file, whether it still lives, and when it ends.

A pid alone says nothing once it is used again, so Linux' /proc gives the start time and the boot; elsewhere the pid
must do. It starts nothing, and signals nothing but the remains of a dead worker's session. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
_BOOT_ID = _PROC / "sys/kernel/random/boot_id"


def own_identity() -> dict[str, Any]:
    """The identity of the calling process, in JSON form: host, boot, pid, start time in clock ticks since boot."""
    return {"host": socket.gethostname(), "boot_id": _boot_id(), "pid": os.getpid(), "start_ticks": _ticks(os.getpid())}


def is_alive(identity: Mapping[str, Any]) -> bool | None:
    """Whether the process lives; None where that cannot be seen from here, because it is on another host."""
    if identity.get("host") != socket.gethostname():
        return None
    if identity.get("boot_id") != _boot_id():
        return False
    pid = identity.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    if _PROC.is_dir():
        return identity.get("start_ticks") == _ticks(pid) is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def search_path() -> str:
    """Where a script's program is looked for: a plain "python" is the one that runs this package."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def script_environment(job_file: str, threads: int | None, env: Mapping[str, str]) -> dict[str, str]:
    """What a user's script finds set; `env` is what config.json asks for."""
    environment = {**os.environ, "PATH": search_path(), "HYPERPOWER_JOB": job_file}
    if threads:
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    return {**environment, **env}


def cores() -> int:
    """How many cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def group_that_ends_with_parent() -> Callable[[], None]:
    """What a child calls before its program: it leads a process group, and on Linux is killed when its parent dies.

    For processes that are worth nothing without their parent. It stays in the parent's session.
    """
    if sys.platform != "linux":
        return os.setpgrp
    import ctypes  # here, since it costs what few need

    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        os.setpgrp()
        prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)

    return prepare


def wait_handle(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None where the system has none, or it is gone."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def kill_session(leader: Mapping[str, Any]) -> None:
    """Kill what is left of the session of a dead worker of this boot: no script may run on beside its own retry.

    The number of a session is not given to another one while a process of it lives. Where the leader's pid is in use
    again, nothing was left, and nothing is killed.
    """
    pid = leader.get("pid")
    here = leader.get("host") == socket.gethostname() and leader.get("boot_id") == _boot_id()
    if not here or not isinstance(pid, int) or not _PROC.is_dir() or _stat(pid):
        return
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields and int(fields[3]) == pid:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(int(entry.name), signal.SIGKILL)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third, the state, on; empty for a process that is gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    except (OSError, ValueError):
        return []


def _ticks(pid: int) -> int | None:
    """The start time of a process that is neither gone nor a zombie."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in ("Z", "X") else None


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""

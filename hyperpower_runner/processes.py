"""Processes seen from outside: which one wrote a file, whether it still lives, and when it ends.

A pid alone says nothing once it is used again, so Linux' /proc gives the start time and the boot; elsewhere the pid
must do. It starts nothing, and signals nothing but the remains of a dead worker. Standard library only.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

WORKER_VARIABLE = "HYPERPOWER_WORKER"  # set in all that a worker starts, directly or not: whose it is, see `mark_of`
WORKER_NAME = "hp-job-"  # what workers are called, before the name of their job's folder; see `name_worker`
REMAINS_S = 10.0  # to kill what a dead worker left: a process that waits for a dead disk cannot be
LONGEST_STAT = 4096  # of /proc/PID/stat, which has about 50 numbers and a name of at most 64 bytes
LOOKS_IN_VAIN = 3  # until nothing is taken to be left: what forks and ends all the time is easily overlooked
_PROC = Path("/proc")
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
_SET_CHILD_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_BOOT_ID = _PROC / "sys/kernel/random/boot_id"
_MACHINE_ID = Path("/etc/machine-id")
_PID_NAMESPACE = _PROC / "self/ns/pid"


def own_identity() -> dict[str, Any]:
    """The identity of the calling process, in JSON form; see `identity`."""
    return identity(os.getpid())


def identity(pid: int) -> dict[str, Any]:
    """The identity of a process of this host: where its pid means something, and its start in clock ticks since boot.

    machine and pid_namespace are "" where the system has none.
    """
    return {
        "host": os.uname().nodename,
        "machine": _text(_MACHINE_ID),
        "boot_id": _text(_BOOT_ID),
        "pid_namespace": _pid_namespace(),
        "pid": pid,
        "start_ticks": _ticks(pid),
    }


def is_alive(identity: Mapping[str, Any]) -> bool | None:
    """Whether the process lives; None where that cannot be seen from here: on another host, or in another container."""
    if identity.get("host") != os.uname().nodename or identity.get("machine", _text(_MACHINE_ID)) != _text(_MACHINE_ID):
        return None
    if identity.get("boot_id") != _text(_BOOT_ID):
        return False
    if identity.get("pid_namespace", _pid_namespace()) != _pid_namespace():
        return None
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


def works_in(folder: Path, claim: Mapping[str, Any]) -> bool | None:
    """Whether the worker that claimed an attempt lives, see `is_alive`; False where this is a copy of its folder."""
    alive, own = is_alive(claim), claim.get("folder")
    if alive and isinstance(own, str):
        with contextlib.suppress(OSError):  # the folder was moved, with the worker in it
            return Path(own).samefile(folder)
    return alive


def age_s(identity: Mapping[str, Any]) -> float | None:
    """For how long a living process of this host has run, by a clock that nobody sets; None of any other."""
    if sys.platform != "linux" or not is_alive(identity):
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - float(identity["start_ticks"]) / os.sysconf("SC_CLK_TCK")


def mark_of(identity: Mapping[str, Any]) -> str:
    """A word that no other process has: what a worker puts into the environment of all that it starts."""
    return f"{identity.get('boot_id')}:{identity.get('pid')}:{identity.get('start_ticks')}"


def name_worker(folder: str) -> None:
    """Call this process after the folder of its job, on Linux: whoever looks at a machine's processes can tell."""
    with contextlib.suppress(OSError):
        (_PROC / "self/comm").write_text(f"{WORKER_NAME}{folder}"[:15])  # as long as the kernel lets it be


def workers_beside() -> list[int]:
    """The living workers of this machine, of whatever search and user, but for the one that started this process.

    Empty where there is no /proc, and without those in containers that cannot be seen from here.
    """
    living = (pid for pid, fields in _processes() if fields[0] not in _GONE and pid != os.getppid())
    return [pid for pid in living if _name(pid).startswith(WORKER_NAME)]


def search_path() -> str:
    """Where a script's program is looked for: a plain "python" is the one that runs this package."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def script_environment(job_file: str, threads: int | None, env: Mapping[str, str]) -> dict[str, str]:
    """What a user's script finds set; `env` is what config.json asks for.

    threads: its share of this machine, which what the user exported goes before; None on a cluster, where it has the
    cores of its job, and what was exported was meant for the login node.
    """
    environment = {**os.environ, "PATH": search_path(), "HYPERPOWER_JOB": job_file}
    if threads:
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    elif "SLURM_CPUS_ON_NODE" in os.environ:
        environment["OMP_NUM_THREADS"] = os.environ["SLURM_CPUS_ON_NODE"]
    return {**environment, **env}


def cores() -> int:
    """How many cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def prctl() -> Callable[[int, int], int] | None:
    """Linux' call of that name, None elsewhere; what forks many workers asks for it once, before."""
    if sys.platform != "linux":
        return None
    import ctypes  # here, since it costs what few need

    call: Callable[[int, int], int] = ctypes.CDLL(None).prctl
    return call


def group_that_ends_with_parent() -> Callable[[], None]:
    """What a child calls before its program: it leads a process group, and on Linux is killed when its parent dies.

    For processes that are worth nothing without their parent. It stays in the parent's session.
    """
    set_option, parent = prctl(), os.getpid()
    if set_option is None:
        return os.setpgrp

    def prepare() -> None:
        os.setpgrp()
        set_option(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could be asked for
            os._exit(1)

    return prepare


def adopt_orphans() -> None:
    """Be the parent of all that descends from this process and loses its own, on Linux: nothing escapes its sight."""
    set_option = prctl()
    if set_option is not None:
        set_option(_SET_CHILD_SUBREAPER, 1)


def wait_handle(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None where the system has none, or it is gone."""
    if not hasattr(os, "pidfd_open"):  # also a Python that was built for an older Linux, as conda's is
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def descendants() -> list[int] | None:
    """The processes below this one as /proc shows them now, parents before children; None where there is no /proc."""
    if not _PROC.is_dir():
        return None
    children: dict[int, list[int]] = {}
    for pid, fields in _processes():
        children.setdefault(int(fields[1]), []).append(pid)
    found = [os.getpid()]
    for parent in found:
        found.extend(children.get(parent, ()))
    return found[1:]


def kill_remains(worker: Mapping[str, Any]) -> bool:
    """Kill what a dead worker of this machine left running: no script may run on beside its own retry.

    That is what is left of its session, and what has its mark in the environment, wherever it fled. False where some of
    it cannot be killed; nothing is done, and True returned, where the worker lives or cannot be seen from here.
    """
    if is_alive(worker) is not False or worker.get("boot_id") != _text(_BOOT_ID):
        return True
    give_up_at = time.monotonic() + REMAINS_S
    looks_in_vain = 0
    while looks_in_vain < LOOKS_IN_VAIN:
        looks_in_vain += 1
        for pid in _remains(worker):
            looks_in_vain = 0
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not looks_in_vain and time.monotonic() > give_up_at:
            return False
        time.sleep(0.001 if looks_in_vain else 0.01)
    return True


def _remains(worker: Mapping[str, Any]) -> Iterator[int]:
    """The living processes that a dead worker left, each as soon as it is found.

    The number of a session is not given to another one while a process of it lives. Where the leader's pid is in use
    again, nothing of it was left.
    """
    pid, begun = worker.get("pid"), worker.get("start_ticks")
    if type(pid) is not int or pid <= 0 or not isinstance(begun, int):
        return  # not what this program wrote; 0 is the session of processes that a container was not to see
    leader = _stat(pid)
    session = pid if not leader or int(leader[19]) == begun else None
    mark = f"\0{WORKER_VARIABLE}={mark_of(worker)}\0".encode()
    for other, fields in _processes():
        if fields[0] in _GONE or int(fields[19]) < begun or other == os.getpid():
            continue
        if int(fields[3]) == session or mark in b"\0" + _environment(other) + b"\0":
            yield other


_GONE = ("Z", "X")  # states of processes that wait for nothing but to be buried


def _processes() -> Iterator[tuple[int, list[str]]]:
    """All processes that can be seen, with what `_stat` says of them; the newest first, which may be gone soon."""
    names = os.listdir(_PROC) if _PROC.is_dir() else []  # noqa: PTH208 - iterdir makes a Path of each
    for pid in sorted(map(int, filter(str.isdecimal, names)), reverse=True):
        fields = _stat(pid)
        if fields:
            yield pid, fields


def _environment(pid: int) -> bytes:
    """What a process was started with; empty where that may not be read."""
    try:
        return (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return b""


def _name(pid: int) -> str:
    """What a process is called; '' for one that is gone."""
    try:
        return (_PROC / str(pid) / "comm").read_text(errors="replace")
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third, the state, on; empty for a process that is gone."""
    try:
        descriptor = os.open(f"{_PROC}/{pid}/stat", os.O_RDONLY)  # at a third of the cost of a Python file
        try:
            text = os.read(descriptor, LONGEST_STAT)
        finally:
            os.close(descriptor)
    except OSError:
        return []
    return text.rpartition(b") ")[2].decode().split()


def _ticks(pid: int) -> int | None:
    """The start time of a process that is neither gone nor a zombie."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in _GONE else None


@functools.cache
def _text(path: Path) -> str:
    """What a file says that does not change while this machine runs; '' where there is none."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def _pid_namespace() -> str:
    return _link(_PID_NAMESPACE)


@functools.cache
def _link(path: Path) -> str:
    """Where a link leads that does not change while this process runs; '' where there is none."""
    try:
        return str(path.readlink())
    except OSError:
        return ""

"""The command line, and the workers that it starts, with a fault at one chosen file-system event; a script of tests.

    python tests/faulty.py                  answers requests on stdin, each a command line and a `Fault`, one at a time
    python tests/faulty.py once FAULT WORD...    runs one command line
    python tests/faulty.py nursery ROOT     what such a driver starts instead of `python -m hyperpower_runner...nursery`

An event is a call that changes the experiment directory, or that makes a change durable: opening for writing, write,
fsync, link, rename, mkdir, remove, utime; and fork, and writing to a pipe, by which driver and nursery talk. It is
seen, or made to fail, before it happens. Each command runs in a fork of this process, which has imported all that a
driver needs, so that hundreds of drivers take no longer than a few real ones. It knows nothing of what a search should
come to.
"""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FAULT_VARIABLE = "FAULTY_FAULT"
NURSERY = ["-m", "hyperpower_runner.launchers.nursery"]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {  # audit events, with the position of the path that is changed
    **{"open": 0, "os.link": 1, "os.rename": 1, "os.mkdir": 0},
    **{"os.remove": 0, "os.rmdir": 0, "os.utime": 0, "os.truncate": 0},
}
NEEDS_ROOM = {"open", "os.link", "os.rename", "os.mkdir", "write", "fsync"}  # what a full disk can refuse
DRIVER_MODULES = (
    *("cli", "driver", "checks", "view", "search", "slots", "worker"),
    *("launchers.local", "launchers.interrupts"),
)


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and where.

    role: the process that meets it: "driver", "nursery", or "worker", the one of the first attempt at job 1.
    kind: "kill" (SIGKILL), or the name of an error such as "ENOSPC".
    at: the number of the event among those that this can befall, from 1; 0 for none. times: so many in a row fail.
    trace: a file to which every event is appended, outside the experiment directory.
    constants: of modules of the package, as {"driver.LONGEST_WAIT_S": 0.05}, and defaults of what is made, as
        {"launchers.local.LocalLauncher:silence_s": 3.0}.
    links: whether the file system has hard links.
    clock: what the wall clock shows too much, in seconds, by role; one of several holds for one call after another.
    """

    root: str
    role: str = "driver"
    kind: str = "kill"
    at: int = 0
    times: int = 1
    trace: str = ""
    links: bool = True
    constants: dict[str, float] = field(default_factory=dict)
    clock: dict[str, list[float]] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def over(self) -> str:
        """The file that says that it has happened, so that the process that comes instead does not meet it too."""
        return self.root.rstrip("/") + ".over"

    def is_ahead(self) -> bool:
        return not Path(self.over).exists()

    def can_befall(self, event: str) -> bool:
        """Whether this kind of fault happens at such events: an error of a device at all that reach it."""
        if self.kind == "kill":
            return True
        return event in NEEDS_ROOM or (self.kind in ("EIO", "EROFS", "EACCES") and event in CHANGES)


class Events:
    """The events of this process, counted from when they are `armed`; the fault happens at its own."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.armed = False
        self._count = 0
        self._write, self._fsync = os.write, os.fsync
        self._root = os.path.realpath(fault.root) + os.sep
        os.write = self._written  # type: ignore[assignment]
        os.fsync = self._synced  # type: ignore[assignment]
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.armed and event == "os.fork":
            self._happen(event, self._root)
        elif self.armed and event in CHANGES:
            path = arguments[CHANGES[event]]
            if not isinstance(path, int) and (event != "open" or arguments[2] & WRITES):
                named = Path(os.fsdecode(path))
                if event == "os.mkdir" and named.is_dir():
                    return  # nothing will change
                self._happen(event, os.path.join(os.path.realpath(named.parent), named.name))  # noqa: PTH118

    def _written(self, descriptor: int, content: bytes) -> int:
        if self.armed:
            path = self._path_of(descriptor)
            self._happen("write", path)
            if self.fault.kind == "kill" and len(content) > 1 and path.startswith(self._root):
                half = len(content) // 2
                return self._write(descriptor, content[:half]) + self._torn(descriptor, path, content[half:])
        return self._write(descriptor, content)

    def _torn(self, descriptor: int, path: str, rest: bytes) -> int:
        self._happen("torn", path)
        return self._write(descriptor, rest)

    def _synced(self, descriptor: int) -> None:
        if self.armed:
            self._happen("fsync", self._path_of(descriptor))
        self._fsync(descriptor)

    def _path_of(self, descriptor: int) -> str:
        armed, self.armed = self.armed, False
        try:
            return str(Path(f"/proc/self/fd/{descriptor}").readlink())
        finally:
            self.armed = armed

    def _happen(self, event: str, path: str) -> None:
        fault = self.fault
        concerns = (path + os.sep).startswith(self._root) or (path.startswith("pipe:") and fault.kind == "kill")
        if not concerns or not fault.can_befall(event) or threading.current_thread() is not threading.main_thread():
            return
        self._count += 1
        if fault.trace:
            self._note(fault.trace, f"{event} {path.removeprefix(self._root)}\n")
        if fault.at and fault.at <= self._count < fault.at + fault.times:
            if self._count == fault.at:
                self._note(fault.over, "")
            if fault.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            code = getattr(errno, fault.kind)
            raise OSError(code, os.strerror(code), path)

    def _note(self, path: str, line: str) -> None:
        self.armed = False
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._write(descriptor, line.encode())
        os.close(descriptor)
        self.armed = True


class NurseryOfTests(subprocess.Popen):  # type: ignore[type-arg]
    """Starts this file instead of the nursery."""

    def __init__(self, command: list[str], *arguments: Any, **options: Any) -> None:
        if command[1:3] == NURSERY:
            command = [command[0], __file__, "nursery", *command[3:]]
        super().__init__(command, *arguments, **options)


def shift_clock(offsets_s: list[float]) -> None:
    """Let the wall clock show more or less than the time, by each of the offsets in turn."""
    now, turns = time.time, itertools.cycle(offsets_s)
    time.time = lambda: now() + next(turns)


def no_link(source: object, target: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM), source)


def prepare(fault: Fault) -> None:
    """Set what is to be another in this process, and in those that it starts; of modules that it has imported."""
    os.environ[FAULT_VARIABLE] = fault.to_json()
    if not fault.links:
        os.link = no_link  # type: ignore[assignment]
    for name, value in fault.constants.items():
        name, _, argument = name.partition(":")
        module_name, _, attribute = name.rpartition(".")
        module = sys.modules.get(f"hyperpower_runner.{module_name}")
        if module is not None:
            assert hasattr(module, attribute), name
            if argument:
                set_default(getattr(module, attribute), argument, value)
            else:
                setattr(module, attribute, value)


def set_default(made: type, argument: str, value: object) -> None:
    """Let a class be made with another default."""
    function = made.__init__  # type: ignore[misc]
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = list(function.__defaults__ or ())
    defaults[names.index(argument) - len(names)] = value
    function.__defaults__ = tuple(defaults)


def run_driver(fault: Fault, words: list[str]) -> None:
    import_driver()
    prepare(fault)
    subprocess.Popen = NurseryOfTests  # type: ignore[misc, assignment]
    if "driver" in fault.clock:
        shift_clock(fault.clock["driver"])
    if fault.role == "driver":
        Events(fault).armed = True
    sys.argv = ["hyperpower-runner", *words]
    sys.modules["hyperpower_runner.cli"].main()


def run_nursery(fault: Fault, root: Path) -> None:
    from hyperpower_runner.launchers import nursery

    prepare(fault)
    events = Events(fault) if fault.role in ("nursery", "worker") else None
    fork: Callable[..., dict[str, Any]] = nursery._raise

    def forked(root: Path, job_id: str, attempt: int) -> dict[str, Any]:
        def in_worker() -> None:
            if events is not None:
                is_first = (job_id, attempt) == ("000001", 1)
                events.armed = fault.role == "worker" and is_first and fault.is_ahead()
            if "worker" in fault.clock:
                shift_clock(fault.clock["worker"])

        begin[0] = in_worker
        return fork(root, job_id, attempt)

    begin: list[Callable[[], None]] = [lambda: None]
    os.register_at_fork(after_in_child=lambda: begin[0]())
    nursery._raise = forked
    if events is not None and fault.role == "nursery":
        events.armed = fault.is_ahead()
    nursery.main(root)


def import_driver() -> None:
    """All that a driver and its commands import."""
    for name in DRIVER_MODULES:
        importlib.import_module(f"hyperpower_runner.{name}")


def answer_requests() -> tuple[Fault, list[str]] | None:
    """Fork for each request; returns what to do in the fork, and None in the end."""
    import_driver()
    gc.freeze()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            for descriptor, path in enumerate((os.devnull, request["stdout"], request["stderr"])):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), descriptor)
            return Fault(**request["fault"]), request["words"]
        os.write(1, json.dumps({"pid": pid}).encode() + b"\n")
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(1, json.dumps({"code": code}).encode() + b"\n")
    return None


def end(task: Callable[..., None], *arguments: Any) -> None:
    """Do a task and end this process as the interpreter would, but at once: to take it down is the larger part."""
    code: object = 0
    try:
        task(*arguments)
    except SystemExit as exit_:
        code = exit_.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["nursery"]:
        run_nursery(Fault(**json.loads(os.environ[FAULT_VARIABLE])), Path(sys.argv[2]))
    elif sys.argv[1:2] == ["once"]:
        run_driver(Fault(**json.loads(sys.argv[2])), sys.argv[3:])
    else:
        task = answer_requests()
        if task is not None:
            end(run_driver, *task)

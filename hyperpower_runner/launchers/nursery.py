"""A small process that forks a worker whenever its driver asks for one: a hundred times faster than a new interpreter.

    python -m hyperpower_runner.launchers.nursery EXPERIMENT        requests on file descriptor 0, answers on 1

A request is a line of JSON, {"job": "000012", "attempt": 1}; so is its answer, the identity of the worker (see
`processes.identity`) or {"error": ...}. Each worker leads a session of its own, so it outlives nursery and driver; the
nursery ends when its driver does. It knows nothing of what workers do. Standard library only, and one thread: that is
what makes a fork safe.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from hyperpower_runner import processes, worker
from hyperpower_runner.job_files import JobFiles


def main(root: Path) -> None:
    """Answer requests until there are no more."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the driver
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system buries the workers
    processes.prctl()  # loaded once, and not by each worker
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            answer = _raise(root, request["job"], request["attempt"])
        except OSError as error:
            answer = {"error": str(error), "errno": error.errno}
        with contextlib.suppress(BrokenPipeError):  # the driver was killed; its successor will find the worker
            os.write(1, json.dumps(answer).encode() + b"\n")


def _raise(root: Path, job_id: str, attempt: int) -> dict[str, Any]:
    """Fork a worker; returns its identity."""
    pid = os.fork()
    if pid:
        return processes.identity(pid)
    code = 1
    try:
        _settle(JobFiles(root / "jobs" / job_id))
        code = worker.main(root, job_id, attempt)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _settle(files: JobFiles) -> None:
    """Make a forked child what a process of its own would be, with output.log as its output."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        log = os.open(files.output, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)
    except OSError:  # the disk is full: the log is lost, the evaluation need not be
        log = nowhere
    for stream, descriptor in enumerate((nowhere, log, log)):
        os.dup2(descriptor, stream)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A file that says which process holds a directory, and beats while it does.

It complements the kernel's locks, which some shared file systems keep to one host, and which go with a lock file that
somebody deletes. Clocks of hosts differ, so that whether a file beats is seen by watching it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hyperpower_runner import processes
from hyperpower_runner.errors import ExperimentError
from hyperpower_runner.job_files import read_json, touched_ns, write_json

BEAT_S = 5.0
WATCH_S = 4 * BEAT_S  # until a file that does not beat is one whose process has gone


def of(directory: Path) -> dict[str, Any]:
    """What the calling process writes of itself: its identity, which directory it holds, and since when."""
    return {**processes.own_identity(), "directory": _inode(directory), "since_s": time.time()}


def lives(holder: Mapping[str, Any], directory: Path) -> bool | None:
    """Whether the process that wrote this of itself still holds the directory; None where that cannot be seen here."""
    alive = processes.is_alive(holder)
    if alive and "directory" in holder and holder["directory"] != _inode(directory):
        return False  # a copy of a directory whose own driver runs
    return alive


@contextlib.contextmanager
def shown(path: Path, content: dict[str, Any]) -> Iterator[Callable[[], bool]]:
    """Keep a file that says who holds its directory, beating, and take it away at the end.

    Yields a function that says whether the file is another process's by now.
    """
    write_json(path, content)
    ended, overtaken = threading.Event(), threading.Event()

    def is_own() -> bool:
        try:
            found = read_json(path)
        except ExperimentError:
            return True
        if found is None:  # somebody deleted state/, where nothing is kept that is not written again
            path.parent.mkdir(exist_ok=True)
            write_json(path, content)
        return found is None or all(found.get(key) == content[key] for key in ("host", "pid", "since_s"))

    def beat() -> None:
        while not ended.wait(BEAT_S):
            with contextlib.suppress(OSError):
                if not is_own():
                    overtaken.set()
                    return
                os.utime(path)

    thread = threading.Thread(target=beat, name="presence", daemon=True)
    thread.start()
    try:
        yield overtaken.is_set
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            if not overtaken.is_set():
                path.unlink(missing_ok=True)


def beats(path: Path) -> bool:
    """Watch a holder's file for up to WATCH_S seconds: whether it is touched, or written again."""
    return bool(beating([path], WATCH_S))


def beating(paths: Iterable[Path], watch_s: float) -> set[Path]:
    """Watch files for up to `watch_s` seconds: which of them are touched, or written again."""
    silent, until_s = {path: touched_ns(path) for path in paths}, time.monotonic() + watch_s
    changed: set[Path] = set()
    while silent and time.monotonic() < until_s:
        time.sleep(BEAT_S / 20)
        changed |= {path for path, first in silent.items() if touched_ns(path) != first}
        silent = {path: first for path, first in silent.items() if path not in changed}
    return {path for path in changed if path.exists()}


def age_s(path: Path) -> float:
    """How many seconds ago the file was touched, by this host's clock."""
    return max(0.0, time.time() - touched_ns(path) / 1e9)


def _inode(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_dev, found.st_ino]

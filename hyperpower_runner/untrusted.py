"""Files that anybody may have written: what would hang a reader, or break it later on, is refused at once.

A pipe of the expected name would be waited for, a device may have no end, and of JSON Python reads what is nested more
deeply than it can write. It knows no file of an experiment. Standard library only, because workers import it.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from pathlib import Path
from typing import Any

DEEPEST = 100  # arrays and objects within each other


def depth_of(value: Any) -> int:
    """How many arrays and objects stand within each other in a JSON value."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def parse_json(text: bytes) -> Any:
    """The value of a JSON text; raises ValueError for what is none, or is nested too deeply."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if text.count(b"[") + text.count(b"{") > DEEPEST and depth_of(content) > DEEPEST:
        raise ValueError("it is nested too deeply")
    return content


def regular(path: str | Path, flags: int) -> int:
    """Open a regular file, as an `opener`; raises OSError for a pipe or a device that somebody gave its name."""
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Is no regular file", str(path))
    return descriptor


def open_regular(path: Path) -> io.BufferedReader:
    """A file to be read; see `regular`."""
    return io.BufferedReader(io.FileIO(path, opener=regular))

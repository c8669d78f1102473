"""A command line, and the workers that it starts, that record what every fsync makes durable; a script of tests.

    python tests/power.py RECORD run ROOT          the command line
    python tests/power.py nursery ROOT             what it starts instead of `python -m hyperpower_runner...nursery`

RECORD gets a line of JSON for each fsync in ROOT: {"path", "inode", "names": {name: inode}} of a directory, or
{"path", "inode", "content"} of a file, as they were just before. Whoever reads it can rebuild what a power loss at any
time would have left.
"""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

RECORD = "POWER_RECORD"
NURSERY = ["-m", "hyperpower_runner.launchers.nursery"]


class NurseryOfTests(subprocess.Popen):  # type: ignore[type-arg]
    """Starts this file instead of the nursery."""

    def __init__(self, command: list[str], *arguments: Any, **options: Any) -> None:
        if command[1:3] == NURSERY:
            command = [command[0], __file__, "nursery", *command[3:]]
        super().__init__(command, *arguments, **options)


def record_fsyncs(record: str, root: str) -> None:
    """Have every later fsync of this process and its forks in `root` recorded."""
    fsync, inside = os.fsync, os.path.realpath(root)

    def recorded(fd: Any) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        path = str(Path(f"/proc/self/fd/{number}").readlink())
        found = os.fstat(number)
        line: dict[str, Any] = {"path": path, "inode": found.st_ino}
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(number) as entries:
                line["names"] = {entry.name: entry.inode() for entry in entries}
        else:
            line["content"] = base64.b64encode(os.pread(os.open(path, os.O_RDONLY), found.st_size, 0)).decode()
        fsync(number)
        if (path + os.sep).startswith(inside + os.sep):
            append(record, line)

    os.fsync = recorded


def append(record: str, line: dict[str, Any]) -> None:
    descriptor = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, json.dumps(line).encode() + b"\n")
    os.close(descriptor)


if __name__ == "__main__":
    if sys.argv[1] == "nursery":
        from hyperpower_runner.launchers import nursery

        record_fsyncs(os.environ[RECORD], sys.argv[2])
        nursery.main(Path(sys.argv[2]))
    else:
        from hyperpower_runner import cli

        os.environ[RECORD] = sys.argv.pop(1)
        record_fsyncs(os.environ[RECORD], sys.argv[2])
        subprocess.Popen = NurseryOfTests  # type: ignore[misc, assignment]
        cli.main()

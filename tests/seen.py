"""What tests see of the machine: the processes of an experiment."""

from __future__ import annotations

from pathlib import Path


def processes_of(root: Path) -> list[int]:
    """The processes that name this directory on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            named = str(root).encode() in (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if entry.name.isdigit() and named:
            found.append(int(entry.name))
    return found

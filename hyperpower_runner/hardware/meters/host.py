"""What the operating system tells of a process: the memory that it and its children occupy; nothing of power.

The peak of one process (VmHWM, its "high water mark") is kept by the kernel, so no sample can miss it. Of several
processes the peaks are added up, although they need not coincide and shared pages count in each: a bound from above,
which is the safe side of a budget. The exact alternative (Pss) walks all page tables at each reading, which would load
the machine that is being measured. Children are followed by parentage (where the kernel tells it, as all usual ones
do): one whose parent has ended counts no more.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperpower_runner.errors import MeterError
from hyperpower_runner.hardware.traces import Sample

PROC = Path("/proc")


class HostMeter:
    """Memory of a process tree on this machine, in bytes."""

    def __init__(self, proc: Path = PROC) -> None:
        self.metrics = frozenset({"memory_bytes"})
        self.platform: Mapping[str, Any] = {"meter": "host", "name": cpu_name(proc)}
        self._proc = proc
        self._pid: int | None = None

    def preflight(self) -> None:
        if not self._proc.is_dir():
            raise MeterError(
                f'meter "host" reads the memory of a process from {self._proc}, which this system has not;'
                " profile on Linux, or choose a simulated platform"
            )

    def attach(self, pid: int) -> None:
        self._pid = pid

    def sample(self) -> Sample:
        memory = peak_resident_bytes(self._pid, self._proc) if self._pid is not None else None
        return Sample(time_s=time.monotonic(), memory_bytes=memory)

    def close(self) -> None:
        self._pid = None


def peak_resident_bytes(pid: int, proc: Path = PROC) -> float | None:
    """The sum of the peak resident memory of a process and its children that live; None where nothing can be read."""
    peaks = [peak for member in _tree(pid, proc) if (peak := _peak_bytes(member, proc)) is not None]
    return float(sum(peaks)) if peaks else None


def cpu_name(proc: Path = PROC) -> str:
    """The name of this machine's processor, as far as it tells."""
    try:
        lines = (proc / "cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine() or "unknown"


def _tree(pid: int, proc: Path) -> list[int]:
    members = [pid]
    for member in members:  # which grows while it is walked
        for listing in (proc / str(member) / "task").glob("*/children"):
            try:
                members.extend(int(word) for word in listing.read_text().split())
            except OSError:  # the thread has ended
                continue
    return members


def _peak_bytes(pid: int, proc: Path) -> int | None:
    """VmHWM of one process; None for one that has ended, of which the kernel keeps no memory."""
    try:
        lines = (proc / str(pid) / "status").read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)

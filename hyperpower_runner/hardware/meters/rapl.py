"""Intel's and AMD's RAPL energy counters, as Linux shows them under /sys/class/powercap; it measures processors only.

Counted are the packages, added up. Their parts (core, uncore) are in them already; "psys" holds them too and exists on
few laptops only; "dram" is left out because not every processor has it: sums with and without it cannot be compared.
A counter goes round at `max_energy_range_uj` (about 260 kJ: after minutes to hours), which is undone here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperpower_runner.errors import MeterError
from hyperpower_runner.hardware.meters.host import HostMeter
from hyperpower_runner.hardware.traces import Sample

POWERCAP = Path("/sys/class/powercap")


class RaplMeter:
    """Energy of all processor packages, in J since this meter was made; memory of the process tree, in bytes.

    RAPL counts energy and knows no power, so `power_w` is estimated from the counter alone.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._packages = [_Package(path, name) for path, name in _packages(root)]
        if not self._packages:
            raise MeterError(
                f'meter "rapl": there is no processor package (intel-rapl:N) in {root}; on a virtual machine or in a'
                ' container use the host itself, elsewhere load it with "modprobe intel_rapl_msr", or choose another'
                " meter"
            )
        self._host = HostMeter()
        self.metrics = frozenset({"power_w", "memory_bytes"})
        self.platform: Mapping[str, Any] = {
            "meter": "rapl",
            "name": self._host.platform["name"],
            "domains": [package.name for package in self._packages],
        }

    def preflight(self) -> None:
        for package in self._packages:
            package.count()

    def attach(self, pid: int) -> None:
        self._host.attach(pid)

    def sample(self) -> Sample:
        memory = self._host.sample().memory_bytes
        energy_uj = sum(package.count() for package in self._packages)
        return Sample(time_s=time.monotonic(), energy_j=energy_uj / 1e6, memory_bytes=memory)

    def close(self) -> None:
        self._host.close()


class _Package:
    """The counter of one package, which goes round, as one that does not."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._counter = path / "energy_uj"
        self._range_uj = _read_number(path / "max_energy_range_uj")
        self._last_uj = _read_number(self._counter)
        self._total_uj = 0

    def count(self) -> int:
        """The energy in uJ since this object was made."""
        now_uj = _read_number(self._counter)
        step_uj = now_uj - self._last_uj
        self._total_uj += step_uj if step_uj >= 0 else step_uj + self._range_uj
        self._last_uj = now_uj
        return self._total_uj


def _packages(root: Path) -> list[tuple[Path, str]]:
    """The folders and names of the packages; the folders of their parts have a second colon."""
    folders = sorted(path for path in root.glob("intel-rapl:*") if path.name.count(":") == 1)
    named = [(path, (path / "name").read_text().strip()) for path in folders if (path / "name").is_file()]
    return [(path, name) for path, name in named if name.startswith("package")]


def _read_number(path: Path) -> int:
    try:
        return int(path.read_text())
    except PermissionError:
        counters = path.parent.parent / "intel-rapl*/energy_uj"
        raise MeterError(
            f"{path} may be read by root only, which is Linux' default; grant it until the next start with"
            f' "sudo chmod a+r {counters}", or for good by a udev rule that runs this'
        ) from None
    except (OSError, ValueError) as error:
        raise MeterError(
            f"{path} cannot be read as a number ({error}); see that the kernel module intel_rapl_msr is loaded"
        ) from None

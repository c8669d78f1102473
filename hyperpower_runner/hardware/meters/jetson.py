"""The INA3221 power monitors of NVIDIA's Jetson boards, as Linux shows them; power only, as on the paper's TX1.

Two layouts are known, below /sys/bus/i2c/drivers/ina3221*/ADDRESS/:

    hwmon/hwmon3/in1_label, in1_input (mV), curr1_input (mA)               Linux' own driver: JetPack 5 and newer
    iio:device0/rail_name_0, in_power0_input (mW)                          NVIDIA's driver (ina3221x): up to JetPack 4

A Jetson's processor and graphics share one memory, of which no process' part is told: `memory_bytes` is None.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hyperpower_runner.errors import MeterError, did_you_mean
from hyperpower_runner.hardware.traces import Sample

DRIVERS = Path("/sys/bus/i2c/drivers")
MODEL = Path("/proc/device-tree/model")
TOTALS = ("VDD_IN", "POM_5V_IN")  # TX1, TX2, Xavier NX, Orin NX and Nano; Nano of 2019. The AGX boards have none.

Rail = tuple[str, Callable[[], float]]  # its label, and a function that reads its power in W


class JetsonMeter:
    """Gross power of one rail, by default the one that feeds the whole module, in W.

    rail: the label of another one.
    """

    def __init__(self, root: Path = DRIVERS, rail: str | None = None) -> None:
        rails = dict(_rails(root))
        if not rails:
            raise MeterError(
                f'meter "jetson": there is no INA3221 power monitor below {root}; run on a Jetson board, outside of a'
                " container or with /sys mounted into it, or choose another meter"
            )
        found = ", ".join(sorted(rails))
        if rail is not None and rail not in rails:
            raise MeterError(f'there is no rail "{rail}"; this board has {found}{did_you_mean(rail, rails)}')
        label = rail or next((name for name in TOTALS if name in rails), None)
        if label is None:
            raise MeterError(
                f"no rail of this board is its total input ({' or '.join(TOTALS)}), found {found};"
                ' name the one to measure as "rail" of the platform'
            )
        self._power_w = rails[label]
        self.metrics = frozenset({"power_w"})
        self.platform: Mapping[str, Any] = {"meter": "jetson", "name": _model(), "rail": label}

    def preflight(self) -> None:
        self.sample()

    def attach(self, pid: int) -> None:
        """What runs beside the process is in the power too, and nothing else is measured."""

    def sample(self) -> Sample:
        try:
            power_w = self._power_w()
        except (OSError, ValueError) as error:
            raise MeterError(
                f"the rail {self.platform['rail']} cannot be read ({error}); grant read access to it, or run as root"
            ) from None
        return Sample(time_s=time.monotonic(), power_w=power_w)

    def close(self) -> None:
        """Nothing is held open."""


def _rails(root: Path) -> Iterator[Rail]:
    for device in sorted(root.glob("ina3221*/*")):
        for label in sorted(device.glob("hwmon/hwmon*/in[0-9]*_label")):
            channel = label.name.removeprefix("in").removesuffix("_label")
            volts, amperes = label.with_name(f"in{channel}_input"), label.with_name(f"curr{channel}_input")
            if volts.exists() and amperes.exists():  # "sum of shunt voltages" is labelled too
                yield _text(label), _product(volts, amperes)
        for label in sorted(device.glob("iio:device*/rail_name_*")):
            power = label.with_name(f"in_power{label.name.rpartition('_')[2]}_input")
            if power.exists():
                yield _text(label), _milliwatts(power)


def _product(millivolts: Path, milliamperes: Path) -> Callable[[], float]:
    return lambda: float(_text(millivolts)) * float(_text(milliamperes)) / 1e6


def _milliwatts(power: Path) -> Callable[[], float]:
    return lambda: float(_text(power)) / 1e3


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def _model() -> str:
    try:
        return MODEL.read_text(encoding="utf-8", errors="replace").strip("\0\n ") or "Jetson"
    except OSError:
        return "Jetson"

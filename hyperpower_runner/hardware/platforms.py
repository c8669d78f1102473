"""The platforms that config.json may name, and what each can measure; nothing of how.

A device may lack a sensor, and a recording a field: then a measurement has None there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

POWER, MEMORY = "power_w", "memory_bytes"
SIMULATED = "simulated-"  # what the names of simulated platforms begin with
METERS = {
    "nvml": frozenset({POWER, MEMORY}),
    "rapl": frozenset({POWER, MEMORY}),
    "jetson": frozenset({POWER}),
    "host": frozenset({MEMORY}),
    "replay": frozenset({POWER, MEMORY}),
    "simulated-gtx1070": frozenset({POWER, MEMORY}),
    "simulated-tegra-tx1": frozenset({POWER}),
}
OWN_KEYS = {"rail": "jetson", "trace": "replay"}  # keys of "platform" that only one meter has
SHARED = ("rapl", "jetson")  # their power is that of all jobs on the machine


def measured_by(platform: Mapping[str, Any]) -> frozenset[str]:
    """Which metrics the meter that "platform" of config.json names can measure; none where it names no known one."""
    return METERS.get(str(platform.get("meter")), frozenset())


def is_simulated(platform: Mapping[str, Any]) -> bool:
    """Whether the device is a formula: what is said of its power and memory was measured nowhere."""
    return bool(platform.get("simulated")) or str(platform.get("meter", "")).startswith(SIMULATED)

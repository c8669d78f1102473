"""The platforms that config.json may name, and what each can measure; nothing of how.

A device may lack a sensor, and a recording a field: then a measurement has None there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

POWER, MEMORY = "power_w", "memory_bytes"
SIMULATED = "simulated-"  # what the names of simulated platforms begin with
METERS = {  # and what their sensors tell
    "nvml": frozenset({POWER, MEMORY}),
    "rapl": frozenset({POWER, MEMORY}),
    "jetson": frozenset({POWER}),
    "host": frozenset({MEMORY}),
    "replay": frozenset({POWER, MEMORY}),
    "simulated-gtx1070": frozenset({POWER, MEMORY}),
    "simulated-tegra-tx1": frozenset({POWER}),
}
IDENTITY = ("meter", "name", "batch-size", "dtype", "framework")  # what a measurement, and so a model, belongs to
OWN_KEYS = {"rail": "jetson", "trace": "replay"}  # keys of "platform" that only one meter has
SHARED = ("rapl", "jetson")  # their power is that of all jobs on the machine


def measured_by(platform: Mapping[str, Any]) -> frozenset[str]:
    """Which metrics a measurement on "platform" of config.json can give; none where it names no known meter."""
    sensed = METERS.get(str(platform.get("meter")))
    if sensed is None:
        return frozenset()
    return sensed | ({"latency_s", "energy_j"} if POWER in sensed else {"latency_s"})


def disagreement(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """What of a platform is not what a model belongs to, in one clause; "" where nothing is.

    What one of the two does not say is not compared.
    """
    said = [key for key in IDENTITY if None not in (found.get(key), expected.get(key))]
    return ", ".join(f"{key} {found[key]} instead of {expected[key]}" for key in said if found[key] != expected[key])


def is_simulated(platform: Mapping[str, Any]) -> bool:
    """Whether the device is a formula: what is said of its power and memory was measured nowhere."""
    return bool(platform.get("simulated")) or str(platform.get("meter", "")).startswith(SIMULATED)

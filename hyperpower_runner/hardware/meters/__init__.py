"""Meters: what reads the power, energy and memory of a device, one module a platform, behind one protocol.

Nothing falls back silently: a platform that is not there, may not be read, or is busy is an error that says what to do,
and what a meter cannot measure is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from hyperpower_runner.hardware.traces import Sample


class Meter(Protocol):
    """Reads one device.

    metrics: which of "power_w" and "memory_bytes" it measures.
    platform: what a measurement on it must carry, in JSON form: "meter", "name", and what else is known of the device
        (uuid, driver, power_limit_w, ...).
    """

    metrics: frozenset[str]
    platform: Mapping[str, Any]

    def preflight(self) -> None:
        """Raise MeterError, with one sentence that says what to do, where a measurement now would be worth nothing."""
        ...

    def attach(self, pid: int) -> None:
        """From now on, `memory_bytes` is that of this process and its children (called right after its start)."""
        ...

    def sample(self) -> Sample:
        """One reading, now; `time_s` is `time.monotonic()`. Raises MeterError where the device has gone."""
        ...

    def close(self) -> None:
        """Let go of the device."""
        ...

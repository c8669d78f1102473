"""A recording instead of a device: traces from a file, handed out in the order in which they were written.

The file holds one `Trace` a line, in its JSON form. Traces whose provenance says `"idle": true` are those of the idle
device, all others those of runs. Nothing is started, and nothing is adjusted to the job or the protocol that asks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperpower_runner.errors import MeterError
from hyperpower_runner.hardware.traces import Trace
from hyperpower_runner.trial import Job


class ReplayBench:
    """A bench (see `hardware.bench.Bench`) that repeats what another one recorded."""

    def __init__(self, path: Path) -> None:
        traces = _read(path)
        samples = [sample for trace in traces for sample in trace.samples]
        measures = {
            "power_w": any(sample.power_w is not None or sample.energy_j is not None for sample in samples),
            "memory_bytes": any(sample.memory_bytes is not None for sample in samples),
        }
        self.metrics = frozenset(name for name, measured in measures.items() if measured)
        self.platform: Mapping[str, Any] = {"meter": "replay", "name": path.name}
        self._path = path
        self._idle = [trace for trace in traces if trace.provenance.get("idle") is True]
        self._runs = [trace for trace in traces if trace.provenance.get("idle") is not True]
        self._recorded = len(self._runs)

    def preflight(self) -> None:
        """A recording can be replayed at any time."""

    def idle(self, seconds: float) -> Trace:
        """The next recorded trace of the idle device; one without samples where there is none."""
        return self._idle.pop(0) if self._idle else Trace((), 0.0, seconds, provenance={"idle": True})

    def run(self, job: Job, folder: Path, sample_hz: float) -> Trace:
        """The next recorded trace of a run, whichever the job; raises MeterError when all have been handed out."""
        if not self._runs:
            raise MeterError(
                f"{self._path}: all {self._recorded} recorded runs have been replayed; record more, or measure less"
            )
        return self._runs.pop(0)

    def close(self) -> None:
        """Nothing is held open."""


def _read(path: Path) -> list[Trace]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MeterError(f'{path}: cannot be read ({error}); "trace" names a file with one trace a line') from None
    return [_trace(f"{path}:{number}", line) for number, line in enumerate(lines, start=1) if line.strip()]


def _trace(where: str, line: str) -> Trace:
    try:
        trace = Trace.from_json(json.loads(line))
        numbers: list[Any] = [trace.begin_s, trace.end_s, *trace.reported.values()]
        numbers += [trace.step_s] if trace.step_s is not None else []
        dict(**trace.provenance)  # names that are texts
        for sample in trace.samples:
            numbers += [value for name, value in vars(sample).items() if name != "throttled" and value is not None]
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("a number is not finite")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MeterError(
            f"{where}: is not a recorded trace ({type(error).__name__}: {error}); record it again, or delete the line"
        ) from None
    return trace

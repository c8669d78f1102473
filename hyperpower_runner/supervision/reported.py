"""What a script has to say at its end: its metrics, on the last line of stdout, or why there are none.

A hostile script may print anything: what comes of it is bounded, since everyone who reads the history pays for it. It
knows neither processes nor files.
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Mapping
from typing import Any

from hyperpower_runner.errors import shortened
from hyperpower_runner.job_files import LONGEST_LINE, as_number, last_object, strict
from hyperpower_runner.untrusted import DEEPEST, depth_of

MOST_METRICS = 1000
AROUND = 10  # levels at most of a file in which `extra` stands
LONGEST_NAME = 200
LONGEST_EXTRA = 64 << 10  # of JSON: whatever a script reports beside numbers
LONGEST_QUOTE = 200
LEFT_OUT = "left_out"  # the entry of `extra` that says what was
MEASUREMENT = "measurement"  # the one that says how the network was measured

Metrics = dict[str, float | None]


def read_metrics(
    stdout: bytes, wanted: str, measured: Mapping[str, float]
) -> tuple[Metrics, dict[str, Any], str | None]:
    """Read the metrics from the last line of a script's stdout, beside those `measured` by the worker.

    stdout: its last LONGEST_LINE bytes. Returns the metrics (finite numbers, None for what was not measured), whatever
    else the object held, and a sentence that says why the `wanted` metric could not be had, or None. In the rest, what
    a script calls as this program does an entry of its own, such as "measurement", is found under "measurement_".
    """
    lines = [line for line in stdout.splitlines() if line.strip()]
    if not lines:
        needed = f'its last line of stdout must be a JSON object such as {{"{wanted}": 0.1}}'
        return dict(measured), {}, f"it printed nothing; {needed}"
    content = last_object(stdout)
    if content is None:
        is_cut = len(lines) == 1 and len(stdout) >= LONGEST_LINE
        shown = f'"{lines[-1][:80].decode("utf-8", errors="replace")}"'
        found = f"longer than {LONGEST_LINE} bytes" if is_cut else shown
        needed = f'a JSON object such as {{"{wanted}": 0.1}}'
        return dict(measured), {}, f"the last line of its stdout is not {needed}, but {found}"
    metrics, extra = _parted(content)
    complaint: str | None = None
    if wanted not in content and wanted not in measured:
        names = shortened(", ".join(content), LONGEST_QUOTE) or "no metric"
        complaint = f'it reported {names}, but not "{wanted}"'
    elif metrics.get(wanted, measured.get(wanted)) is None:
        complaint = f'it reported "{wanted}" as {_quoted(content[wanted])}, which is not a finite number'
    metrics, extra = _bounded(metrics, extra, wanted)
    return {**measured, **metrics}, extra, complaint


def _parted(content: dict[str, Any]) -> tuple[Metrics, dict[str, Any]]:
    """What was reported, as metrics and the rest."""
    metrics: Metrics = {}
    extra: dict[str, Any] = {}
    for name, value in content.items():
        number = as_number(value)
        if number is not None:
            metrics[name] = number if math.isfinite(number) else None
        elif value is None:
            metrics[name] = None
        else:
            extra[name] = value
    for name in (LEFT_OUT, MEASUREMENT):
        if name in extra:
            free = name
            while free in content:
                free += "_"
            extra[free] = extra.pop(name)
    return metrics, extra


def _bounded(metrics: Metrics, extra: dict[str, Any], wanted: str) -> tuple[Metrics, dict[str, Any]]:
    """What a result has room for; where something is left out, the rest says so."""
    notes = []
    size = _size(extra)
    if size is None or size > LONGEST_EXTRA:
        what = "values that are nested too deeply" if size is None else f"{size} bytes of other values than numbers"
        notes.append(f"{what}; at most {LONGEST_EXTRA} bytes are kept")
        extra = {}
    names = [name for name in metrics if len(name) <= LONGEST_NAME or name == wanted]
    names.sort(key=lambda name: name != wanted)  # it comes first, the others stay in their order
    if len(names) > MOST_METRICS or len(names) < len(metrics):
        most = f"at most {MOST_METRICS} are kept, of names up to {LONGEST_NAME} characters"
        notes.append(f"{len(metrics) - len(names[:MOST_METRICS])} of {len(metrics)} metrics; {most}")
        metrics = {name: metrics[name] for name in names[:MOST_METRICS]}
    return metrics, {**extra, LEFT_OUT: notes} if notes else extra


def _size(extra: dict[str, Any]) -> int | None:
    """Of its JSON in bytes; None where it is nested more deeply than anybody will read it from a result."""
    return len(json.dumps(strict(extra))) if depth_of(extra) <= DEEPEST - AROUND else None


def _quoted(value: Any) -> str:
    try:
        return shortened(repr(value))
    except (RecursionError, ValueError):
        return "something deeply nested"


def explain_exit(code: int, stderr: bytes) -> str:
    """Say how a script ended, with the last line of its stderr where that says something."""
    if code >= 0:
        how = f"it ended with exit code {code}"
    else:
        try:
            how = f"it was killed by {signal.Signals(-code).name}"
        except ValueError:
            how = f"it was killed by signal {-code}"
    lines = [line.strip() for line in stderr.decode("utf-8", errors="replace").splitlines() if line.strip()]
    said = f": {shortened(lines[-1], LONGEST_QUOTE)}" if lines else ""
    return f"{how}{said}; see its output.log"

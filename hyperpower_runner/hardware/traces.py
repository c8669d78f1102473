"""What a meter saw while one inference process ran, as it was recorded: pure, frozen data with a JSON form.

A trace can be written down and replayed, so everything that is concluded from it (`measurement`) is tested without a
device. Times are seconds of one monotonic clock. What a meter cannot measure is None, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One reading of a device.

    power_w: gross power now, idle included. energy_j: a counter, of which only differences mean something; it may be
    updated in ticks, stand still, wrap or be reset. memory_bytes: what the process occupies; the largest of a trace
    counts. throttled: the reasons why the device holds back its clock, empty for none, None where it cannot tell.
    """

    time_s: float
    power_w: float | None = None
    energy_j: float | None = None
    memory_bytes: float | None = None
    clock_mhz: float | None = None
    temperature_c: float | None = None
    throttled: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Trace:
    """The samples around one run of back-to-back inference steps.

    begin_s, end_s: when the first and the last step ran. step_s: the mean duration of one step in seconds, as the
    script measured it, or None. reported: other numbers that the script printed, by name. provenance: what it said of
    itself (framework, dtype, batch size), in JSON form. said: the names of all that it printed, numbers or not.
    """

    samples: tuple[Sample, ...]
    begin_s: float
    end_s: float
    step_s: float | None = None
    reported: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    said: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """One object; of a sample, what is None is left out."""
        samples = [
            {name: value for name, value in asdict(sample).items() if value is not None} for sample in self.samples
        ]
        return {
            "begin_s": self.begin_s,
            "end_s": self.end_s,
            "step_s": self.step_s,
            "reported": dict(self.reported),
            "provenance": dict(self.provenance),
            "said": sorted(self.said),
            "samples": samples,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Trace:
        """Read what `to_json` wrote; raises KeyError or TypeError where it is none."""
        samples = []
        for sample in content["samples"]:
            throttled = sample.get("throttled")
            samples.append(Sample(**{**sample, "throttled": None if throttled is None else tuple(throttled)}))
        known = {name: content[name] for name in ("step_s", "reported", "provenance") if name in content}
        said = frozenset(content.get("said", ()))
        return cls(tuple(samples), content["begin_s"], content["end_s"], **known, said=said)

"""The profile of a platform: which structures were measured, and what came of it; hardware/profile.jsonl.

    {"schema": 1, "kind": "point", "id": 17, "params": {...}, "metrics": {"power_w": 81.2, ...}, "half_width": {...},
     "repeats": 3, "windows": [...], "features": {...}, "platform": {...}, "idle_power_w": 31.0, "flags": [], ...}

One line is appended whenever a structure was measured once more; it says all that is known of it, and the last line of
an id counts. So nothing but the last measurement is lost to a kill. Lines of kind "idle" and "reference" lie between.
It does not know how anything is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hyperpower_runner.errors import ParamsError, ProfileError, shortened
from hyperpower_runner.hardware.measurement import Estimate, Protocol, Window, summarise
from hyperpower_runner.hardware.platforms import IDENTITY
from hyperpower_runner.job_files import SCHEMA, append_json_line, as_number
from hyperpower_runner.space import Array, Space
from hyperpower_runner.trial import Params
from hyperpower_runner.untrusted import open_regular, parse_json
from hyperpower_runner.version import __version__

DRIFT = "drift"  # flags a point that was measured while the reference network drew more or less than at first
MOST_COMPLAINTS = 3  # of lines; more are counted
LARGEST_ID = 10**7


@dataclass(frozen=True)
class Point:
    """One structure, measured len(windows) times, each in a fresh process.

    platform: provenance of the measurements. features: computed counts of the network, if its script has a hook.
    idle_power_w: the gross power of the device at rest, when last seen before. failed: why it could not be measured.
    quick: whether a window of it is a short one.
    """

    point_id: int
    params: Params
    windows: tuple[Window, ...] = ()
    platform: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)
    idle_power_w: float | None = None
    failed: str | None = None
    flags: tuple[str, ...] = ()
    quick: bool = False

    def estimate(self, protocol: Protocol) -> Estimate:
        return summarise(self.windows, protocol)

    def to_json(self, protocol: Protocol) -> dict[str, Any]:
        """The line of this point; its estimates are there to be read, `from_json` makes them again."""
        estimate = self.estimate(protocol)
        return {
            "schema": SCHEMA,
            "kind": "point",
            "id": self.point_id,
            "params": self.params,
            "metrics": dict(estimate.metrics),
            "half_width": dict(estimate.half_widths),
            "repeats": len(self.windows),
            "flags": sorted({*self.flags, *estimate.flags}),
            "failed": self.failed,
            "idle_power_w": self.idle_power_w,
            "features": dict(self.features),
            "platform": dict(self.platform),
            "quick": self.quick,
            "windows": [window.to_json() for window in self.windows],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Point:
        """Read the line of a point; raises KeyError, TypeError or ValueError where it is none."""
        if not isinstance(content["id"], int) or not 0 < content["id"] <= LARGEST_ID:
            raise TypeError("id")
        if not isinstance(content["params"], dict):
            raise TypeError("params")
        return cls(
            content["id"],
            content["params"],
            tuple(Window.from_json(window) for window in content["windows"]),
            dict(content["platform"]),
            {name: float(value) for name, value in dict(content.get("features") or {}).items()},
            content.get("idle_power_w"),
            content.get("failed"),
            tuple(flag for flag in content.get("flags") or () if flag == DRIFT),  # the others follow from the windows
            content.get("quick") is True,
        )


@dataclass(frozen=True)
class Reference:
    """One look at a reference network: its power in W."""

    params: Params
    power_w: float
    platform: Mapping[str, Any]


@dataclass(frozen=True)
class Profile:
    """The points of hardware/profile.jsonl by id, and one sentence on each line that is none of them.

    references: what was seen of reference networks, in their order.
    """

    points: tuple[Point, ...] = ()
    complaints: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()

    @property
    def measured(self) -> tuple[Point, ...]:
        return tuple(point for point in self.points if point.windows)

    def on(self, platform: Mapping[str, Any]) -> Profile:
        """The points measured on a platform, as config.json names it; the others become a complaint."""
        wanted = {key: platform[key] for key in IDENTITY if key in platform}

        def fits(found: Mapping[str, Any]) -> bool:
            return all(found.get(key) == value for key, value in wanted.items())

        references = tuple(reference for reference in self.references if fits(reference.platform))
        fitting = tuple(point for point in self.points if not point.windows or fits(point.platform))
        if len(fitting) == len(self.points):
            return replace(self, references=references)
        foreign = next(point for point in self.points if point not in fitting)
        found = {key: foreign.platform.get(key) for key in wanted}
        count = len(self.points) - len(fitting)
        complaint = (
            f"{count} points are passed over: they were measured on {shown(found)}, config.json has {shown(wanted)}"
        )
        return Profile(fitting, (*self.complaints, complaint), references)


def append_point(path: Path, point: Point, protocol: Protocol, time_s: float) -> None:
    """Write down all that is known of a point, with the protocol of its last window and this version."""
    content = {**point.to_json(protocol), "protocol": protocol.to_json(), "version": __version__, "time_s": time_s}
    append_json_line(path, content)


def append_event(path: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Write down what is no point: the device at rest ("idle"), or the reference network ("reference")."""
    append_json_line(path, {"schema": SCHEMA, "kind": kind, **content})


def read_profile(path: Path, space: Space) -> Profile:
    """Read a profile; an empty one where there is no file.

    Torn lines, lines of something else, and points that do not lie in the space are passed over with a complaint.
    Raises ProfileError where the file cannot be read, or was written by a newer version.
    """
    try:
        with open_regular(path) as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return Profile()
    except OSError as error:
        raise ProfileError(
            f"{path}: cannot be read ({error.strerror}); mend that, or move it away and profile again"
        ) from None
    points: dict[int, Point] = {}
    complaints: list[str] = []
    references: list[Reference] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = _read_line(line, space)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            what = (
                f"its params do not fit ({error})"
                if isinstance(error, _MisfitError)
                else "it is torn, or no line of a profile"
            )
            complaints.append(f"{path}: line {number} is passed over: {what}")
            continue
        except ProfileError as error:
            raise ProfileError(f"{path}: line {number}: {error}") from None
        if isinstance(found, Point):
            points[found.point_id] = found
        elif found is not None:
            references.append(found)
    if len(complaints) > MOST_COMPLAINTS:
        complaints[1:] = [f"{path}: {len(complaints) - 1} more lines are passed over likewise"]
    return Profile(tuple(points[key] for key in sorted(points)), tuple(complaints), tuple(references))


class _MisfitError(ValueError):
    """A point that does not lie in the space."""


def _read_line(line: bytes, space: Space) -> Point | Reference | None:
    content = parse_json(line)
    if content.get("schema", SCHEMA) > SCHEMA:
        found = shortened(repr(content["schema"]))
        raise ProfileError(f"its schema number is {found}; use a newer hyperpower_runner")
    if content["kind"] == "reference":
        power_w = as_number(content["power_w"])
        return None if power_w is None else Reference(dict(content["params"]), power_w, dict(content["platform"]))
    if content["kind"] == "idle":
        return None
    if content["kind"] != "point":
        raise KeyError("kind")
    point = Point.from_json(content)
    try:
        space.from_params(point.params)
    except ParamsError as error:
        raise _MisfitError(str(error)) from None
    return point


def as_arrays(points: Iterable[Point], space: Space, protocol: Protocol) -> tuple[Array, dict[str, Array]]:
    """Measured points as values of shape (n, D), and each metric's means of shape (n,), NaN where there is none."""
    points = list(points)
    values = np.array([space.from_params(point.params) for point in points]).reshape(len(points), space.dimensions)
    means = [point.estimate(protocol).metrics for point in points]
    names = sorted({name for mean in means for name, value in mean.items() if value is not None})

    def column(name: str) -> Array:
        return np.array([np.nan if mean.get(name) is None else mean[name] for mean in means], dtype=np.float64)

    return values, {name: column(name) for name in names}


def shown(platform: Mapping[str, Any]) -> str:
    """A platform in one clause."""
    return shortened(", ".join(f"{key} {value}" for key, value in platform.items()) or "nothing of it", 200)

"""hardware/profile.jsonl: what is written is read again, and what is torn or foreign is told of and lost to nobody."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpower_runner.config import parse
from hyperpower_runner.errors import ProfileError
from hyperpower_runner.hardware.measurement import Protocol, Window
from hyperpower_runner.hardware.profile import Point, Reference, append_event, append_point, as_arrays, read_profile

CONFIG = parse({
    "objective": {"command": ["true"]},
    "variables": {"units": {"type": "INT", "min": 1, "max": 40}, "rate": {"type": "FLOAT", "min": 0, "max": 1}},
})  # fmt: skip
SPACE, PROTOCOL = CONFIG.space, Protocol()


def point(number: int, *powers: float, **platform: Any) -> Point:
    windows = tuple(Window({"power_w": power, "memory_bytes": None}, power, power) for power in powers)
    return Point(number, {"units": number, "rate": 0.5}, windows, {"meter": "nvml", **platform}, {"macs": 7.0}, 20.0)


def test_points_are_read_as_they_were_written_and_the_last_line_of_an_id_counts(tmp_path: Path) -> None:
    file = tmp_path / "profile.jsonl"
    first, more = point(1, 80.0), point(1, 80.0, 82.0)
    other = point(2, 60.0)
    for written in (first, other, more):
        append_point(file, written, PROTOCOL, 0.0)
    append_event(file, "idle", {"power_w": 20.0})
    append_event(file, "reference", {"params": {"units": 3}, "power_w": 70.0, "platform": {"meter": "nvml"}})
    found = read_profile(file, SPACE)
    assert found.points == (more, other)
    assert found.references == (Reference({"units": 3}, 70.0, {"meter": "nvml"}),)
    assert found.complaints == ()


def test_a_line_carries_what_is_known_of_its_point(tmp_path: Path) -> None:
    file = tmp_path / "profile.jsonl"
    append_point(file, point(1, 80.0, 82.0, **{"batch-size": 32}), PROTOCOL, 12.0)
    line = json.loads(file.read_text())
    assert line["metrics"] == {"power_w": 81.0, "memory_bytes": None}  # what was not measured is null
    half_width = 12.706 * np.std([80.0, 82.0], ddof=1) / math.sqrt(2)  # t(0.975; 1), from a table
    assert line["half_width"]["power_w"] == pytest.approx(half_width, rel=1e-4)
    assert line["platform"] == {"meter": "nvml", "batch-size": 32}
    assert (line["repeats"], line["quick"], line["idle_power_w"], line["time_s"]) == (2, False, 20.0, 12.0)


def test_no_file_is_an_empty_profile(tmp_path: Path) -> None:
    assert read_profile(tmp_path / "profile.jsonl", SPACE).points == ()


FOREIGN = {
    "torn": b'{"schema": 1, "kind": "point", "id": 3, "par',
    "no JSON": b"power: 80 W",
    "no object": b"[1, 2]",
    "another kind": b'{"kind": "job", "id": 3}',
    "no kind": b'{"id": 3}',
    "an id that is a text": b'{"kind": "point", "id": "3", "params": {}, "windows": [], "platform": {}}',
    "no windows": b'{"kind": "point", "id": 3, "params": {"units": 3, "rate": 0.5}, "platform": {}}',
    "binary": b"\x00\xff\xfe",
}


@pytest.mark.parametrize("line", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_foreign_line_is_passed_over_by_its_number(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "profile.jsonl"
    append_point(file, point(1, 80.0), PROTOCOL, 0.0)
    file.write_bytes(file.read_bytes() + line + b"\n")
    append_point(file, point(2, 60.0), PROTOCOL, 0.0)
    found = read_profile(file, SPACE)
    assert [one.point_id for one in found.points] == [1, 2]
    assert len(found.complaints) == 1
    assert f"{file}: line 2 is passed over" in found.complaints[0]


def test_a_point_outside_the_space_is_passed_over_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "profile.jsonl"
    append_point(file, Point(1, {"units": 99, "rate": 0.5}, point(1, 80.0).windows), PROTOCOL, 0.0)
    found = read_profile(file, SPACE)
    assert found.points == ()
    assert '"units" is 99' in found.complaints[0]


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "profile.jsonl"
    file.write_text('{"schema": 99, "kind": "point"}\n')
    with pytest.raises(ProfileError, match=r"line 1.*99.*newer"):
        read_profile(file, SPACE)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "params", "windows"]), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["id", "params", "windows", "platform", "features", "schema", "flags"]), JSON))
def test_whatever_a_line_holds_there_is_no_traceback(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    file = tmp_path_factory.mktemp("any") / "profile.jsonl"
    file.write_text(json.dumps({"kind": "point", **content}) + "\n")
    try:
        found = read_profile(file, SPACE)
    except ProfileError:
        return
    assert len(found.points) + len(found.complaints) == 1


def test_points_of_another_platform_are_told_of() -> None:
    from hyperpower_runner.hardware.profile import Profile

    both = Profile((point(1, 80.0), point(2, 60.0, **{"batch-size": 64})))
    assert both.on({}) == both
    assert [one.point_id for one in both.on({"batch-size": 64}).points] == [2]
    assert "batch-size 64" in both.on({"batch-size": 64}).complaints[0]
    assert both.on({"meter": "nvml"}).points == both.points


def test_metrics_become_columns_with_nan_for_what_was_not_measured() -> None:
    windows = (Window({"power_w": None, "latency_s": 0.5}),)
    values, outcomes = as_arrays([point(4, 80.0, 82.0), Point(6, {"units": 6, "rate": 0.1}, windows)], SPACE, PROTOCOL)
    np.testing.assert_array_equal(values, [[4, 0.5], [6, 0.1]])
    np.testing.assert_array_equal(outcomes["power_w"], [81.0, np.nan])
    np.testing.assert_array_equal(outcomes["latency_s"], [np.nan, 0.5])
    assert outcomes.keys() == {"power_w", "latency_s"}

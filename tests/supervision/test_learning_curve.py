"""The learning curve as a worker reads it: each point once, as it comes, and never more than it can afford."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpower_runner.job_files import append_json_line
from hyperpower_runner.stopping import CONTINUE, CurvePoint, StoppingRule, decide
from hyperpower_runner.supervision import learning_curve
from hyperpower_runner.supervision.learning_curve import LOOK_BYTES, LearningCurve

TEN = StoppingRule(classes=10)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
ODD: list[Any] = ["NaN", "Infinity", True, "3", None, []]
NUMBERS = st.floats() | st.integers(-(10**400), 10**400) | st.sampled_from(ODD)
POINTS = st.fixed_dictionaries({}, optional=dict.fromkeys(("epoch", "error", "loss", "id"), NUMBERS))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "progress.jsonl"


def curve_at(path: Path, rule: StoppingRule | None = TEN) -> LearningCurve:
    return LearningCurve(path, 1, "error", rule)


def test_each_point_is_taken_once_as_it_comes(path: Path) -> None:
    curve, points = curve_at(path), []
    assert not curve.look()  # there is no file yet
    for epoch in range(1, 6):
        append_json_line(path, {"epoch": epoch, "error": 0.9, "loss": 2.3 + epoch / 1000})
        points.append(CurvePoint(epoch, 0.9, 2.3 + epoch / 1000))
        assert curve.look()
        assert not curve.look()
        assert (curve.epoch, curve.reached) == (epoch, 0.9)
        assert curve.decision == decide(points, TEN)
    assert curve.decision.stop


def test_a_torn_line_waits_for_its_end(path: Path) -> None:
    curve = curve_at(path)
    path.write_text('{"epoch": 1, "err')
    assert not curve.look()
    with path.open("a") as file:
        file.write('or": 0.5}\n')
    assert curve.look()
    assert (curve.epoch, curve.reached) == (1, 0.5)


def test_without_a_rule_nothing_is_decided_but_the_curve_is_read(path: Path) -> None:
    curve = curve_at(path, None)
    append_json_line(path, {"epoch": 1, "error": 0.5, "loss": float("nan")})
    curve.look()
    assert (curve.epoch, curve.decision) == (1, CONTINUE)


def test_points_of_other_jobs_are_none_of_this_one(path: Path) -> None:
    curve = curve_at(path)
    for job_id in (2, "1", None, [1]):
        append_json_line(path, {"id": job_id, "epoch": 7, "loss": float("nan")})
    append_json_line(path, {"id": 1, "epoch": 2, "error": 0.25})
    curve.read_out()
    assert (curve.epoch, curve.reached, curve.decision) == (2, 0.25, CONTINUE)


def test_a_long_piece_is_read_in_several_looks(path: Path) -> None:
    line = json.dumps({"epoch": 1, "error": 0.5}) + "\n"
    count = 3 * LOOK_BYTES // len(line)
    path.write_text(line * count + json.dumps({"epoch": 2, "error": 0.25}) + "\n")
    curve = curve_at(path)
    assert curve.look()
    assert curve.epoch == 1
    curve.read_out()
    assert (curve.epoch, curve.reached) == (2, 0.25)
    assert not curve.is_full


def test_of_a_file_that_is_too_long_the_rest_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_curve, "MOST_BYTES", 1000)
    curve = curve_at(path)
    for epoch in range(100):
        append_json_line(path, {"epoch": epoch})
        curve.look()
    assert curve.is_full
    assert 50 < (curve.epoch or 0) < 99  # 14 bytes a line
    assert not curve.look()


@given(st.lists(POINTS, max_size=6))
def test_the_decision_is_that_of_all_finite_points_however_they_come(
    tmp_path_factory: pytest.TempPathFactory, points: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("curve")
    whole, pieces = curve_at(folder / "whole"), curve_at(folder / "pieces")
    (folder / "whole").write_text("".join(json.dumps(point) + "\n" for point in points))
    for point in points:
        append_json_line(folder / "pieces", point)
        pieces.look()
    whole.read_out()
    assert (whole.decision, whole.epoch, whole.reached) == (pieces.decision, pieces.epoch, pieces.reached)
    if whole.decision.stop:
        assert whole.decision.epoch in [point.get("epoch") for point in points]


@given(st.lists(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()), max_size=5))
def test_any_bytes_are_read_without_an_error(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("curve") / "progress.jsonl"
    path.write_bytes(b"\n".join(lines))
    curve = curve_at(path)
    curve.read_out()
    assert curve.epoch is None or isinstance(curve.epoch, float)

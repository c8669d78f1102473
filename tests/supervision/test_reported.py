"""What a script reported: whatever the bytes, there are metrics or a reason, of bounded size."""

from __future__ import annotations

import json
import math
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpower_runner.job_files import LONGEST_LINE, read_json, strict, write_json
from hyperpower_runner.supervision.reported import LONGEST_EXTRA, MOST_METRICS, explain_exit, read_metrics
from hyperpower_runner.trial import Result, Status

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def line_of(content: Any) -> bytes:
    return json.dumps(content).encode() + b"\n"


@given(st.binary(max_size=200))
def test_any_bytes_give_metrics_or_a_complaint(stdout: bytes) -> None:
    metrics, extra, complaint = read_metrics(stdout, "error", {"duration_s": 1.0})
    assert complaint is not None or metrics["error"] is not None
    json.dumps(strict([metrics, extra, complaint]), allow_nan=False)


@given(st.dictionaries(st.sampled_from(["error", "power_w", "duration_s"]) | st.text(max_size=5), JSON, max_size=6))
def test_any_object_is_parted_into_finite_metrics_and_the_rest(content: dict[str, Any]) -> None:
    metrics, extra, complaint = read_metrics(line_of(content), "error", {"duration_s": 1.0})
    assert set(metrics) | set(extra) == set(content) | {"duration_s"}
    assert all(value is None or math.isfinite(value) for value in metrics.values())
    assert all(type(value) in (bool, str, list, dict) for value in extra.values())
    assert (complaint is None) == (metrics.get("error") is not None)


def test_the_wanted_metric_is_kept_whatever_its_name_and_place() -> None:
    wanted = "e" * 1000
    content = {**{f"m{n}": n for n in range(2 * MOST_METRICS)}, wanted: 0.25}
    metrics, extra, complaint = read_metrics(line_of(content), wanted, {})
    assert complaint is None
    assert metrics[wanted] == 0.25
    assert len(metrics) == MOST_METRICS
    assert set(metrics) - {wanted} == {f"m{n}" for n in range(MOST_METRICS - 1)}  # the first ones
    assert f"{MOST_METRICS + 1} of {2 * MOST_METRICS + 1} metrics" in extra["left_out"][0]


def test_what_a_script_reports_under_a_name_of_this_program_s_own_is_kept_under_another() -> None:
    reported = {"error": 1, "measurement": {"reason": "mine"}, "left_out": ["mine"], "left_out_": "too"}
    _, extra, _ = read_metrics(line_of(reported), "error", {})
    assert extra == {"measurement_": {"reason": "mine"}, "left_out_": "too", "left_out__": ["mine"]}


@pytest.mark.parametrize(("size", "kept"), [(LONGEST_EXTRA - 100, True), (LONGEST_EXTRA, False)])
def test_values_that_are_no_numbers_are_kept_up_to_a_size(size: int, kept: bool) -> None:
    metrics, extra, complaint = read_metrics(line_of({"error": 1, "note": "x" * size}), "error", {})
    assert (metrics, complaint) == ({"error": 1}, None)
    assert ("note" in extra) is kept
    assert ("left_out" in extra) is not kept


@pytest.mark.parametrize(("depth", "kept"), [(80, True), (150, False), (900, False)])
def test_values_are_kept_no_deeper_than_anybody_reads_them(tmp_path: Path, depth: int, kept: bool) -> None:
    nested: Any = 1
    for _ in range(depth):
        nested = [nested]
    metrics, extra, complaint = read_metrics(line_of({"error": 1, "note": nested}), "error", {})
    assert (metrics, complaint) == ({"error": 1}, None)
    assert ("note" in extra) is kept
    result = Result(Status.COMPLETED, metrics, extra=extra)
    write_json(tmp_path / "result.json", result.to_json())
    assert Result.from_json(read_json(tmp_path / "result.json") or {}) == result


def test_a_line_of_the_longest_length_is_read_and_a_longer_one_is_told() -> None:
    line = b'{"error": 0.5' + b" " * (LONGEST_LINE - 14) + b"}"
    assert len(line) == LONGEST_LINE
    assert read_metrics(line, "error", {})[2] is None
    longer = b"1" + line  # of which the last LONGEST_LINE bytes are kept
    complaint = read_metrics(b" " + longer[2:], "error", {})[2] or ""
    assert "longer than" in complaint


@given(st.binary(max_size=60), st.integers(-70, 255).filter(bool))
def test_an_exit_is_explained_in_one_sentence(stderr: bytes, code: int) -> None:
    sentence = explain_exit(code, stderr)
    assert sentence.startswith(("it ended with exit code", "it was killed by"))
    assert sentence.endswith("; see its output.log")


def test_the_last_line_of_stderr_that_says_something_is_quoted() -> None:
    assert (
        explain_exit(1, b"first\nKeyError: 'x'\n \n\n")
        == "it ended with exit code 1: KeyError: 'x'; see its output.log"
    )
    assert explain_exit(-9, b"") == "it was killed by SIGKILL; see its output.log"
    assert explain_exit(-70, b"") == "it was killed by signal 70; see its output.log"
    assert len(explain_exit(1, string.ascii_letters.encode() * 1000)) < 300

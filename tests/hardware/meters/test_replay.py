"""Recorded traces that are handed out again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyperpower_runner.errors import MeterError
from hyperpower_runner.hardware.bench import Bench
from hyperpower_runner.hardware.measurement import Protocol, assess
from hyperpower_runner.hardware.meters.replay import ReplayBench
from hyperpower_runner.hardware.traces import Sample, Trace
from hyperpower_runner.job_files import append_json_line
from hyperpower_runner.trial import Job

JOB = Job(job_id=1, params={}, seed=1, task="profile")
PROTOCOL = Protocol()


def steady(power_w: float, **fields: object) -> Trace:
    samples = tuple(Sample(number / 20, power_w=power_w, throttled=()) for number in range(221))
    return Trace(samples, 0.0, 11.0, step_s=0.01, **fields)  # type: ignore[arg-type]


def record(path: Path, *traces: Trace) -> Path:
    for trace in traces:
        append_json_line(path, trace.to_json())
    return path


def run(bench: Bench, folder: Path) -> Trace:
    return bench.run(JOB, folder, PROTOCOL.sample_hz)


def test_runs_come_back_in_order_and_say_what_they_said(tmp_path: Path) -> None:
    traces = [steady(50.0), steady(20.0, provenance={"idle": True}), steady(80.0, provenance={"dtype": "float32"})]
    bench: Bench = ReplayBench(record(tmp_path / "gpu.jsonl", *traces))
    bench.preflight()
    assert [run(bench, tmp_path), run(bench, tmp_path)] == [traces[0], traces[2]]
    assert bench.idle(10.0) == traces[1]
    assert bench.platform == {"meter": "replay", "name": "gpu.jsonl"}
    assert bench.metrics == {"power_w"}
    bench.close()


def test_a_replayed_trace_is_assessed_like_a_measured_one(tmp_path: Path) -> None:
    bench = ReplayBench(record(tmp_path / "gpu.jsonl", steady(50.0)))
    assert assess(run(bench, tmp_path), PROTOCOL).metrics["power_w"] == pytest.approx(50.0)


def test_when_all_have_been_replayed_it_says_so_but_rest_has_no_samples(tmp_path: Path) -> None:
    bench = ReplayBench(record(tmp_path / "gpu.jsonl", steady(50.0)))
    run(bench, tmp_path)
    with pytest.raises(MeterError, match="all 1 recorded runs have been replayed"):
        run(bench, tmp_path)
    assert bench.idle(10.0).samples == ()


def test_what_was_recorded_is_what_is_measured(tmp_path: Path) -> None:
    sample = Sample(0.0, energy_j=5.0, memory_bytes=1e6)
    assert ReplayBench(record(tmp_path / "a", Trace((sample,), 0.0, 1.0))).metrics == {"power_w", "memory_bytes"}
    assert ReplayBench(record(tmp_path / "b", Trace((Sample(0.0),), 0.0, 1.0))).metrics == set()


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "7",
        "{}",
        '{"samples": [], "begin_s": 0}',
        '{"samples": [{"time_s": 0, "volts": 5}], "begin_s": 0, "end_s": 1}',
        '{"samples": [{"time_s": 0, "power_w": "high"}], "begin_s": 0, "end_s": 1}',
        '{"samples": [{"time_s": 0, "power_w": NaN}], "begin_s": 0, "end_s": 1}',
        '{"samples": [{"time_s": 0, "throttled": 5}], "begin_s": 0, "end_s": 1}',
        '{"samples": [], "begin_s": 0, "end_s": 1, "reported": {"a": "b"}}',
        '{"samples": [], "begin_s": 0, "end_s": 1, "reported": []}',
    ],
)
def test_a_line_that_is_no_trace_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "gpu.jsonl"
    path.write_text(json.dumps(steady(50.0).to_json()) + "\n\n" + line + "\n")
    with pytest.raises(MeterError, match=r"gpu\.jsonl:3: is not a recorded trace"):
        ReplayBench(path)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("missing", "binary"):
        with pytest.raises(MeterError, match=f"{name}: cannot be read"):
            ReplayBench(tmp_path / name)

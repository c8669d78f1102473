"""Readers and writers of job files, by properties: whatever they are given, they raise what they say, and lose nothing.

See test_arbitrary_files for the commands that use them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from spoilt import JSON, make_loop, make_pipe, spoilt, times
from working import make_job, run_worker

from hyperpower_runner import job_files, processes
from hyperpower_runner.errors import ExperimentError
from hyperpower_runner.job_files import (
    AppendedLines,
    JobFiles,
    append_json_line,
    as_number,
    last_json_line,
    read_json,
    read_json_lines,
    strict,
    write_json,
)
from hyperpower_runner.launchers.slurm import SlurmLauncher
from hyperpower_runner.objective import Job as JobOfScript
from hyperpower_runner.stopping import CONTINUE, CurvePoint, StoppingRule, WatchedCurve, decide
from hyperpower_runner.summary import elapsed_s, unmeasured, violations
from hyperpower_runner.supervision import learning_curve
from hyperpower_runner.supervision.learning_curve import LearningCurve
from hyperpower_runner.trial import Job, Result, Status, Trial
from hyperpower_runner.untrusted import DEEPEST, depth_of, parse_json
from hyperpower_runner.view import show_hardware, show_outcome, show_params, show_trial
from hyperpower_runner.worker import read_job

RULE = StoppingRule(classes=10)
JOB = Job(
    1,
    {"x": 0.25, "n": 3, "act": "relu", "widths": [8, 9]},
    seed=17,
    command=["./train.sh"],
    env={"SPEED": "1"},
    epochs=3,
    timeout_s=20.0,
    stopping_rule=RULE.to_json(),
    predictions={"power_w": 60.0, "memory_bytes": math.inf},
    extrapolated=["power_w"],
    surrogate={"converged": False},
    platform={"meter": "nvml"},
    created_s=1000.0,
)
RESULT = Result(
    Status.TERMINATED,
    {"error": 0.1, "power_w": math.nan, "memory_bytes": None},
    reason="the loss became nan",
    epoch=2.0,
    extra={"measurement": {"reason": "no"}},
    started_s=1000.0,
    ended_s=1005.0,
    host="here",
    exit_code=-9,
)
BOUNDS = {"error": 0.5, "power_w": 85.0}


def as_file(content: dict[str, Any]) -> bytes:
    return json.dumps({"schema": 1, "id": 1, **strict(content)}).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("content")


# --- one object


@times(200)
@given(content=spoilt(as_file(RESULT.to_json())))
@example(content=as_file({**RESULT.to_json(), "epoch": "two"}))
@example(content=as_file({**RESULT.to_json(), "metrics": {"error": 10**400}}))
def test_what_is_taken_for_a_result_can_be_judged_shown_and_written(folder: Path, content: bytes) -> None:
    path = folder / "result.json"
    path.write_bytes(content)
    try:
        result = Result.from_json(read_json(path) or {})
    except (ExperimentError, KeyError, TypeError, ValueError):
        return
    trial = Trial(JOB, result)
    assert trial.objective is None or math.isfinite(trial.objective)
    assert trial.is_feasible(BOUNDS) in (True, False)
    assert len(show_outcome(trial) + show_hardware(trial, BOUNDS) + show_trial(trial)) > 0
    assert violations([trial], BOUNDS)["measured"] in (0, 1)
    assert unmeasured([trial], BOUNDS) in (0, 1)
    assert 0 <= elapsed_s([(result.started_s, result.ended_s)]) < math.inf
    assert_written_and_read_again(path, result)


@times(200)
@given(content=spoilt(as_file(JOB.to_json())))
def test_what_is_taken_for_a_job_can_be_judged_shown_and_written(folder: Path, content: bytes) -> None:
    path = folder / "job.json"
    path.write_bytes(content)
    try:
        job = Job.from_json(read_json(path) or {})
    except (ExperimentError, KeyError, TypeError, ValueError):
        return
    trial = Trial(job)
    assert trial.is_feasible(BOUNDS) in (True, False)
    assert trial.key == Trial(job).key
    assert "\n" not in show_params(job.params)
    assert violations([trial], BOUNDS)["predicted"] in (0, 1)
    assert_written_and_read_again(path, job)


def assert_written_and_read_again(path: Path, value: Job | Result) -> None:
    write_json(path, value.to_json())
    again = type(value).from_json(read_json(path) or {})
    assert strict(again.to_json()) == strict(value.to_json())


@times(200)
@given(content=spoilt(as_file(JOB.to_json())))
@example(content=as_file({**JOB.to_json(), "id": "x" * 3000}))
def test_a_worker_and_a_script_take_a_job_or_say_that_it_is_none(folder: Path, content: bytes) -> None:
    path = folder / "job.json"
    path.write_bytes(content)
    said = ""
    try:
        job = read_job(path)
    except ExperimentError as error:
        said = str(error)
    if said:
        assert said.startswith(f"{path}: ")
        assert len(said) < 1000
        return
    assert all(isinstance(word, str) for word in job.command)
    curve = LearningCurve(path.with_name("progress.jsonl"), job.job_id, job.metric, None)
    assert curve.decision == CONTINUE
    JobOfScript(job, None, None).decision()  # type: ignore[arg-type]


@times(200)
@given(rule=spoilt(json.dumps(RULE.to_json()).encode()), points=st.lists(st.tuples(*[st.floats()] * 3), max_size=8))
def test_whatever_is_taken_for_a_rule_decides_on_any_curve(
    rule: bytes, points: list[tuple[float, float, float]]
) -> None:
    curve = [CurvePoint(*point) for point in points]
    with contextlib.suppress(ValueError, TypeError):
        read = StoppingRule.from_json(dict(parse_json(rule)))
        decision = decide(curve, read)
        assert decision.stop == (decision.reason is not None)
        watched = WatchedCurve(read)
        assert [watched.add(point) for point in curve][-1:] == ([decision] if curve else [])


OBJECTS = st.dictionaries(st.text(max_size=4).filter(lambda key: key != "schema"), JSON, max_size=4)


@times(100)
@given(content=OBJECTS)
def test_an_object_is_read_as_it_was_written(folder: Path, content: dict[str, Any]) -> None:
    path = folder / "object.json"
    assert write_json(path, content)
    assert read_json(path) == {"schema": 1, **strict(content)}
    assert [entry.name for entry in folder.iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize("depth", [DEEPEST, DEEPEST + 1, 100_000])
def test_what_is_nested_too_deeply_is_no_object(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "deep.json"
    path.write_text('{"a":' * (depth - 1) + "[]" + "}" * (depth - 1))
    append_json_line(lines := tmp_path / "deep.jsonl", {"epoch": 1})
    lines.write_bytes(path.read_bytes() + b"\n" + lines.read_bytes())
    if depth > DEEPEST:
        with pytest.raises(ExperimentError, match="nested too deeply"):
            read_json(path)
        assert list(read_json_lines(lines)) == [{"epoch": 1}]
    else:
        assert depth_of(read_json(path)) == DEEPEST
        assert len(list(read_json_lines(lines))) == 2


# --- lines

PIECES = [
    b'{"a": 1}',
    b'{"a":',
    b" 2}",
    b"\n",
    b"\n",
    b"\n",
    b"\r\n",
    b"[1]",
    b"x" * 30,
    b'{"b": "' + b"y" * 40,
    b'"}',
    b"\xff",
]
APPENDED = st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=12).map(b"".join)
LONGEST, LOOK = 24, 50  # of a line, and of a look, instead of a megabyte


@times(200)
@given(before=APPENDED, contents=st.lists(OBJECTS, min_size=1, max_size=3))
def test_lines_are_added_to_a_file_that_was_torn_without_loss(
    folder: Path, before: bytes, contents: list[dict[str, Any]]
) -> None:
    path = folder / "torn.jsonl"
    path.write_bytes(before + b"\n")
    expected = [*read_json_lines(path), *map(strict, contents)]
    path.write_bytes(before)
    for content in contents:
        append_json_line(path, content)
    assert path.read_bytes().startswith(before)
    assert list(read_json_lines(path)) == expected
    assert last_json_line(path, limit_bytes=1 << 20) == expected[-1]


@times(300)
@given(chunks=st.lists(APPENDED, max_size=6))
@example(chunks=[b"x" * LOOK + b'{"a": 1}\n'])  # the end of a line that is too long is no line
def test_a_file_that_grows_gives_the_objects_of_the_whole_one(folder: Path, chunks: list[bytes]) -> None:
    path = folder / "grown.jsonl"
    path.unlink(missing_ok=True)
    lines, found = AppendedLines(path), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_files, "LONGEST_LINE", LONGEST)
        for chunk in [*chunks, b"\n"]:
            with path.open("ab") as file:
                file.write(chunk)
            found += lines.new(LOOK)
        for _ in range(path.stat().st_size // (LOOK - LONGEST) + 1):
            found += lines.new(LOOK)
        assert found == list(read_json_lines(path))
        assert lines.new(LOOK) == []


@times(300)
@given(chunks=st.lists(APPENDED | st.sampled_from([b'{"epoch": 1, "loss": NaN}\n', b'{"epoch": 2}\n']), max_size=6))
@example(chunks=[b"x\n" * 90 + b'{"epoch": 3}\n'])  # what is no point must not hide those after it
def test_a_curve_that_grows_is_that_of_all_its_points(folder: Path, chunks: list[bytes]) -> None:
    path = folder / "progress.jsonl"
    path.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_files, "LONGEST_LINE", LONGEST)
        patch.setattr(learning_curve, "LOOK_BYTES", LOOK)
        curve = LearningCurve(path, 1, "error", RULE)
        for chunk in [*chunks, b"\n"]:
            with path.open("ab") as file:
                file.write(chunk)
            curve.look()
        curve.read_out()
        reported = [(as_number(line.get("epoch")), as_number(line.get("loss"))) for line in read_json_lines(path)]
    points = [CurvePoint(epoch, None, loss) for epoch, loss in reported if epoch is not None]
    assert curve.decision == decide(points, RULE)
    assert curve.epoch == (points[-1].epoch if points else None)


# --- what others may have left in the folder of a job


def make_bytes(path: Path) -> None:
    path.write_bytes(b'\xff\x00[{"status": "completed", "metrics": 3}' * 100)


@pytest.mark.parametrize("kind", [Path.mkdir, make_pipe, make_loop, make_bytes], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", ["trained.json", "stop", "progress.jsonl", "heartbeat", "launch.json"])
def test_a_worker_ends_its_job_whatever_lies_in_its_folder(tmp_path: Path, name: str, kind: Any) -> None:
    files = make_job(tmp_path, "print('{\"error\": 0.5}')", command=["python", "-S", "train.py"])
    kind(files.folder / name)
    result = run_worker(files)
    was_asked = name == "stop" and kind is not make_loop
    assert result.status is (Status.CANCELLED if was_asked else Status.COMPLETED), result


@times(10)
@given(content=spoilt(as_file(RESULT.to_json())))
def test_a_worker_takes_an_earlier_training_as_it_is_or_trains_again(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    files = make_job(
        tmp_path_factory.mktemp("worker"), "print('{\"error\": 0.5}')", command=["python", "-S", "train.py"]
    )
    files.trained.write_bytes(content)
    result = run_worker(files)
    assert result.metrics.get("error") in (0.1, 0.5) or result.status is Status.TERMINATED


CLAIM: dict[str, Any] = processes.own_identity()


@times(300)
@given(
    pid=st.sampled_from([0, -1, True, False, None, "1", 1.0, 2**22 + 1, 2**70, [1]]) | JSON,
    begun=st.sampled_from([0, -1, True, None, 10**400]) | JSON,
    others=st.sampled_from([{}, {"host": 1}, {"machine": []}, {"pid_namespace": None}]),
)
def test_a_claim_that_names_no_worker_has_nothing_killed(pid: Any, begun: Any, others: dict[str, Any]) -> None:
    killed: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
        patch.setattr(processes, "REMAINS_S", 0.0)
        claim = {**CLAIM, "pid": pid, "start_ticks": begun, **others}
        assert processes.is_alive(claim) in (False, None)
        assert processes.kill_remains(claim)
    assert killed == []


LAUNCH = {"schema": 1, "attempt": 1, "token": "hp-1-0123456789abcdef"}


@times(200)
@given(content=spoilt(json.dumps(LAUNCH).encode()))
@example(content=b'{"attempt": 1, "token": ""}')  # with which scancel would end all jobs of the user
@example(content=b'{"attempt": 1, "token": "hp-2-0123456789abcdef"}')
def test_of_a_queue_a_launcher_believes_only_names_that_it_gives(folder: Path, content: bytes) -> None:
    files = JobFiles(folder / "000001")
    files.folder.mkdir(exist_ok=True)
    files.launch.write_bytes(content)
    found = SlurmLauncher()._submission(files)
    assert found is None or (re.fullmatch("hp-1-[0-9a-f]+", found.token) and type(found.attempt) is int)

"""The cache of finished jobs: what it gives is what the files say, whatever became of either."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from searching import all_params, drive, make_experiment, read_and_keep, results, run_command

from hyperpower_runner import finished as finished_module
from hyperpower_runner.errors import ExperimentError
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.history import History
from hyperpower_runner.trial import Job, Result, Status, Trial, params_key

PARAMS: dict[str, Any] = {"x": 0.125, "n": 3, "kind": "tänh", "widths": [8, 9], "flag": True, "rate": 1e-300}
JOBS = [
    Job(1, PARAMS, 17, command=["python", "train.py"], env={"A": "1"}, epochs=3, threads=2, created_s=1.5),
    Job(2, {**PARAMS, "x": 5}, 18, command=["python", "train.py"], env={"A": "1"}, epochs=3, threads=2, deadline=9.0),
    Job(3, {"n": 4}, 0, predictions={"power_w": 61.5, "memory_bytes": math.inf}, extrapolated=["power_w"]),
    Job(4, {"n": 4}, 2**32, surrogate={"converged": False, "processes": {"error": {"acceptance": 0.25}}}, measure=True),
    Job(5, {}, 1, metric="loss", stopping_rule={"classes": 10}, platform={"meter": "nvml", "device": 0}, timeout_s=0.5),
]
RESULTS = [
    Result(Status.COMPLETED, {"error": 0.1, "power_w": None}, started_s=1.25, ended_s=2.5, host="here", exit_code=0),
    Result(Status.COMPLETED, {"error": math.nan, "a": math.inf, "b": -math.inf}, extra={"note": ["ü", None, {}]}),
    Result(Status.TERMINATED, {"error": 0.9}, reason="the loss became nan", epoch=3.0),
    Result(Status.TERMINATED, reason='"sum":1}\n', extra={"common": 1, "sum": 0}, exit_code=-9),
]


def finished(root: Path) -> Experiment:
    """An experiment with four finished jobs and one that waits, and their cache."""
    experiment = make_experiment(root)
    for job in JOBS:
        experiment.write_job(job)
    for job, result in zip(JOBS, RESULTS, strict=False):
        experiment.write_result(job.job_id, result)
    experiment.state.mkdir()
    read_and_keep(experiment)
    return experiment


def cache(experiment: Experiment) -> Path:
    return experiment.finished.file


def as_json(history: History) -> str:
    """All that is known, in a form in which one nan is as good as another."""
    return json.dumps([[trial.job.to_json(), trial.result and trial.result.to_json()] for trial in history])


def from_files(experiment: Experiment) -> str:
    trials = (experiment.read_trial(job_id) for job_id in range(1, 100))
    return as_json(History(trial for trial in trials if trial is not None))


def believed(experiment: Experiment) -> list[int]:
    return sorted(experiment.finished.read())


def test_the_cache_gives_the_jobs_and_results_of_the_files(tmp_path: Path) -> None:
    experiment = finished(tmp_path)
    kept = experiment.finished.read()
    assert sorted(kept) == [1, 2, 3, 4]
    assert [trial.job for trial in kept.values()] == JOBS[:4]
    assert [trial.key for trial in kept.values()] == [params_key(job.params) for job in JOBS[:4]]
    assert as_json(History(kept.values())) == as_json(History(map(Trial, JOBS[:4], RESULTS)))
    assert as_json(experiment.read_history()) == from_files(experiment)


def test_what_the_cache_gives_is_not_read_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, asked = finished(tmp_path), []
    read_result = Experiment._read_result

    def counted(self: Experiment, job_id: int) -> Any:
        asked.append(job_id)
        return read_result(self, job_id)

    monkeypatch.setattr(Experiment, "_read_result", counted)
    experiment.read_history()
    assert asked == [5]


def test_what_many_jobs_have_in_common_is_once_in_the_file_and_in_memory(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, budget={"evaluations": 6})
    drive(experiment)
    lines = [json.loads(line) for line in cache(experiment).read_text().splitlines()]
    assert sum("common" in line for line in lines) == 1
    for history in (experiment.read_history(), without_cache(experiment).read_history()):
        jobs = [trial.job for trial in history]
        for name in ("command", "env", "stopping_rule", "platform", "extrapolated", "surrogate"):
            assert len({id(getattr(job, name)) for job in jobs}) == 1, name
        assert len({id(name) for job in jobs for name in job.params}) == 2


def without_cache(experiment: Experiment) -> Experiment:
    shutil.rmtree(experiment.state, ignore_errors=True)
    return experiment


# --- files that are not what they were


def change_result(experiment: Experiment) -> None:
    path = experiment.job_files(2).result
    path.write_text(path.read_text().replace('"NaN"', "0.5"))


def change_to_the_same_size(experiment: Experiment) -> None:
    path = experiment.job_files(1).result
    os.utime(path, ns=(1, 1))
    read_and_keep(experiment)
    path.write_text(path.read_text().replace("0.1", "0.2"))


def change_but_for_the_time(experiment: Experiment) -> None:
    path = experiment.job_files(1).result
    before = path.stat()
    path.write_text(path.read_text().replace("0.1", "0.25"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_job(experiment: Experiment) -> None:
    path = experiment.job_files(1).job
    path.write_text(path.read_text().replace("0.125", "0.25"))


def delete_result(experiment: Experiment) -> None:
    experiment.job_files(3).result.unlink()


def delete_folder(experiment: Experiment) -> None:
    shutil.rmtree(experiment.job_files(4).folder)


def exchange_results(experiment: Experiment) -> None:
    """Files that are as old as the ones that they replace would be."""
    one, other = (experiment.job_files(job_id).result for job_id in (1, 3))
    texts = one.read_text().replace('"id": 1', '"id": 3'), other.read_text().replace('"id": 3', '"id": 1')
    for path, text in zip((one, other), texts[::-1], strict=True):
        path.unlink()
        path.write_text(text)


def touch_all(experiment: Experiment) -> None:
    """As after a copy of the directory."""
    for path in experiment.jobs.rglob("*"):
        os.utime(path)


CHANGES = [
    *(change_result, change_to_the_same_size, change_but_for_the_time, change_job),
    *(delete_result, delete_folder, exchange_results, touch_all),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changed_is_read_and_the_cache_mended(tmp_path: Path, change: Callable[[Experiment], None]) -> None:
    experiment = finished(tmp_path)
    before = as_json(experiment.read_history())
    change(experiment)
    expected = from_files(experiment)
    assert (expected == before) is (change is touch_all)
    assert as_json(experiment.read_history()) == expected
    assert as_json(read_and_keep(experiment)) == expected
    assert as_json(experiment.read_history()) == expected
    assert believed(experiment) == [trial.job_id for trial in experiment.read_history() if trial.ended]


def test_a_job_whose_result_was_deleted_runs_again(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    drive(experiment)
    experiment.job_files(2).result.unlink()
    for path in experiment.job_files(2).folder.glob("attempt-*"):
        path.unlink()
    drive(experiment)
    assert sorted(results(experiment)) == [1, 2, 3, 4]
    assert believed(experiment) == [1, 2, 3, 4]


# --- a cache that is not what was written


def lines_of(experiment: Experiment) -> list[bytes]:
    return cache(experiment).read_bytes().splitlines(keepends=True)


def with_sum(content: dict[str, Any]) -> bytes:
    """A line as another version of this package could have written it."""
    body = json.dumps(content, separators=(",", ":"))[:-1].encode()
    return body + b',"sum":%d}\n' % crc32(body)


def test_lines_of_another_version_are_passed_over(tmp_path: Path) -> None:
    experiment = finished(tmp_path)
    lines, expected = lines_of(experiment), from_files(experiment)
    for key, value in (("schema", 2), ("schema", None), ("job", {"frobnicate": 1}), ("names", 3), ("job", [])):
        changed = []
        for line in lines:
            content = json.loads(line)
            del content["sum"]
            changed.append(with_sum({**content, key: value} if "common" in content else content))
        cache(experiment).write_bytes(b"".join(changed))
        assert believed(experiment) == []
        assert as_json(experiment.read_history()) == expected


def test_a_cache_of_another_directory_is_not_believed(tmp_path: Path) -> None:
    experiment, other = finished(tmp_path / "one"), finished(tmp_path / "other")
    shutil.copy(cache(other), cache(experiment))
    assert believed(experiment) == []


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_stands_in_the_cache_the_files_are_right(tmp_path: Path, data: st.DataObject) -> None:
    if not (tmp_path / "config.json").exists():
        finished(tmp_path)
        shutil.copy(tmp_path / "state" / "finished.jsonl", tmp_path / "good")
    experiment = Experiment(tmp_path)
    good = (tmp_path / "good").read_bytes().splitlines(keepends=True)
    mended: list[bytes] = []
    for line in data.draw(st.lists(st.sampled_from(good), max_size=8)):
        kind = data.draw(st.sampled_from(["whole", "whole", "torn", "one byte", "glued"]))
        place = data.draw(st.integers(0, len(line) - 1))
        torn = {"torn": line[:place] + b"\n", "glued": line[:place]}
        other = line[:place] + bytes([data.draw(st.integers(0, 255))]) + line[place + 1 :]
        mended.append({"whole": line, "one byte": other, **torn}[kind])
    for content in data.draw(st.lists(st.one_of(st.binary(max_size=30), JSON.map(json_line)), max_size=4)):
        mended.insert(data.draw(st.integers(0, len(mended))), content)
    cache(experiment).write_bytes(b"".join(mended))
    expected = from_files(experiment)
    assert as_json(experiment.read_history()) == expected
    assert as_json(read_and_keep(experiment)) == expected
    assert as_json(experiment.read_history()) == expected
    assert believed(experiment) == [1, 2, 3, 4]  # mended


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["id", "of", "stamp", "job", "common"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["id", "of", "stamp", "job", "result", "common", "schema", "names"]), inner, max_size=6
    ),
    max_leaves=8,
)  # fmt: skip


def json_line(content: Any) -> bytes:
    """Arbitrary JSON, under a checksum that is right where it can be."""
    return with_sum(content) if isinstance(content, dict) and content else json.dumps(content).encode() + b"\n"


# --- writing


def test_jobs_are_written_down_as_they_end(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, **{"max-concurrent": 2})
    driver, _ = drive(experiment)
    kept = experiment.finished.read()
    assert sorted(kept) == [1, 2, 3, 4]
    assert History(kept.values()) == driver.history
    assert History(kept.values()) == History(without_cache(experiment).read_history())


def test_a_driver_that_finds_nothing_to_run_writes_down_what_it_read(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    drive(experiment)
    without_cache(experiment)
    drive(experiment)
    assert believed(experiment) == [1, 2, 3, 4]


def test_a_job_that_ends_before_what_was_read_is_written_down_is_not_lost(tmp_path: Path) -> None:
    experiment = finished(tmp_path)
    touch_all(experiment)
    experiment.read_history()
    experiment.write_result(5, Result(Status.FAILED))
    trial = experiment.read_trial(5)
    assert trial is not None
    experiment.finished.append(trial)
    experiment.finished.keep()
    assert believed(experiment) == [1, 2, 3, 4, 5]


def test_a_line_after_a_torn_one_is_whole(tmp_path: Path) -> None:
    experiment = finished(tmp_path)
    whole = cache(experiment).read_bytes()
    cache(experiment).write_bytes(whole[:-30])  # a driver that was killed in the middle of the line of job 4
    experiment.write_result(5, Result(Status.FAILED))
    assert believed(experiment) == [1, 2, 3]
    trial = experiment.read_trial(5)
    assert trial is not None
    experiment.finished.append(trial)
    assert believed(experiment) == [1, 2, 3, 5]


def test_a_cache_deleted_under_a_driver_is_begun_anew(tmp_path: Path) -> None:
    experiment = finished(tmp_path)
    cache(experiment).unlink()
    trial = experiment.read_trial(1)
    assert trial is not None
    experiment.finished.append(trial)
    assert believed(experiment) == [1]


def test_lines_out_of_date_go_when_they_are_many_and_stay_while_they_are_few(tmp_path: Path) -> None:
    experiment = finished(tmp_path)
    drive_on = [Job(number, {"n": number}, 0) for number in range(6, 20)]
    for job in drive_on:
        experiment.write_job(job)
        experiment.write_result(job.job_id, RESULTS[0])
    read_and_keep(experiment)
    inode, count = cache(experiment).stat().st_ino, len(lines_of(experiment))
    os.utime(experiment.job_files(1).result)
    read_and_keep(experiment)
    assert (cache(experiment).stat().st_ino, len(lines_of(experiment))) == (inode, count + 1)
    cache(experiment).write_bytes(2 * cache(experiment).read_bytes())
    read_and_keep(experiment)
    assert len(lines_of(experiment)) == count
    assert cache(experiment).stat().st_ino != inode
    touch_all(experiment)
    read_and_keep(experiment)
    assert len(lines_of(experiment)) == count
    assert [path.name for path in experiment.state.iterdir()] == ["finished.jsonl"]
    assert len(believed(experiment)) == 18


def test_a_cache_that_was_spoilt_altogether_is_read_in_pieces_and_written_anew(tmp_path: Path) -> None:
    experiment = finished(tmp_path)
    whole = lines_of(experiment)
    cache(experiment).write_bytes(whole[0] + b"\0" * 5_000_000 + b"".join(whole[1:]))
    assert believed(experiment) == [2, 3, 4]
    assert as_json(read_and_keep(experiment)) == from_files(experiment)
    assert cache(experiment).stat().st_size < 10_000
    assert believed(experiment) == [1, 2, 3, 4]


def test_a_result_too_long_for_a_line_is_read_from_its_file(tmp_path: Path) -> None:
    experiment = finished(tmp_path)
    experiment.write_result(5, Result(Status.COMPLETED, {"error": 0.1}, extra={"text": "a" * (1 << 20)}))
    for _ in range(3):
        assert as_json(read_and_keep(experiment)) == from_files(experiment)
    assert believed(experiment) == [1, 2, 3, 4]
    assert cache(experiment).stat().st_size < 10_000


def no_room(content: dict[str, Any]) -> bytes:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("obstacle", ["a folder", "a pipe", "a full disk", "no state"])
def test_a_search_goes_on_where_the_cache_cannot_be_written(
    tmp_path: Path, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment(tmp_path)
    experiment.state.mkdir()
    if obstacle == "a folder":
        cache(experiment).mkdir()
    elif obstacle == "a pipe":
        os.mkfifo(cache(experiment))
    elif obstacle == "a full disk":
        monkeypatch.setattr(finished_module, "_line", no_room)
    else:
        experiment.finished.file = tmp_path / "none" / "finished.jsonl"
    _, ending = drive(experiment)
    assert ending.why.value == "budget"
    assert sorted(results(experiment)) == [1, 2, 3, 4]


def test_looking_writes_nothing(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    drive(experiment)
    cache(experiment).unlink()
    for command in ("status", "best", "validate"):
        assert run_command(command, tmp_path).returncode == 0
    assert not cache(experiment).exists()


def test_deleting_the_cache_changes_nothing_that_is_seen(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, method="rand-walk", constraints={"error": 0.9})
    drive(experiment)
    seen = [run_command(command, tmp_path, "--json").stdout for command in ("status", "best")]
    assert [json.loads(text) for text in seen]
    without_cache(experiment)
    assert [run_command(command, tmp_path, "--json").stdout for command in ("status", "best")] == seen
    drive(make_experiment(tmp_path, method="rand-walk", constraints={"error": 0.9}, budget={"evaluations": 6}))
    twin = make_experiment(tmp_path / "twin", method="rand-walk", constraints={"error": 0.9}, budget={"evaluations": 6})
    drive(twin)
    assert all_params(experiment) == all_params(twin)


# --- folders without a job.json


@pytest.mark.parametrize("cached", [True, False])
def test_a_result_without_its_job_is_an_error_in_one_sentence(tmp_path: Path, cached: bool) -> None:
    experiment = finished(tmp_path)
    if not cached:
        without_cache(experiment)
    experiment.job_files(3).job.unlink()
    with pytest.raises(ExperimentError, match=r"jobs/000003: holds a result but no job\.json; restore it or delete"):
        experiment.read_history()
    answer = run_command("run", tmp_path)
    assert answer.returncode == 1
    assert "jobs/000003: holds a result but no job.json" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_claim_without_its_job_is_an_error_and_an_empty_folder_is_used_again(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    (experiment.jobs / "000001").mkdir(parents=True)
    assert len(experiment.read_history()) == 0
    experiment.job_files(1).attempt(1).touch()
    with pytest.raises(ExperimentError, match=r"000001: holds the claim of a worker but no job\.json"):
        experiment.read_history()
    experiment.job_files(1).attempt(1).unlink()
    drive(experiment)
    assert sorted(results(experiment)) == [1, 2, 3, 4]

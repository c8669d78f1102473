"""The experiment directory: files that are torn, foreign or absent."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from searching import make_experiment

from hyperpower_runner import processes
from hyperpower_runner.errors import ConfigError, ExperimentError
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.job_files import write_json
from hyperpower_runner.trial import Job, Rejection, Result, Status


def test_jobs_and_results_are_read_back_as_written(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    jobs = [Job(job_id=number, params={"x": 0.1 * number, "n": number}, seed=number) for number in (3, 1, 2)]
    for job in jobs:
        experiment.write_job(job)
    result = Result(
        Status.COMPLETED, {"error": 0.5, "power_w": None}, started_s=1.0, ended_s=2.0, host="here", exit_code=0
    )
    assert experiment.write_result(2, result) == result
    assert experiment.write_result(2, Result(Status.LOST)) == result  # the first one stands
    history = experiment.read_history()
    assert [trial.job for trial in history] == sorted(jobs, key=lambda job: job.job_id)
    assert [trial.result for trial in history] == [None, result, None]


def test_folders_that_are_not_jobs_are_passed_over(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    experiment.write_job(Job(job_id=1, params={}, seed=0))
    (experiment.jobs / "notes").mkdir()
    (experiment.jobs / "000007").mkdir()
    (experiment.jobs / ".DS_Store").touch()
    assert [trial.job.job_id for trial in experiment.read_history()] == [1]


def test_rejections_written_again_by_a_resumed_driver_count_once_and_torn_lines_not_at_all(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    experiment.append_rejection(
        1, Rejection(5, ({"params": {"n": 3}, "predictions": {"power_w": 9.0}},)), {"meter": "host"}
    )
    with experiment.rejected_file.open("a") as file:
        file.write('{"id": 2, "discarded": 1')  # a driver killed in the middle of a line
    experiment.append_rejection(2, Rejection(7), {})
    experiment.append_rejection(2, Rejection(7), {})
    assert experiment.read_rejections() == {1: 5, 2: 7}


def test_rejections_are_counted_whatever_their_lines_hold(tmp_path: Path) -> None:
    """Also by the way that does not read the candidates, which counts whole lines only."""
    experiment = make_experiment(tmp_path)
    candidate: dict[str, Any] = {
        "params": {"kind": '}}]}, "discarded": 9', "widths": [8, 9]},
        "predictions": {"p": 1.0},
    }
    odd = {"meter": "replay", "trace": 'a{"b"}', "note": '"id": 7'}
    written = [Rejection(0), Rejection(3, (candidate,)), Rejection(250, (candidate,) * 100), Rejection(4, (candidate,))]
    platforms: list[dict[str, Any]] = [{}, {"meter": "host", "batch-size": 128}, {}, odd]
    for job_id, (rejection, platform) in enumerate(zip(written, platforms, strict=True), start=1):
        experiment.append_rejection(job_id, rejection, platform)
    assert experiment.read_rejections() == {1: 0, 2: 3, 3: 250, 4: 4}
    whole = experiment.rejected_file.read_bytes()
    lines = whole.splitlines(keepends=True)
    for end in range(0, len(lines[1])):
        experiment.rejected_file.write_bytes(lines[0] + lines[1][:end] + b"\n" + lines[3])
        known = experiment.read_rejections()
        assert known == {1: 0, **({2: 3} if end == len(lines[1]) - 1 else {}), 4: 4}
    for line in (b'{"schema": 1, "id": 7, "discarded": "3"}\n', b"\xff\n", b"[7]\n"):
        experiment.rejected_file.write_bytes(line + whole)
        assert experiment.read_rejections() == {1: 0, 2: 3, 3: 250, 4: 4}


def test_status_is_derived_from_the_files(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    job = Job(job_id=1, params={}, seed=0)
    experiment.write_job(job)
    trial = experiment.read_trial(1)
    assert trial is not None
    assert experiment.status(trial) is Status.PENDING
    write_json(experiment.job_files(1).attempt(1), processes.own_identity())
    assert experiment.status(trial) is Status.RUNNING
    write_json(experiment.job_files(1).attempt(1), {**processes.own_identity(), "start_ticks": 1})
    assert experiment.status(trial) is Status.PENDING  # its worker is dead: it waits for another attempt
    experiment.write_result(1, Result(Status.TIMED_OUT))
    ended = experiment.read_trial(1)
    assert ended is not None
    assert experiment.status(ended) is Status.TIMED_OUT


def test_scripts_beside_an_interpreters_options_are_not_guessed_at(tmp_path: Path) -> None:
    for command in (["python", "-c", "print(1)"], ["bash", "-c", "echo 1"], ["python", "-S", "train.py"], ["echo"]):
        experiment = make_experiment(tmp_path, objective={"command": command})
        experiment.check_command(experiment.read_config())


def test_a_config_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        Experiment(tmp_path).read_config()


def test_elapsed_spans_are_those_in_which_workers_ran(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    for number in (1, 2, 3, 4):
        experiment.write_job(Job(job_id=number, params={}, seed=0, created_s=5.0))
    experiment.write_result(1, Result(Status.COMPLETED, started_s=10.0, ended_s=12.0))
    write_json(experiment.job_files(2).attempt(1), processes.own_identity())
    os.utime(experiment.job_files(2).attempt(1), (20.0, 20.0))
    write_json(experiment.job_files(3).attempt(1), {**processes.own_identity(), "start_ticks": 1})  # dead
    write_json(experiment.job_files(4).attempt(1), {**processes.own_identity(), "host": "elsewhere"})
    os.utime(experiment.job_files(4).attempt(1), (14.0, 14.0))
    experiment.job_files(4).heartbeat.touch()
    os.utime(experiment.job_files(4).heartbeat, (17.0, 17.0))  # when it was last seen, days ago perhaps
    spans = [(10.0, 12.0), (20.0, 25.0), (14.0, 17.0)]
    assert experiment.working_spans(experiment.read_history(), 25.0) == spans


def test_no_result_is_written_for_a_job_whose_folder_was_deleted(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    assert experiment.write_result(1, Result(Status.LOST)) == Result(Status.LOST)
    assert not experiment.job_files(1).folder.exists()


def test_a_claim_that_cannot_be_read_is_of_a_worker_that_may_live(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    experiment.write_job(Job(job_id=1, params={}, seed=0))
    experiment.job_files(1).attempt(1).write_text("{torn")
    assert experiment.may_run(1)
    assert len(experiment.working_spans(experiment.read_history(), time.time())) == 1


def test_a_folder_copied_from_another_job_is_refused(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    experiment.write_job(Job(job_id=1, params={}, seed=0))
    experiment.write_result(1, Result(Status.COMPLETED))
    shutil.copytree(experiment.jobs / "000001", experiment.jobs / "000002")
    with pytest.raises(ExperimentError, match="its id is 1, but its folder is that of job 2"):
        experiment.read_history()
    (experiment.jobs / "000002" / "job.json").unlink()
    with pytest.raises(ExperimentError, match="left of another job"):
        experiment.write_job(Job(job_id=2, params={}, seed=0))


def test_any_stop_file_is_a_request(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    assert experiment.stop_request() is None
    experiment.stop_file.touch()
    assert experiment.stop_request() == {}
    with experiment.lock():  # a new driver begins without it
        assert experiment.stop_request() is None


def test_the_holder_is_known_by_the_lock_and_one_elsewhere_by_when_it_was_seen(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    assert experiment.holder() is None
    with experiment.lock():
        holder = experiment.holder()
        assert holder is not None
        assert holder["pid"] == os.getpid()
    experiment.state.mkdir(exist_ok=True)
    write_json(experiment.holder_file, {**processes.own_identity(), "start_ticks": 1})  # the pid is used again
    assert experiment.holder() is None
    write_json(experiment.holder_file, {**processes.own_identity(), "host": "elsewhere"})
    os.utime(experiment.holder_file, (time.time() - 1000,) * 2)
    holder = experiment.holder()
    assert holder is not None
    assert 990 < holder["seen_s"] < 1100


def test_a_config_that_an_editor_of_windows_saved_is_read(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    experiment.config_file.write_text(experiment.config_file.read_text(), encoding="utf-8-sig")
    assert experiment.read_config().evaluations == 4

"""The experiment directory: files that are torn, foreign or absent."""

from __future__ import annotations

from pathlib import Path

import pytest
from searching import make_experiment

from hyperpower_runner.errors import ConfigError
from hyperpower_runner.experiment import Experiment
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
    experiment.append_rejection(1, Rejection(5, ({"params": {"n": 3}, "predictions": {"power_w": 9.0}},)))
    with experiment.rejected_file.open("a") as file:
        file.write('{"id": 2, "discarded": 1')  # a driver killed in the middle of a line
    experiment.append_rejection(2, Rejection(7))
    experiment.append_rejection(2, Rejection(7))
    assert experiment.read_rejections() == {1: 5, 2: 7}


def test_status_is_derived_from_the_files(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    job = Job(job_id=1, params={}, seed=0)
    experiment.write_job(job)
    trial = experiment.read_trial(1)
    assert trial is not None
    assert experiment.status(trial) is Status.PENDING
    experiment.job_files(1).attempt(1).write_text("{}")
    assert experiment.status(trial) is Status.RUNNING
    experiment.write_result(1, Result(Status.TIMED_OUT))
    ended = experiment.read_trial(1)
    assert ended is not None
    assert experiment.status(ended) is Status.TIMED_OUT


def test_scripts_beside_an_interpreters_options_are_not_guessed_at(tmp_path: Path) -> None:
    for command in (["python", "-c", "print(1)"], ["bash", "-c", "echo 1"], ["python", "-S", "train.py"], ["echo"]):
        make_experiment(tmp_path, objective={"command": command}).read_config()


def test_a_config_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        Experiment(tmp_path).read_config()

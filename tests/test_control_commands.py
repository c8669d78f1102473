"""`stop` and `clean` in a directory without a driver, beside one, and beside each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from searching import make_experiment, run_command

from hyperpower_runner import control_commands, presence, processes
from hyperpower_runner.device_commands import profile
from hyperpower_runner.errors import ExperimentError, HyperPowerError
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.job_files import JobFiles, write_json
from hyperpower_runner.launchers import WorkerState
from hyperpower_runner.launchers.local import LocalLauncher
from hyperpower_runner.trial import Job


class Queue(LocalLauncher):
    """A launcher whose jobs wait in a queue, without a worker that has claimed one."""

    def poll(self, jobs: dict[int, JobFiles], timeout_s: float) -> dict[int, WorkerState]:
        return dict.fromkeys(jobs, WorkerState.ALIVE)


def with_job(root: Path) -> Experiment:
    experiment = make_experiment(root, platform={"meter": "simulated-gtx1070"})
    experiment.write_job(Job(job_id=1, params={"x": 0.5, "n": 3}, seed=0))
    return experiment


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (lambda root: control_commands.stop(root, now=False), r"jobs \[1\] go on; to end them: stop --now"),
        (lambda root: control_commands.clean(root, yes=True), r"jobs \[1\] are still running"),
        (lambda root: profile(root, samples=10), r"jobs \[1\] are still running"),
    ],
    ids=["stop", "clean", "profile"],
)
def test_jobs_that_wait_in_a_queue_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[[Path], None], says: str
) -> None:
    experiment = with_job(tmp_path)
    monkeypatch.setattr(control_commands, "launcher_at", lambda experiment: Queue())
    with pytest.raises(HyperPowerError, match=says):
        command(tmp_path)
    assert experiment.job_files(1).job.exists()


def test_a_silent_holder_is_watched_before_a_profile_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = with_job(tmp_path)
    leave_holder(experiment, "search")
    monkeypatch.setattr(presence, "WATCH_S", 0.1)
    monkeypatch.setattr(control_commands, "launcher_at", lambda experiment: Queue())
    with pytest.raises(HyperPowerError, match="still running"):
        profile(tmp_path, samples=10)
    assert "Process 4711 on elsewhere left no word that its search ended; watching" in capsys.readouterr().err


def test_jobs_on_another_host_are_asked_to_end_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = with_job(tmp_path)
    write_json(experiment.job_files(1).attempt(1), {**processes.own_identity(), "host": "elsewhere"})
    monkeypatch.setattr(presence, "beating", lambda paths, watch_s: set(paths))
    control_commands.stop(tmp_path, now=True)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "No driver was running. Jobs [1] cannot be seen from here, and were asked to end."
    assert experiment.job_files(1).stop.read_text() == "the stop command\n"


def leave_holder(experiment: Experiment, doing: str) -> None:
    """What a process on another host has written of itself."""
    experiment.state.mkdir(exist_ok=True)
    holder = {**presence.of(experiment.root), "host": "elsewhere", "pid": 4711, "doing": doing}
    write_json(experiment.holder_file, holder)


@pytest.mark.parametrize(("doing", "does"), [("cleaning", "cleans it"), ("stopping", "ends its jobs already")])
def test_what_looks_for_no_request_is_not_asked_to_stop(tmp_path: Path, doing: str, does: str) -> None:
    experiment = make_experiment(tmp_path)
    leave_holder(experiment, doing)
    with pytest.raises(HyperPowerError, match=f"no driver is running, and process 4711 on elsewhere {does}; wait"):
        control_commands.stop(tmp_path, now=False)
    assert experiment.stop_request() is None
    experiment.holder_file.unlink()
    with experiment.lock(doing), pytest.raises(HyperPowerError, match=r"wait for it$"), experiment.lock():
        pass  # not: or end it with stop


def test_a_request_to_a_driver_that_proves_dead_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = make_experiment(tmp_path)
    leave_holder(experiment, "search")
    monkeypatch.setattr(presence, "WATCH_S", 0.0)
    with pytest.raises(HyperPowerError, match="no driver is running, so there is nothing to stop"):
        control_commands.stop(tmp_path, now=False)
    assert experiment.stop_request() is None


def test_a_directory_in_the_place_of_the_request_to_stop_is_refused_in_a_sentence(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    (tmp_path / "stop").mkdir()
    says = "stop: is a directory, but requests to stop are a file of this name; rename the directory"
    with pytest.raises(ExperimentError, match=says), experiment.lock():
        pass
    with pytest.raises(ExperimentError, match=says):
        experiment.request_stop("enough")


def test_config_json_stands_for_its_directory(tmp_path: Path) -> None:
    make_experiment(tmp_path, budget={"evaluations": 1})
    done = run_command("run", tmp_path / "config.json")
    assert (done.returncode, "is used up" in done.stderr) == (0, True)
    assert (tmp_path / "jobs/000001/result.json").exists()

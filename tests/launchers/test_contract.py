"""What all launchers promise: one suite, run over each of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from searching import make_experiment
from seen import processes_of

from hyperpower_runner import processes
from hyperpower_runner.job_files import JobFiles, read_json, write_json
from hyperpower_runner.launchers import Launcher, WorkerState
from hyperpower_runner.launchers.local import LocalLauncher
from hyperpower_runner.launchers.slurm import SlurmLauncher
from hyperpower_runner.trial import Job

LIMIT_S = 60.0  # for what takes seconds
LONG = """
    import pathlib, time
    pathlib.Path("begun").open("a").write("once ")
    while not pathlib.Path("go").exists(): time.sleep(0.02)
    print('{"error": 0.5}')
"""

Make = Callable[..., Launcher]


def local(wake: int | None = None) -> Launcher:
    return LocalLauncher(wake)


def slurm(wake: int | None = None) -> Launcher:
    return SlurmLauncher(wake=wake, polling_s=0.1, grace_s=1.0)


@pytest.fixture(params=[local, pytest.param(slurm, marks=pytest.mark.slurm)])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a launcher that knows nothing yet, as a driver has that was just started."""
    if request.param is slurm:
        request.getfixturevalue("cluster")
    chosen: Make = request.param
    return chosen


@pytest.fixture
def files(tmp_path: Path) -> Any:
    experiment = make_experiment(tmp_path / "an experiment", LONG)
    experiment.write_job(Job(job_id=1, params={}, seed=0, command=["python", "-S", "train.py"]))
    files = experiment.job_files(1)
    yield files
    for pid in processes_of(experiment.root):
        os.kill(pid, signal.SIGKILL)


def root_of(files: JobFiles) -> Path:
    return files.folder.parent.parent


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def settle(launcher: Launcher, files: JobFiles, state: WorkerState = WorkerState.GONE) -> None:
    deadline = time.monotonic() + LIMIT_S
    while launcher.poll({1: files}, 0.05)[1] is not state:
        assert time.monotonic() < deadline, "it never happened"


def begun(files: JobFiles) -> str:
    path = root_of(files) / "begun"
    return path.read_text() if path.exists() else ""


def left_of(files: JobFiles) -> list[int]:
    """What runs of a job: its worker, as the claim has it, and what names its job.json on the command line."""
    claim = read_json(files.attempt(1))
    worker = [claim["pid"]] if claim is not None and processes.is_alive(claim) else []
    return [*worker, *processes_of(files.job)]


def worker_of(files: JobFiles, attempt: int = 1) -> int:
    wait_until(lambda: begun(files))
    identity = read_json(files.attempt(attempt))
    assert identity is not None
    return int(identity["pid"])


def test_a_worker_lives_until_it_has_left_its_result(make: Make, files: JobFiles) -> None:
    launcher = make()
    launcher.submit(files, 1)
    settle(launcher, files, WorkerState.ALIVE)
    wait_until(lambda: begun(files))
    for _ in range(10):
        assert launcher.poll({1: files}, 0.05)[1] is WorkerState.ALIVE
    (root_of(files) / "go").touch()
    settle(launcher, files)
    result = read_json(files.result)
    assert result is not None
    assert (result["status"], result["metrics"]["error"]) == ("completed", 0.5)
    assert begun(files) == "once "
    assert '{"error": 0.5}' in files.output.read_text()
    assert make().poll({1: files}, 0.0)[1] is WorkerState.GONE  # seen by another driver, too


def test_a_job_that_was_never_submitted_has_no_worker(make: Make, files: JobFiles) -> None:
    launcher = make()
    assert launcher.poll({1: files}, 0.0)[1] is WorkerState.GONE
    assert launcher.fate(files).status is None


def test_a_running_job_is_cancelled_with_its_reason(make: Make, files: JobFiles) -> None:
    launcher = make()
    launcher.submit(files, 1)
    worker_of(files)
    launcher.cancel(files, "no longer wanted")
    settle(launcher, files)
    result = read_json(files.result)
    assert result is not None
    assert (result["status"], result["reason"]) == ("cancelled", "no longer wanted")
    wait_until(lambda: not left_of(files))


def test_a_job_may_be_cancelled_before_its_worker_has_begun(make: Make, files: JobFiles) -> None:
    launcher = make()
    launcher.submit(files, 1)
    launcher.cancel(files, "no longer wanted")
    settle(launcher, files)
    assert begun(files) == ""
    assert (read_json(files.result) or {"status": "cancelled"})["status"] == "cancelled"
    wait_until(lambda: not left_of(files))


def test_a_killed_worker_leaves_no_result_and_nothing_of_its_script(make: Make, files: JobFiles) -> None:
    launcher = make()
    launcher.submit(files, 1)
    os.kill(worker_of(files), signal.SIGKILL)
    settle(launcher, files)
    assert not files.result.exists()
    assert "vanished" in launcher.fate(files).clause
    assert launcher.fate(files).status is None  # it may be tried again
    (root_of(files) / "begun").unlink()
    (root_of(files) / "go").touch()
    launcher.submit(files, 2)
    settle(launcher, files)
    assert begun(files) == "once "
    assert (read_json(files.result) or {})["status"] == "completed"
    wait_until(lambda: not left_of(files))


def test_another_driver_finds_a_worker_and_can_end_it(make: Make, files: JobFiles) -> None:
    make().submit(files, 1)
    worker_of(files)
    second = make()
    settle(second, files, WorkerState.ALIVE)
    second.cancel(files, "by the second")
    settle(second, files)
    assert (read_json(files.result) or {})["reason"] == "by the second"


def test_another_driver_sees_the_result_of_a_worker_that_it_found(make: Make, files: JobFiles) -> None:
    make().submit(files, 1)
    worker_of(files)
    second = make()
    settle(second, files, WorkerState.ALIVE)
    (root_of(files) / "go").touch()
    settle(second, files)
    assert (read_json(files.result) or {})["status"] == "completed"


def test_a_worker_whose_attempt_is_claimed_goes_home(make: Make, files: JobFiles) -> None:
    first = make()
    first.submit(files, 1)
    claim = worker_of(files)
    files.launch.unlink(missing_ok=True)  # so that nothing keeps the second from starting one
    second = make()
    second.submit(files, 1)
    for _ in range(20):
        assert second.poll({1: files}, 0.05)[1] is not WorkerState.GONE
    (root_of(files) / "go").touch()
    settle(first, files)
    settle(second, files)
    assert begun(files) == "once "
    assert worker_of(files) == claim
    assert (read_json(files.result) or {})["status"] == "completed"


def test_a_poll_ends_early_when_a_worker_ends(make: Make, files: JobFiles) -> None:
    launcher = make()
    launcher.submit(files, 1)
    worker_of(files)
    settle(launcher, files, WorkerState.ALIVE)
    (root_of(files) / "go").touch()
    while launcher.poll({1: files}, 3600.0)[1] is not WorkerState.GONE:  # would hang otherwise
        pass


def test_a_poll_ends_early_when_the_wake_descriptor_is_readable(make: Make, files: JobFiles) -> None:
    wake, write = os.pipe()
    launcher = make(wake)
    launcher.submit(files, 1)
    settle(launcher, files, WorkerState.ALIVE)
    os.write(write, b"!")
    assert launcher.poll({1: files}, 3600.0) == {1: WorkerState.ALIVE}  # would hang otherwise
    os.read(wake, 1)
    launcher.cancel(files, "end of the test")
    settle(launcher, files)
    os.close(wake)
    os.close(write)


def test_a_launcher_tells_of_several_jobs_at_once(make: Make, tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path / "several", "print('{\"error\": 1}')")
    jobs = {}
    for job_id in range(1, 5):
        experiment.write_job(Job(job_id=job_id, params={}, seed=0, command=["python", "-S", "train.py"]))
        jobs[job_id] = experiment.job_files(job_id)
    launcher = make()
    for each in jobs.values():
        launcher.submit(each, 1)
    wait_until(lambda: set(launcher.poll(jobs, 0.05).values()) == {WorkerState.GONE})
    assert all((read_json(each.result) or {})["status"] == "completed" for each in jobs.values())


def test_a_claim_that_was_left_by_nobody_is_not_alive_for_ever(make: Make, files: JobFiles) -> None:
    """Its worker ended with its host, which is named as this one is, at an earlier boot."""
    launcher = make()
    launcher.submit(files, 1)
    os.kill(worker_of(files), signal.SIGKILL)
    wait_until(lambda: not left_of(files))
    write_json(files.attempt(1), {**(read_json(files.attempt(1)) or {}), "boot_id": "an earlier one"})
    second = make()
    settle(second, files)
    assert not files.result.exists()

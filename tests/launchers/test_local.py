"""The local launcher: workers of this driver, of an earlier one, and of another host."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from searching import make_experiment

from hyperpower_runner import processes
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.job_files import JobFiles, read_json, write_json
from hyperpower_runner.launchers import WorkerState
from hyperpower_runner.launchers.local import LocalLauncher
from hyperpower_runner.trial import Job


@pytest.fixture
def files(tmp_path: Path) -> JobFiles:
    experiment: Experiment = make_experiment(tmp_path)
    script = "import time; open('begun', 'w').close(); time.sleep(600)"
    experiment.write_job(Job(job_id=1, params={}, seed=0, command=["python", "-c", script]))
    return experiment.job_files(1)


def settle(launcher: LocalLauncher, files: JobFiles) -> None:
    while launcher.poll({1: files}, 0.05)[1] is not WorkerState.GONE:
        pass


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def test_a_worker_is_alive_until_it_is_cancelled(files: JobFiles) -> None:
    launcher = LocalLauncher()
    assert launcher.poll({1: files}, 0)[1] is WorkerState.GONE  # never submitted
    launcher.submit(files, 1)
    assert launcher.poll({1: files}, 0)[1] is WorkerState.ALIVE
    wait_for(files.folder.parent.parent / "begun")
    launcher.cancel(files, "no longer wanted")
    settle(launcher, files)
    result = read_json(files.result)
    assert result is not None
    assert (result["status"], result["reason"]) == ("cancelled", "no longer wanted")


def test_another_launcher_adopts_a_worker(files: JobFiles) -> None:
    first, second = LocalLauncher(), LocalLauncher()
    first.submit(files, 1)
    wait_for(files.attempt(1))
    assert second.poll({1: files}, 0)[1] is WorkerState.ALIVE
    second.cancel(files, "by the second")
    settle(second, files)
    settle(first, files)
    assert read_json(files.result) is not None


def test_a_poll_that_fails_leaves_nothing_open(files: JobFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = LocalLauncher()
    launcher.submit(files, 1)
    wait_for(files.attempt(1))
    launcher.poll({1: files}, 0.01)
    other = JobFiles(files.folder.with_name("000002"))

    def living(job: JobFiles) -> dict[str, object] | None:
        if job is other:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read_json(job.attempt(1))

    monkeypatch.setattr(launcher, "_living", living)
    monkeypatch.setattr(launcher, "_state", lambda job: WorkerState.ALIVE)
    before = len([*Path("/proc/self/fd").iterdir()])
    with pytest.raises(OSError, match="Stale"):
        launcher.poll({1: files, 2: other}, 1.0)
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    monkeypatch.undo()
    launcher.cancel(files, "end of the test")
    settle(launcher, files)


def test_a_poll_ends_early_when_the_wake_descriptor_is_readable(files: JobFiles) -> None:
    wake, write = os.pipe()
    launcher = LocalLauncher(wake)
    launcher.submit(files, 1)
    os.write(write, b"!")
    states = launcher.poll({1: files}, 3600.0)  # would hang otherwise
    assert states == {1: WorkerState.ALIVE}  # nothing but the descriptor can have ended it
    launcher.cancel(files, "end of the test")
    os.read(wake, 1)
    settle(launcher, files)
    os.close(wake)
    os.close(write)


def test_a_worker_on_another_host_is_unknown_until_it_falls_silent(files: JobFiles) -> None:
    write_json(files.attempt(1), {**processes.own_identity(), "host": "elsewhere"})
    files.heartbeat.touch()
    launcher = LocalLauncher(silence_s=0.0)
    for age_s in (0, -86_400, 86_400):  # the clocks of hosts differ: only changes count
        os.utime(files.heartbeat, (time.time() - age_s,) * 2)
        assert launcher.poll({1: files}, 0)[1] is WorkerState.UNKNOWN
    assert launcher.poll({1: files}, 0)[1] is WorkerState.GONE

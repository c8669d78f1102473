"""Who holds a directory: seen by a file that beats, also where the kernel's lock does not reach."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from searching import make_experiment, run_command

from hyperpower_runner import locks, presence, processes
from hyperpower_runner.errors import LockedError
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.job_files import read_json, touched_ns, write_json


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "BEAT_S", 0.05)
    monkeypatch.setattr(presence, "WATCH_S", 0.5)


def until(condition: Any) -> None:
    while not condition():
        time.sleep(0.01)


def elsewhere(experiment: Experiment) -> dict[str, Any]:
    """What a driver on another host would have written."""
    return {**presence.of(experiment.root), "host": "elsewhere", "pid": 4711, "doing": "search"}


def test_a_holder_beats_and_takes_its_file_away(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    with experiment.lock() as overtaken:
        first = touched_ns(experiment.holder_file)
        until(lambda: touched_ns(experiment.holder_file) != first)
        assert not overtaken()
    assert not experiment.holder_file.exists()


def test_a_holder_writes_its_file_again_when_state_is_deleted(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    with experiment.lock():
        shutil.rmtree(experiment.state)
        until(experiment.holder_file.exists)
        assert (read_json(experiment.holder_file) or {})["pid"] == os.getpid()


def test_a_driver_is_refused_while_one_elsewhere_beats_and_not_when_it_is_silent(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    notes: list[str] = []
    experiment.state.mkdir()
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.02):
            os.utime(experiment.holder_file)

    write_json(experiment.holder_file, elsewhere(experiment))
    other = threading.Thread(target=beat)
    other.start()
    try:
        with (
            pytest.raises(LockedError, match=r"already run by process 4711 on elsewhere.*hyperpower-runner stop"),
            experiment.lock(note=notes.append),
        ):
            pass
    finally:
        ended.set()
        other.join()
    assert "Process 4711 on elsewhere left no word that its search ended; watching" in notes[0]
    assert experiment.holder_file.exists()  # it is not ours to take away
    with experiment.lock():
        assert (read_json(experiment.holder_file) or {})["pid"] == os.getpid()


def test_a_deleted_lock_file_lets_no_second_driver_in(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    with experiment.lock():
        experiment.lock_file.unlink()
        with pytest.raises(LockedError, match=f"process {os.getpid()} "), experiment.lock():
            pass
        assert experiment.holder() is not None


@pytest.mark.parametrize("asked_before", [True, False])
def test_a_request_to_stop_counts_from_when_its_driver_holds_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked_before: bool
) -> None:
    """Also while that one watches whether the last holder beats."""
    experiment = make_experiment(tmp_path)
    experiment.state.mkdir()
    write_json(experiment.holder_file, elsewhere(experiment))
    if asked_before:
        experiment.request_stop("long ago")

    def watch(path: Path) -> bool:
        if not asked_before:
            experiment.request_stop("just now")
        return False

    monkeypatch.setattr(presence, "beats", watch)
    with experiment.lock():
        assert (experiment.stop_request() is None) is asked_before


@pytest.fixture(params=sorted({*locks.NO_LOCKS}))
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without flock."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_where_there_are_no_locks_the_holders_file_keeps_a_second_driver_out(tmp_path: Path, no_locks: None) -> None:
    experiment = make_experiment(tmp_path)
    with experiment.lock():
        with pytest.raises(LockedError, match=f"process {os.getpid()} "), experiment.lock():
            pass
        assert (experiment.holder() or {})["pid"] == os.getpid()
    assert experiment.holder() is None
    write_json(experiment.holder_file, elsewhere(experiment))  # killed there, without a word
    with experiment.lock() as overtaken:
        assert not overtaken()


def test_where_there_are_no_locks_for_a_device_that_is_said(no_locks: None) -> None:
    with (
        pytest.raises(LockedError, match=r"\.lock: its file system has no locks.*set TMPDIR"),
        locks.device_lock({"meter": "host"}),
    ):
        pass


def test_the_copy_of_a_directory_whose_driver_runs_is_free(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path / "first")
    with experiment.lock():
        shutil.copytree(experiment.root, tmp_path / "second")
        copy = Experiment(tmp_path / "second")
        assert copy.holder() is None
        with copy.lock():
            pass


def test_a_holder_learns_that_it_was_overtaken_and_leaves_the_others_file(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    with experiment.lock() as overtaken:
        write_json(experiment.holder_file, elsewhere(experiment))
        until(overtaken)
    assert (read_json(experiment.holder_file) or {})["host"] == "elsewhere"


def test_status_and_stop_reach_a_driver_elsewhere(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    experiment.state.mkdir()
    write_json(experiment.holder_file, elsewhere(experiment))
    seen = json.loads(run_command("status", tmp_path, "--json").stdout)["driver"]
    assert (seen["pid"], seen["host"]) == (4711, "elsewhere")
    stopped = run_command("stop", tmp_path)
    assert stopped.returncode == 0
    assert "Asked process 4711 on elsewhere to stop" in stopped.stderr
    assert experiment.stop_request() == {"schema": 1, "reason": "the stop command", "cancel": False}


def test_one_elsewhere_that_was_not_seen_for_long_is_not_said_to_run(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    experiment.state.mkdir()
    write_json(experiment.holder_file, elsewhere(experiment))
    os.utime(experiment.holder_file, (time.time() - 7200,) * 2)
    assert json.loads(run_command("status", tmp_path, "--json").stdout)["driver"] is None
    assert "not running (process 4711 on elsewhere, last seen 2 h 00 min ago)" in run_command("status", tmp_path).stdout


def test_an_identity_of_this_host_says_whether_it_lives(tmp_path: Path) -> None:
    own = presence.of(tmp_path)
    assert presence.lives(own, tmp_path) is True
    assert presence.lives({**own, "start_ticks": 1}, tmp_path) is False
    assert presence.lives(own, tmp_path.parent) is False
    assert presence.lives({**own, "host": "elsewhere"}, tmp_path.parent) is None
    assert presence.lives(processes.own_identity(), tmp_path) is True  # as older versions wrote it

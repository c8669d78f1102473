"""Jobs in slots: retried or given up as launchers say, cancelled without a driver, not lost to a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from searching import Recorder, all_params, drive, make_experiment, results, run_command
from seen import processes_of

from hyperpower_runner import driver as driver_module
from hyperpower_runner import job_files, processes, slots
from hyperpower_runner.driver import Driver, Why
from hyperpower_runner.errors import LaunchError
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.job_files import JobFiles, read_json, write_json
from hyperpower_runner.launchers import VANISHED, Fate, WorkerState
from hyperpower_runner.launchers.local import LocalLauncher
from hyperpower_runner.slots import Slots, cancel_left, living
from hyperpower_runner.trial import Job, Status
from hyperpower_runner.untrusted import regular

WAITS = """
    import os, time
    while os.path.exists("hold"):
        time.sleep(0.01)
    print('{"error": 0.5}')
"""


class FakeLauncher:
    """Workers that do nothing: they are gone at once, with the fate that a test chose."""

    def __init__(self, fate: Fate = VANISHED) -> None:
        self.of_all = fate
        self.submitted: list[tuple[str, int]] = []
        self.cancelled: list[str] = []
        self.state = WorkerState.GONE
        self.refuses: list[OSError] = []

    def submit(self, files: JobFiles, attempt: int) -> None:
        if self.refuses:
            raise LaunchError("no worker could be started") from self.refuses.pop()
        self.submitted.append((files.folder.name, attempt))

    def poll(self, jobs: dict[int, JobFiles], timeout_s: float) -> dict[int, WorkerState]:
        return dict.fromkeys(jobs, self.state)

    def fate(self, files: JobFiles) -> Fate:
        return self.of_all

    def cancel(self, files: JobFiles, reason: str) -> None:
        self.cancelled.append(files.folder.name)


def job_in(root: Path, job_id: int = 1) -> Experiment:
    experiment = make_experiment(root)
    experiment.write_job(Job(job_id=job_id, params={}, seed=0, command=["false"]))
    return experiment


def test_a_fate_that_a_retry_would_not_change_is_the_result(tmp_path: Path) -> None:
    experiment = job_in(tmp_path)
    running = Slots(experiment, FakeLauncher(Fate("Slurm ended it", Status.TIMED_OUT)), 2, pytest.fail)
    running.start(1)
    ((job_id, result),) = running.ended()
    assert (job_id, result.status, result.reason) == (1, Status.TIMED_OUT, "Slurm ended it")
    assert not running.active
    assert experiment.read_result(1) == result


def test_a_worker_that_never_starts_is_given_up_after_the_retries(tmp_path: Path) -> None:
    experiment, launcher = job_in(tmp_path), FakeLauncher(Fate("its worker vanished (NODE_FAIL)"))
    notes: list[str] = []
    running = Slots(experiment, launcher, 2, notes.append)
    running.start(1)
    for _ in range(2):
        assert list(running.ended()) == []
        assert running.start_waiting() == 1
    ((_, result),) = running.ended()
    assert (result.status, result.reason) == (Status.LOST, "its worker vanished (NODE_FAIL) 3 times")
    assert launcher.submitted == [("000001", 1)] * 3  # nobody claimed the first attempt
    assert notes == [f"job 1: its worker vanished (NODE_FAIL); attempt {n} of 3" for n in (2, 3)]


def test_a_lost_job_took_as_long_as_its_worker_was_seen(tmp_path: Path) -> None:
    experiment = job_in(tmp_path)
    files, now_s = experiment.job_files(1), time.time()
    write_json(files.attempt(1), {**processes.own_identity(), "start_ticks": 1})
    files.heartbeat.touch()
    os.utime(files.attempt(1), (now_s - 9000,) * 2)
    os.utime(files.heartbeat, (now_s - 8000,) * 2)
    running = Slots(experiment, FakeLauncher(), 0, pytest.fail)
    running.adopt(1)
    ((_, result),) = running.ended()
    assert result.ended_s - result.started_s == pytest.approx(1000)  # not the days until somebody resumed


def test_a_job_that_cannot_be_launched_keeps_its_turn(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    launcher.refuses = [OSError(errno.EAGAIN, "no more processes")]
    running = Slots(job_in(tmp_path), launcher, 0, pytest.fail)
    with pytest.raises(LaunchError):
        running.start(1)
    assert (running.active, running.waiting) == (set(), {1: 1})
    assert running.start_waiting() == 1
    assert (running.active, running.waiting) == ({1}, {})


def test_a_cancellation_that_a_full_disk_stopped_half_way_is_completed(tmp_path: Path) -> None:
    experiment, launcher = job_in(tmp_path), FakeLauncher()
    launcher.state = WorkerState.ALIVE
    running = Slots(experiment, launcher, 0, pytest.fail)
    for job_id in (1, 2, 3):
        running.start(job_id)
    cancel, full = launcher.cancel, [OSError(errno.ENOSPC, "full")]

    def cancel_if_there_is_room(files: JobFiles, reason: str) -> None:
        if files.folder.name == "000002" and full:
            raise full.pop()
        cancel(files, reason)

    launcher.cancel = cancel_if_there_is_room  # type: ignore[method-assign]
    with pytest.raises(OSError, match="full"):
        running.cancel()
    assert list(running.ended()) == []
    assert launcher.cancelled == ["000001", "000002", "000003"]


@pytest.mark.parametrize("fate", [VANISHED, Fate("Slurm ended it", Status.TIMED_OUT)])
def test_a_job_that_is_given_up_while_the_disk_is_full_is_given_up_for_the_same_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fate: Fate
) -> None:
    experiment = job_in(tmp_path)
    running = Slots(experiment, TellingLauncher(fate), 0, pytest.fail)
    running.start(1)
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "write_result", no_room)
        with pytest.raises(OSError, match="full"):
            list(running.ended())
    ((_, result),) = running.ended()
    assert result.status is (fate.status or Status.LOST)
    assert experiment.job_files(1).stop.exists()  # for a script that has outlived its worker


def test_jobs_whose_folders_were_deleted_are_given_up_and_cancelled_like_others(tmp_path: Path) -> None:
    experiment = job_in(tmp_path)
    experiment.write_job(Job(job_id=2, params={}, seed=0, command=["false"]))
    launcher = TellingLauncher()
    running = Slots(experiment, launcher, 0, pytest.fail)
    for job_id in (1, 2):
        running.start(job_id)
    shutil.rmtree(experiment.job_files(1).folder)
    launcher.state = WorkerState.ALIVE
    running.cancel()
    assert launcher.cancelled == ["000001", "000002"]
    launcher.state = WorkerState.GONE
    assert {job_id: result.status for job_id, result in running.ended()} == dict.fromkeys((1, 2), Status.CANCELLED)
    assert not experiment.job_files(1).folder.exists()


class TellingLauncher(FakeLauncher):
    """Workers that are told of a request to stop by its file, as real ones are."""

    def cancel(self, files: JobFiles, reason: str) -> None:
        super().cancel(files, reason)
        files.request_stop(reason)


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "full")


def test_a_second_attempt_may_wait_in_a_queue_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, launcher = job_in(tmp_path), FakeLauncher()
    launcher.state = WorkerState.UNKNOWN
    monkeypatch.setattr(slots, "WATCH_S", 0.1)
    files = experiment.job_files(1)
    write_json(files.attempt(1), {**processes.own_identity(), "host": "elsewhere"})
    write_json(files.launch, {"attempt": 1, "token": "hp-1-a"})
    assert living(experiment, launcher, lambda text: None) == []  # it was claimed, and does not beat
    write_json(files.launch, {"attempt": 2, "token": "hp-1-b"})
    assert living(experiment, launcher, pytest.fail) == [1]


def hold(experiment: Experiment) -> Path:
    held = experiment.root / "hold"
    held.touch()
    return held


def start_and_leave(experiment: Experiment, job_id: int = 1) -> None:
    """Start a job as a driver does that is then killed."""
    experiment.write_job(Job(job_id=job_id, params={"x": 0.5, "n": 3}, seed=0, command=["python", "-S", "train.py"]))
    LocalLauncher().submit(experiment.job_files(job_id), 1)
    while not experiment.job_files(job_id).last_attempt():
        time.sleep(0.01)


def test_jobs_without_a_driver_are_seen_and_cancelled(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, WAITS)
    hold(experiment)
    start_and_leave(experiment)
    assert living(experiment, LocalLauncher(), pytest.fail) == [1]
    assert cancel_left(experiment, LocalLauncher(), "enough", pytest.fail) == ([1], [])
    assert (read_json(experiment.job_files(1).result) or {})["reason"] == "enough"
    assert living(experiment, LocalLauncher(), pytest.fail) == []
    assert not processes_of(tmp_path)


@pytest.mark.parametrize("beats", [True, False])
def test_jobs_on_hosts_that_cannot_be_seen_are_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beats: bool
) -> None:
    experiment = job_in(tmp_path)
    notes: list[str] = []
    files = experiment.job_files(1)
    write_json(files.attempt(1), {**processes.own_identity(), "host": "elsewhere"})
    monkeypatch.setattr(slots, "WATCH_S", 2.0)
    sleep: Callable[[float], None] = time.sleep

    def sleep_while_it_beats(seconds: float) -> None:
        sleep(0.01)
        if beats:
            files.heartbeat.touch()

    monkeypatch.setattr(time, "sleep", sleep_while_it_beats)
    assert living(experiment, LocalLauncher(), notes.append) == ([1] if beats else [])
    assert notes == ["Jobs [1] cannot be seen from here; watching for 2 s whether they beat"]


def test_a_job_in_a_queue_that_does_not_answer_is_not_taken_for_gone(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    launcher.state = WorkerState.UNKNOWN
    assert living(job_in(tmp_path), launcher, pytest.fail) == [1]


def test_stop_now_ends_what_a_killed_driver_left_and_clean_says_so(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, WAITS)
    hold(experiment)
    start_and_leave(experiment)
    refused = run_command("clean", tmp_path, "--yes")
    assert refused.returncode == 1
    assert f"jobs [1] are still running; wait for them, or end them with: hyperpower-runner stop {tmp_path} --now" in (
        refused.stderr
    )
    told = run_command("stop", tmp_path)
    assert (told.returncode, "but jobs [1] go on; to end them: stop --now" in told.stderr) == (1, True)
    stopped = run_command("stop", tmp_path, "--now")
    assert (stopped.returncode, "No driver was running. Ended jobs: [1]." in stopped.stderr) == (0, True)
    assert results(experiment)[1].status is Status.CANCELLED
    assert run_command("clean", tmp_path, "--yes").returncode == 0
    assert not experiment.jobs.exists()


def test_a_full_disk_delays_a_search_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = make_experiment(tmp_path / "twin")
    drive(twin)
    experiment, recorder = make_experiment(tmp_path / "full"), Recorder()
    monkeypatch.setattr(driver_module, "LONGEST_WAIT_S", 0.01)
    write_job, full = Experiment.write_job, [OSError(errno.ENOSPC, "full", "jobs/000002")] * 3

    def write_if_there_is_room(self: Experiment, job: Job) -> None:
        if job.job_id == 2 and full:
            raise full.pop()
        write_job(self, job)

    monkeypatch.setattr(Experiment, "write_job", write_if_there_is_room)
    _, ending = drive(experiment, recorder)
    assert ending.why is Why.BUDGET
    assert [note for note in recorder.notes if "waiting for" in note] == [
        "jobs/000002: No space left on device; waiting for better times (Ctrl-C ends the search, all is saved)"
    ]
    assert 'The search goes on: "No space left on device" has passed.' in recorder.notes
    assert all_params(experiment) == all_params(twin)


def test_ctrl_c_ends_a_driver_that_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, pressed = make_experiment(tmp_path), [0]

    def write_never(self: Experiment, job: Job) -> None:
        pressed[0] = 1
        raise OSError(errno.EDQUOT, "full", "jobs")

    monkeypatch.setattr(Experiment, "write_job", write_never)
    monkeypatch.setattr(driver_module, "LONGEST_WAIT_S", 0.01)
    _, ending = drive(experiment, interrupted=lambda: pressed[0])
    assert ending.why is Why.INTERRUPTED


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ESTALE])
@pytest.mark.parametrize("names", [["jobs/000002/result.json"], ["stop"], ["stop", "jobs/000002/result.json"]])
def test_a_file_that_cannot_be_read_for_a_while_delays_a_search_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, names: list[str]
) -> None:
    twin = make_experiment(tmp_path / "twin")
    drive(twin)
    experiment, recorder = make_experiment(tmp_path / "search"), Recorder()
    monkeypatch.setattr(driver_module, "LONGEST_WAIT_S", 0.01)
    left = {str(experiment.root / name): 3 for name in names}

    def open_if_possible(path: str | Path, flags: int) -> int:
        if experiment.job_files(2).result.exists() and left.get(str(path)):
            left[str(path)] -= 1
            raise OSError(code, os.strerror(code), str(path))
        return regular(path, flags)

    monkeypatch.setattr(job_files, "regular", open_if_possible)
    _, ending = drive(experiment, recorder)
    assert ending.why is Why.BUDGET
    assert not any(left.values())
    noted = [note for note in recorder.notes if "waiting for better times" in note]
    expected = "jobs/000002/result.json" in names  # a request to stop is only looked for again
    assert [os.strerror(code) in note for note in noted] == [True] * expected
    assert all_params(experiment) == all_params(twin)
    assert [result.status for result in results(experiment).values()] == [Status.COMPLETED] * 4


def test_what_fails_while_a_driver_waits_for_its_workers_may_pass_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, recorder = make_experiment(tmp_path, budget={"evaluations": 1}), Recorder()
    monkeypatch.setattr(driver_module, "LONGEST_WAIT_S", 0.01)
    wait, failures = Slots.wait, [OSError(errno.ESTALE, "stale", "jobs/000001")]

    def wait_if_possible(self: Slots, timeout_s: float) -> None:
        if failures:
            raise failures.pop()
        wait(self, timeout_s)

    monkeypatch.setattr(Slots, "wait", wait_if_possible)
    _, ending = drive(experiment, recorder)
    assert (ending.why, failures) == (Why.BUDGET, [])
    assert "jobs/000001: Stale file handle; waiting for better times" in "\n".join(recorder.notes)


def test_a_driver_that_cannot_launch_for_a_while_says_what_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, recorder = make_experiment(tmp_path, budget={"evaluations": 1}), Recorder()
    monkeypatch.setattr(driver_module, "LONGEST_WAIT_S", 0.01)
    launcher, refuses = LocalLauncher(), [OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))] * 2
    submit = launcher.submit

    def submit_if_possible(files: JobFiles, attempt: int) -> None:
        if refuses:
            raise LaunchError("jobs/000001: what its last attempt left running cannot be ended") from refuses.pop()
        submit(files, attempt)

    launcher.submit = submit_if_possible  # type: ignore[method-assign]
    config = experiment.read_config()
    with experiment.lock():
        ending = Driver(experiment, config, experiment.read_models(config), launcher, recorder).run()
    assert ending.why is Why.BUDGET
    assert [note for note in recorder.notes if not note.startswith("The budget")] == [
        "jobs/000001: what its last attempt left running cannot be ended; waiting for better times (Ctrl-C ends the"
        " search, all is saved)",
        'The search goes on: "Resource temporarily unavailable" has passed.',
    ]


def test_what_waiting_does_not_mend_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = make_experiment(tmp_path)

    def write_never(self: Experiment, job: Job) -> None:
        raise OSError(errno.EROFS, "read-only", "jobs")

    monkeypatch.setattr(Experiment, "write_job", write_never)
    with pytest.raises(OSError, match="read-only"):
        drive(experiment)


def test_a_job_whose_folder_was_deleted_before_its_retry_is_written_again(tmp_path: Path) -> None:
    import shutil

    experiment = make_experiment(tmp_path, budget={"evaluations": 2})
    launcher = LocalLauncher()
    submit = launcher.submit
    deleted: list[Path] = []

    def submit_into_nothing(files: JobFiles, attempt: int) -> None:
        if not deleted:
            deleted.append(files.folder)
            shutil.rmtree(files.folder)
        submit(files, attempt)

    launcher.submit = submit_into_nothing  # type: ignore[method-assign]
    config = experiment.read_config()
    with experiment.lock():
        ending = Driver(experiment, config, experiment.read_models(config), launcher, Recorder()).run()
    assert ending.why is Why.BUDGET
    assert [result.status for result in results(experiment).values()] == [Status.COMPLETED] * 2

"""An attempt at a job: whose it is, whether it still counts, and what it finds left of earlier ones."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from working import end, left_of, make_job, result_of, run_worker, start_worker, wait_for, wait_until

from hyperpower_runner import processes
from hyperpower_runner.job_files import write_json
from hyperpower_runner.supervision.attempt import Attempt
from hyperpower_runner.trial import Status

WAITS = """
    import os, time
    open("begun", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
    print('{"error": 0.5}')
"""


def test_an_attempt_counts_until_another_is_begun(tmp_path: Path) -> None:
    files = make_job(tmp_path, "")
    first = Attempt(files, 1)
    assert first.counts()  # also before it is claimed, while the disk is full
    assert first.claim()
    assert first.counts()
    assert first.claim()  # again, when the disk was full in the middle of it
    assert Attempt(files, 2).claim()
    assert not first.counts()


def test_a_claim_that_somebody_touched_or_restored_is_still_its_workers(tmp_path: Path) -> None:
    files = make_job(tmp_path, "")
    attempt = Attempt(files, 1)
    attempt.claim()
    os.utime(files.attempt(1), (1.0, 1.0))
    assert attempt.counts()
    restored = files.attempt(1).with_name("restored")
    shutil.copy(files.attempt(1), restored)
    restored.replace(files.attempt(1))
    assert attempt.counts()


@pytest.mark.parametrize("is_claimed", [True, False])
def test_an_attempt_does_not_count_for_another_job_in_the_same_folder(tmp_path: Path, is_claimed: bool) -> None:
    files = make_job(tmp_path / "a", "")
    attempt = Attempt(files, 1)
    attempt.claim()
    shutil.rmtree(files.folder)
    assert attempt.counts()  # a shared file system may be away for a while
    files.folder.mkdir()
    if is_claimed:
        write_json(files.attempt(1), {**processes.own_identity(), "start_ticks": 1})
    assert not attempt.counts()


def test_a_worker_gives_nothing_to_the_job_of_a_new_search_in_the_place_of_its_own(tmp_path: Path) -> None:
    files = make_job(tmp_path, WAITS)
    process = start_worker(files, log_file=tmp_path / "log")
    try:
        wait_for(tmp_path / "begun")
        job = files.job.read_bytes()
        shutil.rmtree(tmp_path / "jobs")
        files.folder.mkdir(parents=True)
        files.job.write_bytes(job)
        (tmp_path / "go").touch()
        assert process.wait(60) == 0
    finally:
        end(process)
    assert not files.result.exists()
    assert "or its job was deleted: it leaves no result" in (tmp_path / "log").read_text()


FLEES = """
    import os, signal, time
    if os.path.exists("again"):
        print('{"error": 0.5}')
    elif os.fork() == 0:
        os.setsid()
        open("fled", "w").close()
        time.sleep(600)
    else:
        while not os.path.exists("fled"):
            time.sleep(0.01)
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
"""


def test_what_an_earlier_attempt_left_ends_before_the_next_begins(tmp_path: Path) -> None:
    files = make_job(tmp_path, FLEES)
    assert start_worker(files).wait(60) == -signal.SIGKILL
    wait_until(lambda: len(left_of(files)) == 1)
    (tmp_path / "again").touch()
    assert run_worker(files, attempt=2).status is Status.COMPLETED
    assert left_of(files) == []


def test_a_worker_says_that_it_waits_for_what_cannot_be_ended_and_begins_when_it_has(tmp_path: Path) -> None:
    files = make_job(tmp_path, WAITS)
    write_json(files.attempt(1), {**processes.own_identity(), "start_ticks": 1})
    cannot = "from hyperpower_runner import processes; processes.kill_remains = lambda worker: Path('ended').exists()"
    process = start_worker(
        files, 2, {"worker.LONGEST_PAUSE_S": 0.2}, cannot.replace("'ended'", repr(str(tmp_path / "ended")))
    )
    try:
        wait_until(lambda: "what an earlier attempt left running cannot be ended" in files.log_tail())
        assert not (tmp_path / "begun").exists()
        for name in ("ended", "go"):
            (tmp_path / name).touch()
        assert process.wait(60) == 0
    finally:
        end(process)
    assert result_of(files).status is Status.COMPLETED

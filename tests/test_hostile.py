"""Objectives that misbehave, each under a real worker: what the result says, and that no process outlives its job."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from working import end, left_of, make_job, result_of, run_worker, start_worker, wait_for, wait_until

from hyperpower_runner import processes
from hyperpower_runner.job_files import JobFiles, read_json
from hyperpower_runner.supervision import reported, script_output
from hyperpower_runner.trial import Result, Status

SOON: dict[str, object] = {"supervision.process_tree.TERM_GRACE_S": 0.3}  # as patient as these tests can be

# What scripts begin with: `note()` tells the test of a process that must not outlive the job.
NOTED = """
import json, os, signal, subprocess, sys, time
folder = os.path.dirname(sys.argv[-1])
os.makedirs("pids", exist_ok=True)
def note():
    open(f"pids/{os.getpid()}", "w").close()
def noted():
    return len(os.listdir("pids"))
note()
"""
RESULT = """
print('{"error": 0.5}', flush=True)
"""


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[Any]:
    """Makes a job of a hostile script; when the test is over, nothing that it noted may live."""
    made: list[JobFiles] = []

    def make(script: str, **fields: Any) -> JobFiles:
        files = make_job(tmp_path, "", command=["python", "-S", "train.py"], **fields)
        (tmp_path / "train.py").write_text(NOTED + script)
        made.append(files)
        return files

    yield make
    left = [pid for pid in noted(tmp_path) if processes._ticks(pid) is not None]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
    assert all(left_of(files) == [] for files in made)


def noted(root: Path) -> list[int]:
    return [int(entry.name) for entry in (root / "pids").iterdir()]


HANGS = "time.sleep(600)"
SHRUGS = """
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
time.sleep(600)
"""
STOPS_ITSELF = "os.kill(os.getpid(), signal.SIGSTOP)"


@pytest.mark.parametrize(
    ("script", "exit_code"),
    [(HANGS, -signal.SIGTERM), (SHRUGS, -signal.SIGKILL), (STOPS_ITSELF, -signal.SIGTERM)],
    ids=["hangs", "ignores every signal", "is stopped"],
)
def test_a_script_that_does_not_end_is_ended_at_its_time_limit(hostile: Any, script: str, exit_code: int) -> None:
    result = run_worker(hostile(script, timeout_s=0.7), patches=SOON)
    assert result.status is Status.TIMED_OUT
    assert result.reason == "it ran longer than timeout-s, 0.7 s"
    assert result.exit_code == exit_code


DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    note()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    CLOSES
    os.execve("/bin/sleep", ["innocent", "600"], {})  # which has neither the job's name nor its environment
os.wait()
while noted() < 2:
    time.sleep(0.01)
"""
HOLDS_PIPES, CLOSES_PIPES = DAEMON.replace("CLOSES", "pass"), DAEMON.replace("CLOSES", "os.closerange(0, 3)")
CROWD = """
for _ in range(200):
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
        note()
        time.sleep(600)
while noted() < 401:
    time.sleep(0.01)
"""
STOPPED_CHILD = """
pid = os.fork()
if pid == 0:
    note()
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(pid, os.WUNTRACED)
"""
FLEES = """
if os.fork() == 0:
    until = time.monotonic() + 60
    while time.monotonic() < until:  # is always another process
        if os.fork():
            os._exit(0)
        os.setsid()
    os._exit(0)
"""
TALKS_ON = """
if os.fork() == 0:
    note()
    while True:
        os.write(1, b"not a result\\n" * 1000)
while noted() < 2:
    time.sleep(0.01)
"""


@pytest.mark.parametrize(
    "script",
    [HOLDS_PIPES, CLOSES_PIPES, CROWD, STOPPED_CHILD, FLEES],
    ids=["forks twice", "forks twice and closes all", "400 children", "a stopped child", "another one every moment"],
)
def test_whatever_a_script_leaves_behind_ends_with_it(hostile: Any, tmp_path: Path, script: str) -> None:
    result = run_worker(hostile(script + RESULT))
    assert (result.status, result.metrics["error"]) == (Status.COMPLETED, 0.5)


@pytest.mark.parametrize("script", [HOLDS_PIPES, CROWD, FLEES], ids=["forks twice", "400 children", "flees"])
def test_whatever_a_cancelled_script_started_ends_with_it(hostile: Any, tmp_path: Path, script: str) -> None:
    files = hostile(script + "open('begun', 'w').close(); time.sleep(600)")
    process = start_worker(files, patches=SOON)
    try:
        wait_for(tmp_path / "begun")
        files.stop.write_text("enough\n")
        process.terminate()
        assert process.wait(60) == 0
    finally:
        end(process)
    assert result_of(files).status is Status.CANCELLED


def test_a_child_that_prints_on_when_its_script_has_ended_is_ended(hostile: Any) -> None:
    result = run_worker(hostile(TALKS_ON + RESULT))
    assert result.status is Status.FAILED  # its last line is not a result, whoever printed it
    assert "not a JSON object" in (result.reason or "")


def test_orphans_are_buried_while_the_script_runs(hostile: Any, tmp_path: Path) -> None:
    script = """
for _ in range(50):
    if os.fork() == 0:
        if os.fork() == 0:
            note()
        os._exit(0)
    os.wait()
while noted() < 51:
    time.sleep(0.01)
open('begun', 'w').close()
while not os.path.exists('go'):
    time.sleep(0.01)
"""
    files = hostile(script + RESULT)
    process = start_worker(files, patches={"worker.WATCH_S": 0.05})
    try:
        wait_for(tmp_path / "begun")
        wait_until(lambda: sum(Path(f"/proc/{pid}").exists() for pid in noted(tmp_path)) == 1)
    finally:
        (tmp_path / "go").touch()
        process.wait(60)
        end(process)
    assert result_of(files).status is Status.COMPLETED


# --- whom it kills


def test_a_script_that_kills_its_own_process_group_is_failed(hostile: Any) -> None:
    result = run_worker(hostile("os.killpg(0, signal.SIGKILL)"))
    assert (result.status, result.exit_code) == (Status.FAILED, -signal.SIGKILL)
    assert result.reason == "it was killed by SIGKILL; see its output.log"


KILLS_WORKER = """
if os.path.exists("again"):
    print('{"error": 0.5}')
    sys.exit()
if os.fork() == 0:
    note()
    os.setsid()
    time.sleep(600)
while noted() < 2:
    time.sleep(0.01)
os.kill(os.getppid(), signal.NUMBER)
time.sleep(600)
"""


def test_a_script_that_kills_its_worker_goes_with_it_and_is_tried_again(hostile: Any, tmp_path: Path) -> None:
    files = hostile(KILLS_WORKER.replace("NUMBER", "SIGKILL"))
    process = start_worker(files)
    assert process.wait(60) == -signal.SIGKILL
    assert not files.result.exists()
    claim = read_json(files.attempt(1))
    assert claim is not None
    wait_until(lambda: len([pid for pid in noted(tmp_path) if processes._ticks(pid)]) == 1)  # it was told by the kernel
    assert len(left_of(files)) == 1  # which has a session of its own
    assert processes.kill_remains(claim)  # as a launcher does, before it tries again
    assert left_of(files) == []
    (tmp_path / "again").touch()
    assert run_worker(files, attempt=2).status is Status.COMPLETED


def test_a_script_that_asks_its_worker_to_end_is_ended_and_tried_again(hostile: Any, tmp_path: Path) -> None:
    files = hostile(KILLS_WORKER.replace("NUMBER", "SIGTERM"))
    assert start_worker(files).wait(60) == 143
    assert not files.result.exists()
    (tmp_path / "again").touch()
    assert run_worker(files, attempt=2).status is Status.COMPLETED


# --- what it prints


def test_a_flood_of_output_is_cut_in_the_middle_and_its_length_is_told(hostile: Any) -> None:
    files = hostile("for block in range(600): sys.stdout.write(f'{block:06d} '.ljust(65535, '.') + '\\n')" + RESULT)
    assert run_worker(files).status is Status.COMPLETED
    log = files.output.read_bytes()
    assert len(log) <= script_output.LOG_LIMIT
    note = re.search(rb"\n\[\.\.\. (\d+) bytes left out \.\.\.\]\n", log)
    assert note is not None
    assert note.start() == script_output.LOG_HEAD
    assert len(log) - len(note[0]) + int(note[1]) == 600 * 65536 + len(RESULT) - 1 - len("print('', flush=True)")
    assert log.startswith(b"000000 ....")
    assert log.endswith(b'.\n{"error": 0.5}\n')
    assert b"\n000599 ...." in log


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_flood_without_end_delays_neither_heartbeat_nor_time_limit(hostile: Any, stream: str) -> None:
    files = hostile(f"while True: sys.{stream}.write('x' * 100_000)", timeout_s=1.5)
    process = start_worker(files, patches={"worker.HEARTBEAT_S": 0.1})
    try:
        wait_for(files.heartbeat)
        os.utime(files.heartbeat, (0, 0))
        wait_until(lambda: files.heartbeat.stat().st_mtime > 0)
        process.wait(60)
    finally:
        end(process)
    assert result_of(files).status is Status.TIMED_OUT
    assert files.output.stat().st_size <= script_output.LOG_LIMIT + (1 << 16)


def test_two_lines_of_json_the_last_one_counts(hostile: Any) -> None:
    result = run_worker(hostile('print(\'{"error": 0.1, "first": 1}\'); print(\'{"error": 0.2}\')'))
    assert (result.status, result.metrics["error"]) == (Status.COMPLETED, 0.2)
    assert "first" not in result.metrics


def test_a_script_that_says_nothing_is_failed(hostile: Any) -> None:
    result = run_worker(hostile("sys.exit(0)"))
    assert (result.status, result.exit_code) == (Status.FAILED, 0)
    assert "it printed nothing" in (result.reason or "")


def test_a_script_that_closes_its_output_is_waited_for(hostile: Any, tmp_path: Path) -> None:
    result = run_worker(hostile("os.closerange(0, 3); time.sleep(0.7); open('end', 'w').close(); os._exit(0)"))
    assert result.status is Status.FAILED
    assert "it printed nothing" in (result.reason or "")
    assert (tmp_path / "end").exists()


LONG_LINE = "print(json.dumps({'error': 0.1, 'curve': [0.5] * 2_500_000}))"
MUCH = "print(json.dumps({'error': 0.1, 'curve': [0.5] * 50_000, 'kept': 7}))"
MANY = "print(json.dumps({**{f'm{n}': n for n in range(3000)}, 'error': 0.1}))"
LONG_NAME = "print(json.dumps({'error': 0.1, 'm' * 5000: 3}))"
NESTED = "print('{\"error\": 0.1, \"deep\": ' + '[' * 900 + ']' * 900 + '}')"
TOO_NESTED = "print('{\"error\": 0.1, \"deep\": ' + '[' * 90_000 + ']' * 90_000 + '}')"
NESTED_ERROR = "print('{\"error\": ' + '[' * 900 + ']' * 900 + '}')"
HUGE = "print('{\"error\": 0.1, \"n\": ' + '9' * 4000 + '}')"
TOO_HUGE = "print('{\"error\": 0.1, \"n\": ' + '9' * 9000 + '}')"
TWICE = 'print(\'{"error": 0.9, "error": 0.1}\')'
ODD = "print(json.dumps({'error': 0.1, '\\ud800': '\\ud800', '': None, 'a': float('nan'), 'b': float('-inf')}))"


@pytest.mark.parametrize(
    ("script", "status", "part"),
    [
        (LONG_LINE, Status.FAILED, f"longer than {1 << 20} bytes"),
        (MUCH, Status.COMPLETED, "250011 bytes of other values than numbers"),
        (MANY, Status.COMPLETED, "2001 of 3001 metrics"),
        (LONG_NAME, Status.COMPLETED, "1 of 2 metrics"),
        (NESTED, Status.COMPLETED, ""),
        (TOO_NESTED, Status.FAILED, "not a JSON object"),
        (NESTED_ERROR, Status.FAILED, "which is not a finite number"),
        (HUGE, Status.COMPLETED, ""),
        (TOO_HUGE, Status.FAILED, "not a JSON object"),
        (TWICE, Status.COMPLETED, ""),
        (ODD, Status.COMPLETED, ""),
    ],
    ids=[
        *("10 MB", "250 kB", "3000 metrics", "long name", "nested", "too nested", "nested error", "huge", "too huge"),
        *("twice", "odd"),
    ],
)
def test_whatever_it_reports_there_is_a_result_of_bounded_size(
    hostile: Any, script: str, status: Status, part: str
) -> None:
    files = hostile(script)
    result = run_worker(files)
    assert result.status is status
    assert part in (result.reason or "") + json.dumps(result.extra)
    assert "Traceback" not in files.output.read_bytes()[-8192:].decode(errors="replace")
    assert files.result.stat().st_size < 2 * reported.LONGEST_EXTRA
    if status is Status.COMPLETED:
        assert result.metrics["error"] == 0.1
        assert len(result.metrics) <= reported.MOST_METRICS + 1  # with duration_s
    if script == MUCH:
        assert result.metrics["kept"] == 7
    if script == ODD:
        assert (result.metrics["a"], result.metrics["b"], result.metrics[""]) == (None, None, None)


# --- what it writes


def test_a_script_that_fills_its_folder_is_completed(hostile: Any) -> None:
    script = "for n in range(3000): open(f'{folder}/{n}', 'w').close()"
    assert run_worker(hostile(script + RESULT)).status is Status.COMPLETED


def test_a_script_that_deletes_its_log_is_completed(hostile: Any) -> None:
    script = "os.unlink(f'{folder}/output.log'); open(f'{folder}/output.log', 'w').write('mine')\n"
    files = hostile(script + "for _ in range(20): sys.stdout.write('x' * 1_000_000 + '\\n')" + RESULT)
    assert run_worker(files).status is Status.COMPLETED
    assert files.output.read_text() == "mine"


CHANCE = {"error": 0.9, "loss": 2.3}
DIVERGED = {"error": 0.9, "loss": "NaN"}
ODD_EPOCHS: list[Any] = ["1", True, None, [1], {}, "NaN", "Infinity", 10**400]


@pytest.mark.parametrize(
    ("points", "terminated", "epoch"),
    [
        ([{"id": 2, "epoch": 1, **DIVERGED}], None, None),
        ([{"id": 1, "epoch": 1, **DIVERGED}], "the loss became nan", 1),
        ([{"epoch": -5, **CHANCE}, {"epoch": -4, **CHANCE}], "at chance level", -4),  # counts from its first
        ([{"epoch": 1, **CHANCE}, {"epoch": 1e12, **CHANCE}], "at chance level", 1e12),  # it is taken at its word
        ([{"epoch": 1e308, **CHANCE}, {"epoch": -1e308, **CHANCE}], None, -1e308),
        ([{"epoch": -1e308, **CHANCE}, {"epoch": 1e308, **CHANCE}], "at chance level", 1e308),
        ([{"epoch": 3, **CHANCE}, {"epoch": 2, **CHANCE}, {"epoch": 1, **CHANCE}], None, 1),  # backwards: no training
        ([{"epoch": 2, **CHANCE}, {"epoch": 1, **CHANCE}, {"epoch": 3, **CHANCE}], "at chance level", 3),
        ([{"epoch": 1, **CHANCE}] * 9, None, 1),
        ([{"epoch": odd, **DIVERGED} for odd in ODD_EPOCHS], None, None),
        ([{**DIVERGED}], None, None),
        ([{"epoch": 1, "error": "low", "loss": [2]}, {"epoch": 2, "error": True, "loss": "2.3"}], None, 2),
        ([{"epoch": 1, "loss": 10**400}], "the loss became inf", 1),
        ([[1], 3, "x", None, {"epoch": 4}], None, 4),
    ],
)
def test_what_becomes_of_odd_progress(hostile: Any, points: list[Any], terminated: str | None, epoch: Any) -> None:
    lines = "".join(json.dumps(point) + "\n" for point in points) + '{"epoch": 9, "loss": NaN'  # torn
    files = hostile(f"open(f'{{folder}}/progress.jsonl', 'w').write({lines!r})" + RESULT, stopping_rule={"classes": 10})
    result = run_worker(files)
    assert result.status is (Status.TERMINATED if terminated else Status.COMPLETED)
    assert (terminated or "") in (result.reason or "")
    assert result.epoch == epoch
    assert result.metrics["error"] == 0.5
    assert files.output.read_text() == RESULT[len("\nprint('") : -len("', flush=True)\n")] + "\n"


FLOODED = """
line = json.dumps({"epoch": 1, "error": 0.9, "loss": 2.3}) + "\\n"
with open(f"{folder}/progress.jsonl", "w") as file:
    for _ in range(40):
        file.write(line * 25_000)
"""


def test_a_flood_of_progress_is_read_in_part_and_said_so(hostile: Any) -> None:
    files = hostile(FLOODED + RESULT, stopping_rule={"classes": 10})
    result = run_worker(files)
    assert result.status is Status.COMPLETED
    assert result.epoch == 1
    assert files.output.read_text().count("progress.jsonl: is too long") == 1


# --- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Write until nothing more goes in."""
    path = disk / "filler"
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return path


FILLS = """
def fill():
    file = os.open("filler", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(file, b"x" * 4096)
    except OSError:
        os.close(file)
"""


def wait_for_line(path: Path, part: str) -> None:
    wait_until(lambda: part in path.read_text())


def job_on(disk: Path, script: str) -> JobFiles:
    return make_job(disk, NOTED + FILLS + script, command=["python", "-S", "train.py"])


def test_a_worker_waits_for_room_to_claim_its_job(small_disk: Path, tmp_path: Path) -> None:
    files, log = job_on(small_disk, RESULT), tmp_path / "log"
    filler = fill(small_disk)
    process = start_worker(files, log_file=log)
    try:
        wait_for_line(log, "No space left on device")
        assert files.last_attempt() == 0
        freed_s = time.time()
        filler.unlink()
        assert process.wait(60) == 0
    finally:
        end(process)
    assert result_of(files).status is Status.COMPLETED
    assert result_of(files).started_s >= freed_s  # the wait was no part of the job
    assert log.read_text().count("waiting for better times") == 1


def test_no_training_is_lost_to_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    script = "open('trainings', 'a').write('x')\nfill()" + RESULT
    files, log = job_on(small_disk, script), tmp_path / "log"
    process = start_worker(files, log_file=log, patches={"worker.HEARTBEAT_S": 0.1})
    try:
        wait_for_line(log, "No space left on device")
        os.utime(files.heartbeat, (0, 0))
        wait_until(lambda: files.heartbeat.stat().st_mtime > 0)  # it lives
        assert not files.result.exists()
        (small_disk / "filler").unlink()
        assert process.wait(60) == 0
    finally:
        end(process)
    result = result_of(files)
    assert (result.status, result.metrics["error"]) == (Status.COMPLETED, 0.5)
    assert (small_disk / "trainings").read_text() == "x"
    assert left_of(files) == []


def test_a_worker_that_waits_for_room_can_be_told_to_end(small_disk: Path, tmp_path: Path) -> None:
    files, log = job_on(small_disk, "fill()" + RESULT), tmp_path / "log"
    process = start_worker(files, log_file=log)
    try:
        wait_for_line(log, "No space left on device")
        process.terminate()
        assert process.wait(60) == 143
    finally:
        end(process)
    assert not files.result.exists()
    assert "told to end by SIGTERM" in log.read_text()


def test_a_worker_that_waits_for_room_and_was_given_up_goes_home(small_disk: Path, tmp_path: Path) -> None:
    files, log = job_on(small_disk, "fill()" + RESULT), tmp_path / "log"
    process = start_worker(files, log_file=log)
    try:
        wait_for_line(log, "No space left on device")
        files.attempt(2).touch()  # an empty file needs no room
        assert process.wait(60) == 0
    finally:
        end(process)
    assert not files.result.exists()


def test_a_log_that_cannot_be_written_costs_no_training(small_disk: Path) -> None:
    script = "fill()\nfor _ in range(100): print('x' * 10_000)\nos.unlink('filler')" + RESULT
    files = job_on(small_disk, script)
    assert run_worker(files).status is Status.COMPLETED


def test_a_point_of_the_curve_that_cannot_be_written_costs_no_training(small_disk: Path, tmp_path: Path) -> None:
    script = """
from hyperpower_runner import objective
def evaluate(job):
    fill()
    for epoch in range(100):
        job.report(epoch=epoch, error=0.5, loss=1 / (epoch + 1))
        if job.should_stop():
            raise SystemExit(3)
    os.unlink("filler")
    job.report(epoch=100, error=0.5)
    return 0.5
objective.run(evaluate)
"""
    files = make_job(small_disk, NOTED + FILLS + script, stopping_rule={"classes": 10})
    log = tmp_path / "log"
    process = start_worker(files, log_file=log)
    try:
        assert process.wait(60) == 0
    finally:
        end(process)
    result = Result.from_json(read_json(files.result) or {})
    assert (result.status, result.epoch) == (Status.COMPLETED, 100)
    assert log.read_text().count("warning: ") == 1
    assert "progress.jsonl: points are left out ([Errno 28]" in log.read_text()

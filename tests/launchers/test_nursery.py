"""The process that forks workers: it answers, outlives mistakes, ends with its driver, and is replaced when killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from searching import make_experiment

from hyperpower_runner import processes
from hyperpower_runner.errors import LaunchError
from hyperpower_runner.job_files import JobFiles, read_json
from hyperpower_runner.launchers import WorkerState
from hyperpower_runner.launchers.local import LocalLauncher
from hyperpower_runner.trial import Job

Nursery = subprocess.Popen[bytes]


def until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.01)


def job_in(root: Path, job_id: int, script: str) -> JobFiles:
    experiment = make_experiment(root)
    experiment.write_job(Job(job_id=job_id, params={}, seed=0, command=["python", "-c", script]))
    return experiment.job_files(job_id)


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    words = [sys.executable, "-m", "hyperpower_runner.launchers.nursery", str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        yield process


def ask(nursery: Nursery, job_id: str, attempt: int = 1) -> dict[str, Any]:
    assert nursery.stdin
    assert nursery.stdout
    nursery.stdin.write(json.dumps({"job": job_id, "attempt": attempt}).encode() + b"\n")
    nursery.stdin.flush()
    answer: dict[str, Any] = json.loads(nursery.stdout.readline())
    return answer


def test_a_worker_is_a_process_of_its_own(tmp_path: Path, nursery: Nursery) -> None:
    script = "import os, time\nprint('hello')\nopen('held', 'w').close()\nwhile os.path.exists('held'): time.sleep(.01)"
    files = job_in(tmp_path, 1, script)
    identity = ask(nursery, "000001")
    assert processes.is_alive(identity) is True
    until((tmp_path / "held").exists)
    claim = read_json(files.attempt(1))
    assert claim is not None
    assert (claim["pid"], claim["start_ticks"]) == (identity["pid"], identity["start_ticks"])
    assert os.getsid(identity["pid"]) == identity["pid"] != os.getsid(nursery.pid)
    assert Path(f"/proc/{identity['pid']}/comm").read_text() == "hp-job-000001\n"
    held = {entry.readlink() for entry in Path(f"/proc/{identity['pid']}/fd").iterdir()}
    pipes = {Path(f"/proc/{nursery.pid}/fd/{number}").readlink() for number in (0, 1)}
    assert not held & pipes  # else nobody could see that the nursery has gone
    (tmp_path / "held").unlink()
    until(files.result.exists)
    assert "hello" in files.output.read_text()
    until(lambda: processes.is_alive(identity) is False)


def test_signals_have_their_usual_meaning_in_scripts(tmp_path: Path, nursery: Nursery) -> None:
    script = (
        "import json, signal, subprocess\n"
        "ignored = [n for n in (2, 15, 17, 1, 13) if signal.getsignal(n) is signal.SIG_IGN and n != 13]\n"
        "print(json.dumps({'error': len(ignored) + subprocess.run(['false']).returncode}))"
    )
    files = job_in(tmp_path, 1, script)
    ask(nursery, "000001")
    until(files.result.exists)
    assert (read_json(files.result) or {})["metrics"]["error"] == 1.0


def test_a_mistake_in_a_worker_harms_no_other(tmp_path: Path, nursery: Nursery) -> None:
    files = job_in(tmp_path, 2, "print('{\"error\": 0.5}')")
    ask(nursery, "000001")  # has no folder, so no log either
    ask(nursery, "000002")
    until(files.result.exists)
    assert nursery.poll() is None


def test_it_ends_with_its_driver_and_its_workers_go_on(tmp_path: Path, nursery: Nursery) -> None:
    files = job_in(tmp_path, 1, "import time\ntime.sleep(0.5)\nprint('{\"error\": 0.5}')")
    identity = ask(nursery, "000001")
    assert nursery.stdin
    nursery.stdin.close()
    assert nursery.wait() == 0
    assert processes.is_alive(identity) is True
    until(files.result.exists)


def test_ctrl_c_is_meant_for_the_driver(nursery: Nursery, tmp_path: Path) -> None:
    ask(nursery, "000001")  # it has begun
    nursery.send_signal(signal.SIGINT)
    ask(nursery, "000001")
    assert nursery.poll() is None


def test_a_killed_nursery_is_replaced(tmp_path: Path) -> None:
    launcher = LocalLauncher()
    first = job_in(tmp_path, 1, "import time; time.sleep(600)")
    launcher.submit(first, 1)
    until(lambda: first.last_attempt())
    worker = (read_json(first.attempt(1)) or {})["pid"]
    os.kill(parent_of(worker), signal.SIGKILL)
    assert launcher.poll({1: first}, 0)[1] is WorkerState.ALIVE
    second = job_in(tmp_path, 2, "print('{\"error\": 0.5}')")
    launcher.submit(second, 1)
    until(second.result.exists)
    launcher.cancel(first, "end of the test")
    until(lambda: launcher.poll({1: first}, 0.05)[1] is WorkerState.GONE)


def test_a_nursery_is_made_while_the_driver_reads_its_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = job_in(tmp_path, 1, "print('{\"error\": 0.5}')")
    launcher = LocalLauncher(root=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", no_memory)  # no other one can be made
        launcher.submit(files, 1)
        early = LocalLauncher(root=tmp_path)  # it is told where a worker is wanted, and not before
        with pytest.raises(LaunchError, match="Cannot allocate memory"):
            early.submit(files, 2)
    until(files.result.exists)


def no_memory(*_: object, **__: object) -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])

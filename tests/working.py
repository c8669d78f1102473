"""One job and its worker, as a launcher starts it, and what is seen of the processes that it leaves."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyperpower_runner import processes
from hyperpower_runner.job_files import JobFiles, read_json, write_json
from hyperpower_runner.trial import Job, Result

PATIENCE_S = 60.0  # of these tests, with a machine that is busy

PATCHED = """
import importlib, sys
from pathlib import Path
from hyperpower_runner import worker
for name, value in {patches!r}.items():
    module, _, constant = name.rpartition(".")
    module = importlib.import_module("hyperpower_runner." + module)
    assert hasattr(module, constant), name
    setattr(module, constant, value)
{before}
sys.exit(worker.main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
"""


def make_job(root: Path, script: str, *, command: list[str] | None = None, **fields: Any) -> JobFiles:
    """A job whose objective is the given Python script."""
    files = JobFiles(root / "jobs" / "000001")
    files.folder.mkdir(parents=True)
    (root / "train.py").write_text(textwrap.dedent(script))
    job = Job(job_id=1, params={"x": 0.5}, seed=1, command=command or ["python", "train.py"], **fields)
    write_json(files.job, job.to_json())
    return files


def start_worker(
    files: JobFiles,
    attempt: int = 1,
    patches: dict[str, object] | None = None,
    before: str = "",
    log_file: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a worker in a session of its own; its stdout and stderr are output.log, or else `log_file`.

    patches: constants by module and name, such as {"worker.WATCH_S": 0.1}. before: code that it runs before it begins.
    """
    words = [str(files.folder.parent.parent), files.folder.name, str(attempt)]
    how = ["-m", "hyperpower_runner.worker"]
    if patches or before:
        how = ["-c", PATCHED.format(patches=patches or {}, before=before)]
    with (log_file or files.output).open("ab") as log:
        command = [sys.executable, *how, *words]
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


def run_worker(files: JobFiles, attempt: int = 1, patches: dict[str, object] | None = None, before: str = "") -> Result:
    """Run a worker to its end; returns its result."""
    process = start_worker(files, attempt, patches, before)
    try:
        process.wait(PATIENCE_S)
    finally:
        end(process)
    return result_of(files)


def result_of(files: JobFiles) -> Result:
    content = read_json(files.result)
    assert content is not None, files.log_tail()
    return Result.from_json(content)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a worker that a failed test left, and what it started."""
    identity = processes.identity(process.pid)
    if process.poll() is None:
        process.kill()
        process.wait()
        processes.kill_remains(identity)


def wait_until(condition: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at, "nothing has happened"
        time.sleep(0.01)


def wait_for(path: Path) -> None:
    wait_until(path.exists)


def left_of(files: JobFiles) -> list[int]:
    """The living processes of a job: with the mark of one of its workers, or with their place in its experiment."""
    marks, attempt = [], 1
    while (claim := read_json(files.attempt(attempt))) is not None:
        marks.append(f"{processes.WORKER_VARIABLE}={processes.mark_of(claim)}".encode())
        attempt += 1
    root, found = files.folder.parent.parent.resolve(), []
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            if any(mark in environment for mark in marks) or (entry / "cwd").readlink() == root:
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found

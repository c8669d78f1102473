"""What the tests of faults see of a search that was killed, starved or moved: by its files and /proc, and nothing else.

Files are read with json only, and processes by what the kernel says of them, so that none of it can share a mistake
with the package. `Drivers` is the client of faulty.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faulty
from faulty import Fault
from searching import make_experiment, write_models

from hyperpower_runner.experiment import Experiment

PATIENCE_S = 60.0
TEMPORARY = re.compile(r"\..+\.([0-9a-f]{12}|new)")

# Says when it begins and ends, and whether an earlier run of its job lives. Fast to start: python -S, few imports.
WITNESS = r"""
    import json, os, sys, time, zlib
    path = sys.argv[-1]
    job = json.load(open(path))
    attempt = sum(name.startswith("attempt-") for name in os.listdir(os.path.dirname(path)))

    def ticks(pid):
        try:
            fields = open(f"/proc/{pid}/stat").read().rpartition(") ")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]

    def say(word, *more):
        line = " ".join(map(str, (word, job["id"], attempt, os.getpid(), ticks(os.getpid()), *more)))
        file = os.open("runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, (line + "\n").encode())
        os.close(file)

    say("begin")
    for line in open("runs"):
        word, number, _, pid, begun = line.split()[:5]
        if word == "begin" and int(number) == job["id"] and int(pid) != os.getpid() and ticks(pid) == begun:
            say("overlap", pid)
    if job["id"] % 4 == 0 and os.environ.get("STRAYS") and os.fork() == 0:  # would outlive its job, if it were let
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    time.sleep(zlib.crc32(f"{job['id']} {attempt}".encode()) % 300 / 1000 * float(os.environ.get("PACE", 1)))
    print(json.dumps({"error": job["params"]["x"]}))
    sys.stdout.flush()
    say("end")
"""


def witnessed(root: Path, **changes: Any) -> Experiment:
    """An experiment whose jobs are predicted by a model, and whose script says in `runs` when it begins and ends."""
    more = {"constraints": {"power_w": 10}, "max-retries": 100, "max-consecutive-failures": 1000, "seed": 5}
    experiment = make_experiment(root, WITNESS, **{**more, **changes})
    write_models(experiment, power_w={"form": "paper", "weights": {"n": 0.4}})
    return experiment


# --- processes


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def living(root: Path) -> Iterator[tuple[int, list[str]]]:
    """The processes that have to do with a directory, by command line, environment or place, with their command."""
    name = str(root.resolve())
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        command = [os.fsdecode(word) for word in _read(entry / "cmdline").split(b"\0")[:-1]]
        place = ""
        with contextlib.suppress(OSError):
            place = str((entry / "cwd").readlink())
        texts = [*command, place, *(os.fsdecode(each) for each in _read(entry / "environ").split(b"\0"))]
        state = _read(entry / "stat").rpartition(b") ")[2][:1]
        if state not in (b"", b"Z", b"X") and any(name in text for text in texts):
            yield int(entry.name), command


def victims(root: Path) -> dict[str, list[int]]:
    """The living processes of a search, by what they are."""
    found: dict[str, list[int]] = {"nursery": [], "worker": [], "script": []}
    for pid, command in living(root):
        name = _read(Path(f"/proc/{pid}/comm")).decode(errors="replace")
        if name.startswith("hp-job"):
            fields = _read(Path(f"/proc/{pid}/stat")).rpartition(b") ")[2].split()
            if fields and int(fields[3]) == pid:  # else it is about to become the script
                found["worker"].append(pid)
        elif "nursery" in " ".join(command[1:3]):
            found["nursery"].append(pid)
        elif command and command[-1].endswith("/job.json"):
            found["script"].append(pid)
    return found


def wait_until(condition: Callable[[], object], what: str = "it never happened") -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at, what
        time.sleep(0.01)


def end_all(root: Path) -> None:
    """End whatever a test left of a search."""
    for _ in range(20):
        left = [pid for pid, _ in living(root)]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            return
        time.sleep(0.05)


def assert_nothing_lives(root: Path) -> None:
    """Nursery and workers of a driver end soon after it."""
    wait_until(lambda: not list(living(root)), f"processes of {root} live on")


# --- files


def text_of(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


@dataclass
class Account:
    """The jobs of a directory, by their ids, as their files have them."""

    root: Path
    jobs: dict[int, dict[str, Any]] = field(default_factory=dict)
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    discarded: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path) -> Account:
        account = cls(root)
        for folder in sorted((root / "jobs").glob("[0-9]*")):
            job_id = int(folder.name)
            for name, found in (("job.json", account.jobs), ("result.json", account.results)):
                if (folder / name).exists():
                    found[job_id] = json.loads((folder / name).read_text())
                    assert found[job_id]["id"] == job_id
            numbers = sorted(int(path.stem.partition("-")[2]) for path in folder.glob("attempt-*.json"))
            assert numbers == list(range(1, len(numbers) + 1)), folder
            account.attempts[job_id] = len(numbers)
        for line in text_of(root / "rejected.jsonl").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                content = json.loads(line)
                account.discarded[content["id"]] = content["discarded"]
        return account

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(result["status"] for result in self.results.values()))

    @property
    def asked(self) -> dict[int, tuple[Any, ...]]:
        """What each job was to evaluate."""
        return {job_id: (job["params"], job["seed"], job["predictions"]) for job_id, job in self.jobs.items()}

    @property
    def found(self) -> dict[int, tuple[Any, ...]]:
        """What each evaluation came to."""
        return {job_id: (each["status"], each["metrics"].get("error")) for job_id, each in self.results.items()}

    def assert_whole(self, evaluations: int, most_attempts: int) -> None:
        """Every job was started, and has ended; none twice."""
        expected = list(range(1, evaluations + 1))
        assert sorted(self.jobs) == sorted(self.results) == sorted(self.attempts) == expected
        assert max(self.attempts.values()) <= most_attempts

    def assert_as(self, twin: Account) -> None:
        """The same search: what was asked, what it came to, and what was discarded on the way."""
        assert self.asked == twin.asked
        assert self.found == twin.found
        assert self.discarded == twin.discarded


def assert_no_run_overlapped(root: Path) -> None:
    """No run of a job began while another run of it lived; each completed job has the end of a run."""
    lines = [line.split() for line in text_of(root / "runs").splitlines()]
    assert not [line for line in lines if line[0] == "overlap"]
    begun = Counter((line[1], line[3], line[4]) for line in lines if line[0] == "begin")
    assert max(begun.values(), default=1) == 1
    for job_id, result in Account.of(root).results.items():
        if result["status"] == "completed":
            ends = [line for line in lines if line[0] == "end" and int(line[1]) == job_id]
            assert ends, f"nobody ran job {job_id} to its end"


def temporary_files(root: Path) -> list[Path]:
    return [path for path in root.rglob(".*") if TEMPORARY.fullmatch(path.name)]


class Results:
    """The results that were seen on disk: one that was seen never changes and never goes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._seen: dict[Path, tuple[bytes, int, int]] = {}

    def look(self) -> None:
        """See what is new, and that what was seen before is as it was."""
        for path in (self.root / "jobs").glob("*/result.json"):
            found = path.stat()
            self._seen.setdefault(path, (path.read_bytes(), found.st_mtime_ns, found.st_ino))
        for path, before in self._seen.items():
            now = path.stat()
            assert (path.read_bytes(), now.st_mtime_ns, now.st_ino) == before, path


# --- drivers


class Drivers:
    """Runs commands in forks of a process that has imported the package: see faulty.py."""

    def __init__(self, folder: Path, **environment: str) -> None:
        environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1", **environment}
        command = [sys.executable, faulty.__file__]
        self._process = subprocess.Popen(  # unbuffered, as an answer that is read ahead would not wake `select`
            command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"
        self.pid = 0

    def start(self, fault: Fault, *words: str | Path) -> None:
        """Begin a command, such as "run"; the pid of its process is known then."""
        assert self._process.stdin is not None
        self.stdout.write_text("")
        self.stderr.write_text("")
        request = {"fault": json.loads(fault.to_json()), "words": [str(word) for word in words]}
        request.update(stdout=str(self.stdout), stderr=str(self.stderr))
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        while "pid" not in (answer := self._answer()):  # the end of a command that a failed test left
            pass
        self.pid = answer["pid"]

    def wait(self) -> int:
        """The exit code of the command that was begun, negative for a signal."""
        code: int = self._answer()["code"]
        assert "Traceback" not in self.said, self.said
        return code

    def run(self, fault: Fault, *words: str | Path) -> int:
        self.start(fault, *words)
        return self.wait()

    def complete(self, fault: Fault, *words: str | Path) -> str:
        """Run a command which must succeed; returns what it printed."""
        code = self.run(fault, *words)
        assert code == 0, self.said
        return text_of(self.stdout)

    @property
    def said(self) -> str:
        """What the last command wrote to stderr."""
        return text_of(self.stderr)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE_S)
        assert ready, f"process {self.pid} has not ended: {self.said}"
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def end(self) -> None:
        """End the process that forks; a command that a failed test left is found by its directory, see `end_all`."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

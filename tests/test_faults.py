"""Searches that are killed, starved, moved and tampered with while they run go on, and lose and double nothing."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from faults import (
    Account,
    Drivers,
    Results,
    assert_no_run_overlapped,
    assert_nothing_lives,
    end_all,
    temporary_files,
    text_of,
    victims,
    wait_until,
    witnessed,
)
from faulty import Fault
from searching import Recorder, command_line, drive, make_experiment, run_command

from hyperpower_runner.summary import Summary

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system shows no processes in /proc")
ATTEMPTS = 101  # max-retries of `witnessed`, and the first
KILLS = 30  # in each of the searches below


# --- random kills


@dataclass(frozen=True)
class Assault:
    """A search, and who in it is killed: the kinds of victims, as often as they stand in `kinds`."""

    method: str
    max_concurrent: int
    kinds: tuple[str, ...]
    strays: bool = False  # whether some scripts leave a process that fled from them


EVERYBODY = ("driver", "nursery", *["worker"] * 4, *["script"] * 4)
NO_SCRIPTS = ("driver", "nursery", *["worker"] * 5)  # a killed script is a failed job, which rand-walk reacts to
ASSAULTS = [
    Assault("rand", 1, EVERYBODY),
    Assault("rand", 1, EVERYBODY, strays=True),
    Assault("rand", 1, NO_SCRIPTS, strays=True),
    Assault("rand", 1, ("driver", "driver", "worker")),
    Assault("rand", 3, EVERYBODY),
    Assault("rand", 3, EVERYBODY, strays=True),
    Assault("rand", 3, NO_SCRIPTS),
    Assault("rand", 3, ("nursery", "nursery", "worker", "script", "driver")),
    Assault("rand-walk", 1, NO_SCRIPTS),
    Assault("rand-walk", 1, NO_SCRIPTS, strays=True),
    Assault("rand-walk", 3, EVERYBODY),
]


class Siege:
    """One search under assault: its driver is killed and started again, and what the driver started is killed too."""

    def __init__(self, root: Path, assault: Assault, rng: random.Random) -> None:
        self.root = root
        self.assault = assault
        self.rng = rng
        self.evaluations = 6
        self.kills: Counter[str] = Counter()
        self.results = Results(root)
        self._driver: subprocess.Popen[bytes] | None = None
        self._log = root.parent / "driver.log"
        strays = {"STRAYS": "1"} if assault.strays else {}
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **strays}

    def go_on(self) -> None:
        """See that there is a driver; a search that has come to its end gets a larger budget."""
        code = self._driver.poll() if self._driver is not None else None
        if code is not None and self._is_complete(code):
            Account.of(self.root).assert_whole(self.evaluations, ATTEMPTS)
            self.evaluations += 6
        if self._driver is None or code is not None:
            self._start()

    def _start(self) -> None:
        command = command_line("run", self.root, "--evaluations", str(self.evaluations))
        with self._log.open("ab") as log:
            self._driver = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)

    def _is_complete(self, code: int) -> bool:
        """Whether the driver ended because the search had; it may end otherwise only where somebody was killed."""
        *_, last = ["", *text_of(self._log).splitlines()]
        if code == 0 or (code == 1 and last.startswith("error: The budget of ")):  # where all jobs have failed
            return True
        bereft = code == 1 and last.endswith("(the process that forks workers has ended)") and self.kills["nursery"] > 1
        assert code == -signal.SIGKILL or bereft, text_of(self._log)
        return False

    def kill_one(self) -> None:
        """Kill somebody who is there; a driver mostly after its start, which is long, and in which nothing happens."""
        kind = self.rng.choice(self.assault.kinds)
        assert self._driver is not None
        if kind == "driver":
            if self._works() or self.rng.random() < 0.1:
                self._driver.kill()
                self.kills[kind] += self._driver.wait() == -signal.SIGKILL
                Account.of(self.root)  # what it reads is whole
            return
        found = sorted(victims(self.root)[kind])
        if found:
            self.kills[kind] += kill(self.rng.choice(found))

    def _works(self) -> bool:
        assert self._driver is not None
        try:
            pid = json.loads((self.root / "state" / "driver.json").read_text())["pid"]
        except FileNotFoundError:
            return False
        return self._driver.poll() is None and pid == self._driver.pid

    def end(self) -> None:
        """Let the search come to its end."""
        self.go_on()
        while self._driver is not None and not self._is_complete(self._driver.wait()):
            self._start()
        assert "Traceback" not in text_of(self._log), text_of(self._log)


@pytest.mark.parametrize("number", range(len(ASSAULTS)))
def test_a_search_survives_random_kills(
    folder: Path, number: int, record_property: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seed fixes the schedule of kills, not the interleaving: how far each process is by then, the machine says."""
    assault, rng = ASSAULTS[number], random.Random(number)
    changes = {"method": assault.method, "max-concurrent": assault.max_concurrent, "budget": {}}
    experiment = witnessed(folder / "killed", **changes)
    siege = Siege(experiment.root, assault, rng)
    give_up_at = time.monotonic() + 240
    while siege.kills.total() < KILLS:
        assert time.monotonic() < give_up_at, siege.kills
        siege.go_on()
        time.sleep(rng.expovariate(1 / 0.05))
        siege.kill_one()
        siege.results.look()
    siege.end()
    siege.results.look()
    record_property("kills", dict(siege.kills))

    found = Account.of(experiment.root)
    found.assert_whole(siege.evaluations, ATTEMPTS)
    allowed = {"completed", "failed"} if "script" in assault.kinds else {"completed"}
    assert set(found.counts) <= allowed, found.counts
    assert_no_run_overlapped(experiment.root)
    assert_nothing_lives(experiment.root)
    assert len(temporary_files(experiment.root)) <= KILLS
    told = json.loads(run_command("status", experiment.root, "--json").stdout)["counts"]
    assert told == {**dict.fromkeys(told, 0), **found.counts, "rejected": sum(found.discarded.values())}
    if assault.method == "rand" or (assault.max_concurrent == 1 and "script" not in assault.kinds):
        monkeypatch.setenv("PACE", "0")
        twin = witnessed(folder / "twin", **{**changes, "budget": {"evaluations": siege.evaluations}})
        drive(twin)
        undisturbed = Account.of(twin.root)
        assert found.asked == undisturbed.asked
        assert found.discarded == undisturbed.discarded
    print(f"{dict(siege.kills)} in {siege.evaluations} jobs, {sum(found.attempts.values())} attempts")


def kill(pid: int) -> bool:
    """Kill a process; False where it had ended by itself."""
    try:
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
    except ProcessLookupError:
        return False
    return True


def test_the_searches_above_are_killed_three_hundred_times() -> None:
    assert KILLS * len(ASSAULTS) >= 300


# --- a disk without room


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    path = tmp_path / "disk"
    path.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no program `mount`, with which this test makes a small disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        end_all(path)
        subprocess.run(["umount", "--lazy", str(path)], check=True)


class Ballast:
    """A file that takes all the room there is, and gives some of it back, page by page."""

    def __init__(self, disk: Path) -> None:
        self.path = disk / "ballast"
        self.fill()

    def fill(self) -> None:
        with self.path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)

    def give_way(self, pages: int = 1) -> None:
        os.truncate(self.path, max(0, self.path.stat().st_size - pages * 4096))


def start(root: Path, log: Path, *words: str | Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start `run` on a directory; what it says is added to the log."""
    variables = {**os.environ, "NO_COLOR": "1", **environment}
    with log.open("ab") as file:
        return subprocess.Popen(command_line("run", root, *words), stdout=file, stderr=file, env=variables)


def twin_of(folder: Path, **changes: Any) -> Account:
    """A search like that of `witnessed`, to which nothing happens."""
    drive(witnessed(folder / "twin", **changes))
    return Account.of(folder / "twin")


def test_a_search_waits_for_room_on_a_full_disk_and_goes_on(folder: Path, disk: Path) -> None:
    """The disk is full, but for a page now and then, until the driver meets it; also while another driver comes."""
    changes = {"budget": {"evaluations": 8}}
    root, log = witnessed(disk / "search", **changes).root, folder / "log"
    driver = start(root, log)
    wait_until((root / "jobs" / "000001" / "attempt-1.json").exists)
    ballast = Ballast(disk)
    give_up_at = time.monotonic() + 60
    while "No space left on device; waiting for better times" not in text_of(log):
        assert time.monotonic() < give_up_at, text_of(log)
        ballast.give_way()  # who gets it, worker or driver, gets one step further
        time.sleep(0.1)
        ballast.fill()
    assert driver.poll() is None
    os.truncate(ballast.path, 0)
    assert driver.wait(60) == 0
    assert 'The search goes on: "No space left on device" has passed.' in text_of(log)
    assert "Traceback" not in text_of(log)
    found = Account.of(root)
    found.assert_whole(8, 1)
    found.assert_as(twin_of(folder, **changes))


def test_a_worker_keeps_its_result_until_there_is_room_though_its_driver_is_killed(folder: Path, disk: Path) -> None:
    changes = {"budget": {"evaluations": 2}}
    root, log = witnessed(disk / "search", **changes).root, folder / "log"
    driver = start(root, log)
    wait_until(lambda: "begin 1" in text_of(root / "runs"))
    ballast = Ballast(disk)
    driver.kill()
    driver.wait()
    wait_until(lambda: not victims(root)["script"])
    refused = run_command("run", root)
    assert refused.returncode == 1
    assert_one_sentence(refused.stderr, "No space left on device")
    assert not Account.of(root).results
    assert victims(root)["worker"]
    ballast.path.unlink()
    assert start(root, log).wait(60) == 0
    found = Account.of(root)
    found.assert_whole(2, 1)
    found.assert_as(twin_of(folder, **changes))


def test_a_disk_that_is_full_before_the_start_is_told_in_a_sentence(folder: Path, disk: Path) -> None:
    root = witnessed(disk / "search", budget={"evaluations": 2}).root
    ballast = Ballast(disk)
    refused = run_command("run", root)
    assert refused.returncode == 1
    assert_one_sentence(refused.stderr, "No space left on device")
    assert not Account.of(root).jobs
    ballast.path.unlink()
    assert run_command("run", root).returncode == 0
    Account.of(root).assert_whole(2, 1)


def assert_one_sentence(said: str, words: str) -> None:
    (line,) = said.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line


# --- files that were spoilt, or have vanished


def spoilt(path: Path, rng: random.Random) -> None:
    """Tear and double lines of an appended file, and put foreign ones between them."""
    lines = path.read_bytes().splitlines(keepends=True)
    assert lines
    mixed = []
    for line in lines:
        mixed += [line[: rng.randrange(len(line))] + b"\n", line, b"\x00\xff[1]\n", b"{}\n", b'"id"\n', line]
    path.write_bytes(b"".join(mixed) + lines[0][: len(lines[0]) // 2])


def test_torn_doubled_and_foreign_lines_of_rejections_change_no_count(folder: Path) -> None:
    twin = twin_of(folder, budget={"evaluations": 6})
    experiment = witnessed(folder / "spoilt", budget={"evaluations": 3})
    drive(experiment)
    spoilt(experiment.rejected_file, random.Random(0))
    witnessed(experiment.root, budget={"evaluations": 6})
    driver, _ = drive(experiment)
    assert driver.summary().counts["rejected"] == sum(twin.discarded.values()) > 0
    found = Account.of(experiment.root)
    assert (found.asked, found.found) == (twin.asked, twin.found)


CURVES = """
    import json, os, sys
    job = json.load(open(sys.argv[-1]))
    with open(os.path.join(os.path.dirname(sys.argv[-1]), "progress.jsonl"), "a") as file:
        for epoch in range(6):
            error, loss = (0.9, 2.3) if job["id"] == 1 else (0.9 / (epoch + 1), 2.3 / (epoch + 1))
            line = json.dumps({"epoch": epoch, "error": error, "loss": loss})
            file.write(SPOIL)
    print(json.dumps({"error": error}))
"""


def test_torn_and_doubled_lines_of_a_learning_curve_change_no_decision(folder: Path) -> None:
    outcomes = []
    for name, spoil in (("clean", 'line + "\\n"'), ("spoilt", 'line[:9] + "\\n" + (line + "\\n") * 3 + "\\0{}[\\n"')):
        changes = {"early-termination": {"classes": 10}, "budget": {"evaluations": 2}}
        experiment = make_experiment(folder / name, CURVES.replace("SPOIL", spoil), **changes)
        drive(experiment)
        results = Account.of(experiment.root).results.values()
        outcomes.append([(each["status"], each["epoch"], each["reason"], each["metrics"]["error"]) for each in results])
    clean, torn = outcomes
    assert torn == clean
    assert [(status, epoch) for status, epoch, *_ in clean] == [("terminated", 1), ("completed", 5)]


@pytest.mark.parametrize("seed", range(3))
def test_caches_that_were_torn_or_swapped_are_not_believed(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    twin = twin_of(folder, budget={"evaluations": 5})
    for budget in (2, 4, 5):
        experiment = witnessed(folder / "torn", budget={"evaluations": budget})
        drive(experiment)
        for path in experiment.state.iterdir():
            content = bytearray(path.read_bytes())
            for _ in range(rng.randrange(3)):
                content[rng.randrange(len(content))] = rng.randrange(256)
            path.write_bytes(content[: rng.randrange(len(content))])
        experiment.holder_file.write_bytes([b"", b"[]", b'{"pid": 1}'][seed])
    told = json.loads(run_command("status", experiment.root, "--json").stdout)
    assert told["counts"]["completed"] == 5
    found = Account.of(experiment.root)
    found.assert_whole(5, 1)
    found.assert_as(twin)


def test_a_search_goes_on_when_its_state_is_deleted_under_it(folder: Path) -> None:
    twin = twin_of(folder, budget={"evaluations": 8})
    experiment = witnessed(folder / "bare", budget={"evaluations": 8})
    recorder = Recorder()

    def delete(summary: Summary) -> None:
        shutil.rmtree(experiment.state, ignore_errors=True)

    recorder.on_tick = delete
    drive(experiment, recorder)
    found = Account.of(experiment.root)
    found.assert_whole(8, 1)
    found.assert_as(twin)


def test_a_second_driver_is_refused_though_the_lock_file_was_deleted(folder: Path) -> None:
    root = witnessed(folder / "search", budget={"evaluations": 500}).root
    driver = start(root, folder / "log")
    wait_until((root / "jobs" / "000001" / "attempt-1.json").exists)
    (root / "driver.lock").unlink()
    refused = run_command("run", root)
    assert refused.returncode == 1
    assert_one_sentence(refused.stderr, f"is already run by process {driver.pid} on {os.uname().nodename}")
    assert driver.poll() is None
    told = run_command("stop", root)
    assert f"Asked process {driver.pid} " in told.stderr
    assert driver.wait(60) == 0
    assert_no_run_overlapped(root)


def test_a_job_whose_folder_is_deleted_while_it_runs_is_run_again(folder: Path) -> None:
    twin = twin_of(folder, budget={"evaluations": 4})
    root = witnessed(folder / "search", budget={"evaluations": 4}).root
    driver = start(root, folder / "log", PACE="3")
    wait_until(lambda: "begin 2 " in text_of(root / "runs"))
    shutil.rmtree(root / "jobs" / "000002")
    assert driver.wait(60) == 0
    assert "Traceback" not in text_of(folder / "log")
    found = Account.of(root)
    found.assert_whole(4, 2)
    found.assert_as(twin)
    assert_no_run_overlapped(root)


def test_a_job_whose_result_was_deleted_runs_again(folder: Path) -> None:
    experiment = witnessed(folder / "search", budget={"evaluations": 3})
    drive(experiment)
    before = Account.of(experiment.root)
    experiment.job_files(2).result.unlink()
    drive(experiment)
    found = Account.of(experiment.root)
    found.assert_whole(3, 2)
    found.assert_as(before)
    assert found.attempts == {1: 1, 2: 2, 3: 1}
    assert_no_run_overlapped(experiment.root)


def without_root(command: list[str]) -> list[str]:
    """A command for which the rights of files hold, also where the tests are run by root."""
    if os.geteuid() != 0:
        return command
    if shutil.which("setpriv") is None:
        pytest.skip("as root, this test needs the program `setpriv`, to be bound by the rights of files")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]


def test_finished_jobs_that_may_only_be_read_are_no_hindrance(folder: Path) -> None:
    experiment = witnessed(folder / "search", budget={"evaluations": 2})
    drive(experiment)
    shutil.rmtree(experiment.state)
    for path in [*experiment.jobs.glob("*/*"), *experiment.jobs.iterdir()]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    command = without_root(command_line("run", experiment.root, "--evaluations", "4"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for path in experiment.jobs.iterdir():
        path.chmod(0o755)
    Account.of(experiment.root).assert_whole(4, 1)


@pytest.mark.parametrize("name", ["jobs", "state", "rejected.jsonl", "driver.lock"])
def test_what_may_not_be_written_is_told_in_a_sentence(folder: Path, name: str) -> None:
    experiment = witnessed(folder / "search", budget={"evaluations": 2})
    drive(experiment)
    path = experiment.root / name
    path.chmod(0o555 if path.is_dir() else 0o444)
    command = without_root(command_line("run", experiment.root, "--evaluations", "8"))
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    *_, last = refused.stderr.strip().splitlines()
    assert last.startswith("error: ")
    assert "Permission denied" in last
    path.chmod(0o755)
    drive(witnessed(experiment.root, budget={"evaluations": 8}))
    Account.of(experiment.root).assert_whole(8, 1)


# --- what changes between two runs: the boot, the place, the clock


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any search, and leads a session as workers do."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("change", ["boot", "start"])
def test_a_worker_of_before_a_reboot_is_gone_and_whoever_has_its_pid_now_is_left_alone(
    folder: Path, bystander: subprocess.Popen[bytes], change: str
) -> None:
    experiment = witnessed(folder / "search", budget={"evaluations": 2})
    drive(experiment)
    before, files = Account.of(experiment.root), experiment.job_files(2)
    claim = json.loads(files.attempt(1).read_text())
    ticks = int(Path(f"/proc/{bystander.pid}/stat").read_text().rpartition(") ")[2].split()[19])
    other = {"boot_id": "another", "start_ticks": ticks} if change == "boot" else {"start_ticks": ticks - 1}
    files.attempt(1).write_text(json.dumps({**claim, "pid": bystander.pid, **other}))
    files.result.unlink()
    recorder = Recorder()
    drive(experiment, recorder)
    assert recorder.events == [("started", 2), ("ended", 2)]
    found = Account.of(experiment.root)
    found.assert_as(before)
    assert found.attempts == {1: 1, 2: 2}
    assert bystander.poll() is None


def killed_in_the_middle(root: Path, log: Path, workers_too: bool) -> None:
    """Run a search until its third job runs, and kill its driver."""
    driver = start(root, log, PACE="3")
    wait_until(lambda: "begin 3 " in text_of(root / "runs"))
    driver.kill()
    driver.wait()
    if workers_too:
        end_all(root)


@pytest.mark.parametrize("workers_too", [True, False])
@pytest.mark.parametrize("how", [["mv"], ["cp", "-r"], ["cp", "-rp"]])
def test_a_directory_that_was_moved_or_copied_goes_on_as_its_twin(
    folder: Path, how: list[str], workers_too: bool
) -> None:
    """Also where a worker still runs in the old place: its result does not come, and the job is tried again."""
    changes = {"budget": {"evaluations": 5}}
    old, new = witnessed(folder / "old", **changes).root, folder / "elsewhere" / "new"
    killed_in_the_middle(old, folder / "log", workers_too)
    new.parent.mkdir()
    subprocess.run([*how, str(old), str(new)], check=True)
    assert start(new, folder / "log").wait(60) == 0
    assert "Traceback" not in text_of(folder / "log")
    found = Account.of(new)
    found.assert_whole(5, 2)
    found.assert_as(twin_of(folder, **changes))
    if how == ["mv"] or workers_too:  # else the original's worker goes on beside its copy
        assert_no_run_overlapped(new)
    assert_nothing_lives(new)


def test_a_copy_has_a_driver_of_its_own_while_the_original_runs(folder: Path) -> None:
    changes = {"budget": {"evaluations": 5}}
    old, new = witnessed(folder / "old", **changes).root, folder / "new"
    driver = start(old, folder / "log", PACE="3")
    wait_until(lambda: "begin 3 " in text_of(old / "runs"))
    subprocess.run(["cp", "-rp", str(old), str(new)], check=True)
    assert start(new, folder / "log").wait(60) == 0
    assert driver.wait(60) == 0
    twin = twin_of(folder, **changes)
    for root in (old, new):
        found = Account.of(root)
        found.assert_whole(5, 1 if root == old else 2)
        found.assert_as(twin)
    assert_no_run_overlapped(old)  # what runs in an original is no run of its copy


def test_what_is_asked_of_a_copy_does_not_reach_the_original(folder: Path, drivers: Drivers) -> None:
    """The copy's files say that a worker lives; it is the original's, and is not told to end."""
    changes = {"budget": {"evaluations": 4}}
    old, new = witnessed(folder / "old", **changes).root, folder / "new"
    driver = start(old, folder / "log", PACE="5")
    wait_until(lambda: "begin 1 " in text_of(old / "runs"))
    subprocess.run(["cp", "-rp", str(old), str(new)], check=True)
    drivers.complete(Fault(str(new)), "stop", new, "--now")
    drivers.complete(Fault(str(new)), "clean", new, "--yes")
    assert driver.wait(60) == 0
    found = Account.of(old)
    found.assert_whole(4, 1)
    assert found.counts == {"completed": 4}


DAY_S = 86400.0


@pytest.mark.parametrize("role", ["driver", "worker"])
@pytest.mark.parametrize("offsets_s", [[0, DAY_S], [0, -DAY_S], [0, 0, 0, DAY_S, -DAY_S]])
def test_a_clock_that_jumps_neither_ends_a_budget_of_hours_nor_prolongs_it(
    folder: Path, drivers: Drivers, role: str, offsets_s: list[float]
) -> None:
    """Between any two looks at it, in a day's time or of a day ago, and between two drivers."""
    begun = time.monotonic()
    root = witnessed(folder / "long", budget={"hours": 1.0, "evaluations": 3}).root
    fault = Fault(str(root), clock={role: offsets_s})
    drivers.complete(fault, "run", root, "--evaluations", "2")
    drivers.complete(fault, "run", root)
    Account.of(root).assert_whole(3, 1)
    elapsed_s = json.loads(drivers.complete(fault, "status", root, "--json"))["elapsed_s"]
    assert 0 <= elapsed_s <= time.monotonic() - begun
    root = witnessed(folder / "short", budget={"hours": 0.5 / 3600}).root
    drivers.complete(Fault(str(root), clock={role: offsets_s}), "run", root)
    assert "hours is used up" in drivers.said
    assert Account.of(root).results


def test_a_clock_that_jumps_while_no_driver_runs_does_not_use_up_the_hours(folder: Path, drivers: Drivers) -> None:
    begun = time.monotonic()
    root = witnessed(folder / "search", budget={"hours": 1.0, "evaluations": 4}).root
    killed_in_the_middle(root, folder / "log", workers_too=False)
    drivers.complete(Fault(str(root), clock={"driver": [DAY_S]}), "run", root)
    Account.of(root).assert_whole(4, 1)
    elapsed_s = json.loads(drivers.complete(Fault(str(root)), "status", root, "--json"))["elapsed_s"]
    assert 0 < elapsed_s <= time.monotonic() - begun

"""The Slurm launcher before stand-ins for sbatch, squeue and scancel: what each answer of theirs leads to."""

from __future__ import annotations

import errno
import gc
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from searching import CONFIG, make_experiment

from hyperpower_runner.checks import check_scheduler
from hyperpower_runner.config import parse
from hyperpower_runner.errors import LaunchError
from hyperpower_runner.job_files import JobFiles, read_json, write_json
from hyperpower_runner.launchers import Fate, WorkerState, slurm_commands, slurm_queue
from hyperpower_runner.launchers import slurm as slurm_module
from hyperpower_runner.launchers.slurm import SlurmLauncher, job_options
from hyperpower_runner.trial import Job, Status

LIMIT_S = 60.0  # for what takes a second
STAND_IN = """#!/bin/sh
name=$(basename "$0")
cd {folder}
printf '%s\\n' "$@" >"new.$$"
mv "new.$$" "$name.words"
echo call >>"$name.calls"
env >"$name.env"
[ ! -e "$name.does" ] || . "./$name.does"
"""
AWAY = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"


@dataclass
class StandIns:
    """Three programs that say what they are told to, and keep what they were called with."""

    folder: Path

    def says(self, name: str, text: str = "", code: int = 0, before: str = "") -> None:
        new = self.folder / "new"
        new.write_text(f"{before}\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        new.replace(self.folder / f"{name}.does")  # at once: it may be running

    def lists(self, *entries: tuple[str, str, int, str]) -> None:
        """Let squeue list jobs: name, state, code, reason."""
        self.says(
            "squeue", "".join(f"{name:60} {state:20} {code:<10} {why:60}\n" for name, state, code, why in entries)
        )

    def away(self) -> None:
        for name in ("sbatch", "squeue", "scancel"):
            self.says(name, AWAY, 1)

    def calls(self, name: str) -> int:
        path = self.folder / f"{name}.calls"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def set_for(self, name: str) -> set[str]:
        """The names of the environment variables that a program found."""
        return {line.partition("=")[0] for line in (self.folder / f"{name}.env").read_text().splitlines()}

    def words(self, name: str) -> list[str]:
        return (self.folder / f"{name}.words").read_text().splitlines()


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIns:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        (folder / name).write_text(STAND_IN.format(folder=shlex.quote(str(folder))))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return StandIns(folder)


@pytest.fixture
def files(tmp_path: Path) -> JobFiles:
    experiment = make_experiment(tmp_path / "search")
    experiment.write_job(Job(job_id=7, params={}, seed=0, command=["true"]))
    return experiment.job_files(7)


class Notes(list[str]):
    """What a user is told."""


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def make(notes: Notes, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SlurmLauncher]:
    monkeypatch.setattr(slurm_queue, "SHARE", 0.0)  # a stand-in may be asked as often as one likes

    def make(words: Sequence[str] = (), **options: Any) -> SlurmLauncher:
        return SlurmLauncher(words, **{"polling_s": 0.02, "grace_s": 0.2, "note": notes.append, **options})

    return make


Make = Callable[..., SlurmLauncher]


def token_of(files: JobFiles) -> str:
    record = read_json(files.launch)
    assert record is not None
    return str(record["token"])


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def until(launcher: SlurmLauncher, files: JobFiles, state: WorkerState) -> None:
    deadline = time.monotonic() + LIMIT_S
    while launcher.poll({7: files}, 0.01)[7] is not state:
        assert time.monotonic() < deadline, "it never happened"


def watch(launcher: SlurmLauncher, files: JobFiles, answers: int, stand_ins: StandIns) -> set[WorkerState]:
    """What it says of a job until squeue was called so often again."""
    seen, deadline, last = set(), time.monotonic() + LIMIT_S, stand_ins.calls("squeue") + answers
    while stand_ins.calls("squeue") < last:
        assert time.monotonic() < deadline, "it never happened"
        seen.add(launcher.poll({7: files}, 0.01)[7])
    return seen


def over(
    launcher: SlurmLauncher, files: JobFiles, seconds: float, before_each: Callable[[], None] = lambda: None
) -> set[WorkerState]:
    """What it says of a job within some seconds."""
    seen, deadline = set(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        before_each()
        seen.add(launcher.poll({7: files}, 0.0)[7])
        time.sleep(0.01)
    return seen


# --- what Slurm is told


def test_a_worker_is_submitted_under_a_name_that_is_on_disk_before(
    stand_ins: StandIns, files: JobFiles, make: Make
) -> None:
    stand_ins.says("sbatch", before=f"cp {shlex.quote(str(files.launch))} launch.before")
    make(["--partition=low", "-n", "2"]).submit(files, 3)
    words = stand_ins.words("sbatch")
    assert words[:4] == ["--parsable", "--no-requeue", "--job-name", token_of(files)]
    assert re.fullmatch(r"hp-7-[0-9a-f]{16}", token_of(files))
    assert words[4:7] == ["--partition=low", "-n", "2"]
    given = dict(zip(words[7::2], words[8::2], strict=True))
    assert given["--output"] == str(files.output)
    assert given["--open-mode"] == "append"
    assert (Path(given["--chdir"]) / "hyperpower_runner" / "worker.py").is_file()
    root = files.folder.parent.parent
    command = [sys.executable, "-m", "hyperpower_runner.worker", str(root), "000007", "3"]
    assert shlex.split(given["--wrap"]) == ["exec", *command]
    assert read_json(stand_ins.folder / "launch.before") == read_json(files.launch)
    assert (read_json(files.launch) or {})["attempt"] == 3


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("100 %j $HOME 'quoted'", "100 %%j $HOME 'quoted'"),
        (r"100 %j back\slash", r"100 %j back\\slash"),  # beside which sbatch knows no patterns
    ],
)
def test_a_path_with_signs_of_the_shell_and_of_sbatch_is_taken_as_it_is(
    stand_ins: StandIns, tmp_path: Path, make: Make, name: str, pattern: str
) -> None:
    experiment = make_experiment(tmp_path / name)
    experiment.write_job(Job(job_id=7, params={}, seed=0, command=["true"]))
    make().submit(experiment.job_files(7), 1)
    words = stand_ins.words("sbatch")
    assert words[words.index("--output") + 1] == str(experiment.job_files(7).output).replace(name, pattern)
    assert str(experiment.root) in shlex.split(words[-1])


def test_each_attempt_has_a_name_of_its_own(stand_ins: StandIns, files: JobFiles, make: Make) -> None:
    launcher = make()
    launcher.submit(files, 1)
    first = token_of(files)
    launcher.submit(files, 1)  # is on its way already
    assert (token_of(files), stand_ins.calls("sbatch")) == (first, 1)
    launcher.submit(files, 2)
    assert token_of(files) != first
    assert stand_ins.calls("sbatch") == 2


def test_one_squeue_tells_of_all_jobs_and_of_the_users_own_only(
    stand_ins: StandIns, tmp_path: Path, make: Make
) -> None:
    experiment, jobs = make_experiment(tmp_path / "search"), {}
    for job_id in range(1, 31):
        experiment.write_job(Job(job_id=job_id, params={}, seed=0, command=["true"]))
        jobs[job_id] = experiment.job_files(job_id)
        write_json(jobs[job_id].launch, {"scheduler": "slurm", "attempt": 1, "token": f"hp-{job_id}-0"})
    stand_ins.lists(*((f"hp-{job_id}-0", "RUNNING", 0, "None") for job_id in jobs))
    states = make(polling_s=60.0).poll(jobs, 0.0)  # the first waits for an answer
    assert set(states.values()) == {WorkerState.ALIVE}
    assert stand_ins.calls("squeue") == 1
    words = stand_ins.words("squeue")
    assert words[words.index("-u") + 1] == str(os.getuid())


def test_the_users_settings_of_squeue_and_the_like_change_nothing(
    stand_ins: StandIns, files: JobFiles, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    clusters, logs = ("SBATCH_CLUSTERS", "SLURM_CLUSTERS"), ("SBATCH_OUTPUT", "SBATCH_ERROR")
    unwanted = {"SQUEUE_PARTITION", "SQUEUE_FORMAT", "SBATCH_ARRAY_INX", "SBATCH_WAIT", *clusters, *logs}
    for name in (*unwanted, "SBATCH_ACCOUNT", "SLURM_TIME_FORMAT"):
        monkeypatch.setenv(name, "mine")
    launcher = make()
    launcher.submit(files, 1)
    watch(launcher, files, 1, stand_ins)
    assert not unwanted & stand_ins.set_for("squeue")
    assert not unwanted & stand_ins.set_for("sbatch")
    assert {"SBATCH_ACCOUNT", "SLURM_TIME_FORMAT"} <= stand_ins.set_for("sbatch")


def test_a_job_learns_nothing_of_the_allocation_that_its_driver_runs_in(
    stand_ins: StandIns, files: JobFiles, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By sbatch it would inherit the variables, and its srun would obey them."""
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_MEM_PER_CPU", "SLURM_CONF", "SLURM_JWT"):
        monkeypatch.setenv(name, "1")
    make().submit(files, 1)
    assert {name for name in stand_ins.set_for("sbatch") if name.startswith("SLURM_")} == {"SLURM_CONF", "SLURM_JWT"}


def test_ctrl_c_in_a_terminal_reaches_none_of_slurms_commands(stand_ins: StandIns, files: JobFiles, make: Make) -> None:
    """It goes to a session's processes; an sbatch that it ended would leave nobody knowing what became of the job."""
    for name in ("sbatch", "squeue", "scancel"):
        stand_ins.says(name, before=f"cut -d ' ' -f 6 /proc/$$/stat >{name}.session")
    launcher = make()
    launcher.submit(files, 1)
    watch(launcher, files, 2, stand_ins)
    launcher.cancel(files, "no longer wanted")
    sessions = {(stand_ins.folder / f"{name}.session").read_text() for name in ("sbatch", "squeue", "scancel")}
    assert len(sessions) == 3
    assert os.getsid(0) not in map(int, sessions)


def test_a_refusal_is_told_in_slurms_words_and_leaves_no_trace(
    stand_ins: StandIns, files: JobFiles, make: Make
) -> None:
    said = (
        "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: Invalid partition"
    )
    stand_ins.says("sbatch", said, 1)
    launcher = make()
    with pytest.raises(LaunchError, match="invalid partition specified: x; Batch job submission failed: Invalid part"):
        launcher.submit(files, 1)
    assert not files.launch.exists()
    assert launcher.poll({7: files}, 0.0) == {7: WorkerState.GONE}


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_without_slurm_it_says_so(files: JobFiles, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LaunchError, match='no program "sbatch" on the PATH'):
        make().submit(files, 1)
    with pytest.raises(LaunchError, match='no program "squeue" on the PATH'):
        make().poll({7: files}, 0.0)
    gc.collect()


def test_a_squeue_that_nobody_waits_for_any_more_is_ended(stand_ins: StandIns) -> None:
    stand_ins.says("squeue", before="echo $$ >pid; exec sleep 600")
    query = slurm_commands.Query()
    wait_until(lambda: (stand_ins.folder / "pid").exists() and (stand_ins.folder / "pid").read_text())
    del query
    gc.collect()
    assert not Path("/proc", (stand_ins.folder / "pid").read_text().strip()).exists()


def test_a_machine_that_cannot_start_a_process_now_may_later(
    stand_ins: StandIns, files: JobFiles, make: Make, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*words: object, **options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    launcher = make()
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", fails)
        launcher.submit(files, 1)
    assert notes == [
        "Slurm does not answer (sbatch could not be started: [Errno 11] Resource temporarily unavailable);"
        " the search goes on when it does"
    ]
    stand_ins.lists()
    until(launcher, files, WorkerState.ALIVE)
    assert stand_ins.calls("sbatch") == 1


# --- what Slurm tells


@pytest.mark.parametrize("state", ["PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STAGE_OUT", "NEW"])
def test_whatever_has_not_ended_is_alive(stand_ins: StandIns, files: JobFiles, make: Make, state: str) -> None:
    launcher = make()
    launcher.submit(files, 1)
    stand_ins.lists((token_of(files), state, 0, "None"), ("hp-7-somebody", "FAILED", 1, "None"))
    assert watch(launcher, files, 10, stand_ins) == {WorkerState.ALIVE}


@pytest.mark.parametrize(
    ("state", "code", "claimed", "status", "clause"),
    [
        ("TIMEOUT", 15, True, Status.TIMED_OUT, "time limit"),
        ("TIMEOUT", 15, False, None, "ended before it began (Slurm says TIMEOUT"),
        ("DEADLINE", 1, False, Status.TIMED_OUT, "deadline"),
        ("CANCELLED", 0, True, Status.CANCELLED, "cancelled in Slurm"),
        ("CANCELLED", 0, False, Status.CANCELLED, "cancelled in Slurm"),
        ("OUT_OF_MEMORY", 125, True, Status.FAILED, "more memory"),
        ("NODE_FAIL", 1, True, None, "its worker vanished (Slurm says NODE_FAIL)"),
        ("PREEMPTED", 0, True, None, "its worker vanished (Slurm says PREEMPTED)"),
        ("BOOT_FAIL", 1, False, None, "ended before it began (Slurm says BOOT_FAIL"),
        ("FAILED", 9, True, None, "its worker vanished (Slurm says FAILED, signal 9)"),
        ("FAILED", 127 << 8, False, None, "ended before it began (Slurm says FAILED, exit code 127; see "),
        ("FAILED", 4021, False, None, "could not start its worker; does its node see "),
        ("COMPLETED", 0, True, None, "its worker vanished (Slurm says COMPLETED)"),
    ],
)
def test_what_ended_without_a_result_has_its_fate(
    stand_ins: StandIns,
    files: JobFiles,
    make: Make,
    state: str,
    code: int,
    claimed: bool,
    status: Status | None,
    clause: str,
) -> None:
    launcher = make()
    launcher.submit(files, 1)
    if claimed:
        write_json(files.attempt(1), {"pid": 1})
    stand_ins.lists((token_of(files), state, code, "None"))
    until(launcher, files, WorkerState.GONE)
    assert launcher.fate(files).status is status
    assert clause in launcher.fate(files).clause


@pytest.mark.parametrize(
    "rest", ["RUNNING              0", "RUNNING              -2         None", "RUNNING", "", "RUNNING  0:0  None"]
)
def test_a_job_with_an_odd_row_is_in_the_queue_all_the_same(
    stand_ins: StandIns, files: JobFiles, make: Make, rest: str
) -> None:
    launcher = make()
    launcher.submit(files, 1)
    stand_ins.says("squeue", f"{token_of(files):60} {rest}")
    over(launcher, files, 1.0)  # five graces
    assert launcher.poll({7: files}, 0.0) == {7: WorkerState.ALIVE}
    assert stand_ins.calls("sbatch") == 1


def test_what_slurm_says_more_than_it_should_is_passed_over(stand_ins: StandIns, files: JobFiles, make: Make) -> None:
    launcher = make()
    launcher.submit(files, 1)
    lines = ["CLUSTER: other", "hp-7", f"{token_of(files)} RUNNING", "", f"{token_of(files):60} RUNNING 0 None", "\xff"]
    stand_ins.says("squeue", "\n".join(lines))
    assert watch(launcher, files, 10, stand_ins) == {WorkerState.ALIVE}


def test_a_result_counts_more_than_the_queue(stand_ins: StandIns, files: JobFiles, make: Make) -> None:
    launcher = make()
    launcher.submit(files, 1)
    stand_ins.lists((token_of(files), "RUNNING", 0, "None"))
    until(launcher, files, WorkerState.ALIVE)
    write_json(files.result, {"id": 7, "status": "completed"})
    until(launcher, files, WorkerState.GONE)
    assert make().poll({7: files}, 0.0) == {7: WorkerState.GONE}


def test_a_result_is_seen_also_while_slurm_does_not_answer(stand_ins: StandIns, files: JobFiles, make: Make) -> None:
    launcher = make()
    stand_ins.away()
    launcher.submit(files, 1)
    until(launcher, files, WorkerState.UNKNOWN)
    write_json(files.result, {"id": 7, "status": "completed"})
    until(launcher, files, WorkerState.GONE)


def test_the_end_of_a_job_is_believed_only_after_a_grace(stand_ins: StandIns, files: JobFiles, make: Make) -> None:
    """Its files may come into sight later."""
    launcher = make(grace_s=3600.0)
    launcher.submit(files, 1)
    stand_ins.lists((token_of(files), "NODE_FAIL", 1, "None"))
    assert watch(launcher, files, 10, stand_ins) == {WorkerState.ALIVE}
    write_json(files.result, {"id": 7, "status": "completed"})
    until(launcher, files, WorkerState.GONE)


@pytest.mark.parametrize("listed", [True, False])
def test_a_worker_that_beats_lives_whatever_slurm_says(
    stand_ins: StandIns, files: JobFiles, make: Make, listed: bool
) -> None:
    launcher = make(grace_s=0.3)
    launcher.submit(files, 1)
    stand_ins.lists((token_of(files), "RUNNING", 0, "None"))
    watch(launcher, files, 2, stand_ins)
    write_json(files.attempt(1), {"pid": 1})
    stand_ins.lists(*([(token_of(files), "NODE_FAIL", 1, "None")] if listed else []))
    assert over(launcher, files, 1.5, files.heartbeat.touch) == {WorkerState.ALIVE}  # five graces
    until(launcher, files, WorkerState.GONE)
    assert ("NODE_FAIL" if listed else "from the queue") in launcher.fate(files).clause


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", "REQUEUE_HOLD"])
def test_a_worker_that_slurm_does_not_call_ended_and_that_does_not_beat_is_cancelled(
    stand_ins: StandIns, files: JobFiles, make: Make, state: str
) -> None:
    launcher = make(silence_s=0.3)
    launcher.submit(files, 1)
    stand_ins.lists((token_of(files), state, 0, "None"))
    assert over(launcher, files, 1.0) == {WorkerState.ALIVE}  # it has not begun
    write_json(files.attempt(1), {"pid": 1})
    assert over(launcher, files, 1.0, files.heartbeat.touch) == {WorkerState.ALIVE}
    until(launcher, files, WorkerState.GONE)
    assert f"no sign of life for 0.3 s, although Slurm says {state}" in launcher.fate(files).clause
    assert stand_ins.words("scancel") == ["--name", token_of(files)]
    stand_ins.lists((token_of(files), "CANCELLED", 0, "None"))
    over(launcher, files, 0.2)
    assert launcher.fate(files).status is None  # it was not a user who cancelled it


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_a_worker_that_does_not_begin_for_long_is_cancelled_and_may_be_tried_again(
    stand_ins: StandIns, files: JobFiles, make: Make, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    launcher = make()
    launcher.submit(files, 1)
    token = token_of(files)
    stand_ins.lists((token, "PENDING", 0, "Resources"))
    watch(launcher, files, 2, stand_ins)
    monkeypatch.setattr(slurm_module, "UNCLAIMED_S", 0.3)
    assert over(launcher, files, 1.0) == {WorkerState.ALIVE}  # in the queue it may wait as long as it likes
    stand_ins.lists((token, state, 0, "None"))
    until(launcher, files, WorkerState.GONE)
    assert f"its worker did not begin within 0.005 min, although Slurm says {state}" in launcher.fate(files).clause
    assert launcher.fate(files).status is None
    assert stand_ins.words("scancel") == ["--name", token]
    launcher.submit(files, 1)
    assert token_of(files) != token


def test_a_worker_whose_claim_cannot_be_seen_may_have_begun(
    stand_ins: StandIns, files: JobFiles, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system is away from here."""
    monkeypatch.setattr(slurm_module, "UNCLAIMED_S", 0.3)
    launcher = make()
    launcher.submit(files, 1)
    monkeypatch.setattr(slurm_module, "_names_in", lambda folder: set())
    stand_ins.lists((token_of(files), "RUNNING", 0, "None"))
    assert over(launcher, files, 1.0) == {WorkerState.ALIVE}


def test_what_is_given_up_while_slurm_cannot_cancel_it_is_cancelled_later(
    stand_ins: StandIns, files: JobFiles, make: Make
) -> None:
    """Although another attempt was submitted since."""
    launcher = make(silence_s=0.1)
    launcher.submit(files, 1)
    first = token_of(files)
    write_json(files.attempt(1), {"pid": 1})
    stand_ins.says("scancel", "scancel: error: Kill job error: Socket timed out on send/recv operation", 1)
    stand_ins.lists((first, "RUNNING", 0, "None"))
    until(launcher, files, WorkerState.GONE)
    launcher.submit(files, 2)
    stand_ins.says("scancel")
    tried = stand_ins.calls("scancel")
    wait_until(lambda: launcher.poll({7: files}, 0.01) and stand_ins.calls("scancel") > tried)
    assert stand_ins.words("scancel") == ["--name", first]
    watch(launcher, files, 5, stand_ins)
    assert stand_ins.calls("scancel") == tried + 1


@pytest.mark.parametrize("state", ["SUSPENDED", "STOPPED"])
def test_a_suspended_worker_does_not_have_to_beat(stand_ins: StandIns, files: JobFiles, make: Make, state: str) -> None:
    launcher = make(silence_s=1.0)
    launcher.submit(files, 1)
    write_json(files.attempt(1), {"pid": 1})
    stand_ins.lists((token_of(files), "RUNNING", 0, "None"))
    over(launcher, files, 0.3, files.heartbeat.touch)
    over(launcher, files, 0.2)  # the last touch is seen
    stand_ins.lists((token_of(files), state, 0, "None"))
    assert over(launcher, files, 1.5) == {WorkerState.ALIVE}
    stand_ins.lists((token_of(files), "RUNNING", 0, "None"))
    assert watch(launcher, files, 2, stand_ins) == {WorkerState.ALIVE}  # nor at once when it goes on
    until(launcher, files, WorkerState.GONE)


def test_why_a_job_waits_is_told_once(
    stand_ins: StandIns, files: JobFiles, make: Make, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = make()
    launcher.submit(files, 1)
    stand_ins.lists((token_of(files), "PENDING", 0, "Resources"))
    watch(launcher, files, 3, stand_ins)
    assert notes == []  # every job waits for a moment
    monkeypatch.setattr(slurm_module, "PATIENCE_S", 0.0)
    watch(launcher, files, 5, stand_ins)
    stand_ins.lists((token_of(files), "PENDING", 0, "Priority"))
    watch(launcher, files, 5, stand_ins)
    for held in ("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"):
        stand_ins.lists((token_of(files), held, 0, "JobHeldAdmin"))
        watch(launcher, files, 5, stand_ins)
    reasons = ["Resources", "Priority", *(f"{held} JobHeldAdmin" for held in ("REQUEUE_HOLD", "SPECIAL_EXIT"))]
    assert notes == [f"job 7 waits in the queue of Slurm: {why}" for why in (*reasons, "RESV_DEL_HOLD JobHeldAdmin")]


# --- when it does not answer


def test_an_outage_is_no_end_and_slurm_is_asked_less_and_less(
    stand_ins: StandIns, files: JobFiles, make: Make, notes: Notes
) -> None:
    launcher = make(grace_s=0.05, silence_s=0.5)
    launcher.submit(files, 1)
    write_json(files.attempt(1), {"pid": 1})
    stand_ins.lists((token_of(files), "RUNNING", 0, "None"))
    over(launcher, files, 0.5, files.heartbeat.touch)
    stand_ins.away()
    until(launcher, files, WorkerState.UNKNOWN)
    before = stand_ins.calls("squeue")
    assert over(launcher, files, 1.5) == {WorkerState.UNKNOWN}
    assert stand_ins.calls("squeue") - before <= 7  # 0.04, 0.08, ... 1.28 s; every 0.02 s it would be more than 50
    assert [note for note in notes if "does not answer" in note] == [
        "Slurm does not answer (Unable to contact slurm controller (connect failure)); the search goes on when it does"
    ]
    stand_ins.lists((token_of(files), "RUNNING", 0, "None"))
    files.heartbeat.touch()  # the worker went on beating
    until(launcher, files, WorkerState.ALIVE)
    assert notes[-1] == "Slurm answers again."
    assert stand_ins.calls("sbatch") == 1


def test_a_slow_controller_is_left_alone_for_longer(
    stand_ins: StandIns, files: JobFiles, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_queue, "SHARE", 1000.0)
    launcher = make()
    launcher.submit(files, 1)
    stand_ins.says("squeue", f"{token_of(files):60} RUNNING 0 None\n", before="sleep 0.3")
    until_s = time.monotonic() + 1.5
    while time.monotonic() < until_s:
        assert launcher.poll({7: files}, 0.1) == {7: WorkerState.ALIVE}
    assert stand_ins.calls("squeue") == 1  # the next after five minutes
    launcher.cancel(files, "no longer wanted")  # whose end is waited for
    watch(launcher, files, 1, stand_ins)


def test_what_a_driver_does_meanwhile_is_no_slowness_of_the_controller(
    stand_ins: StandIns, files: JobFiles, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = make()
    launcher.submit(files, 1)
    launcher.poll({7: files}, 0.0)  # squeue is called, and answers at once
    now = time.monotonic
    with monkeypatch.context() as patched:
        patched.setattr(slurm_queue, "SHARE", 10.0)
        patched.setattr(time, "monotonic", lambda: now() + 4.0)  # so long it takes to propose a job
        wait_until(lambda: launcher.poll({7: files}, 0.0) and launcher._queue.asked_s > 0)
    assert launcher._queue._pause_s < 10.0  # instead of 40


def test_a_squeue_that_hangs_holds_nothing_up(
    stand_ins: StandIns, files: JobFiles, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call is waited for, so that a driver that takes over knows all that there is; a signal ends that."""
    stand_ins.says("squeue", before="echo >>hangs; exec sleep 600")
    wake, write = os.pipe()
    launcher = make(wake=wake)
    launcher.submit(files, 1)
    assert launcher.poll({7: files}, 0.01) == {7: WorkerState.ALIVE}
    write_json(files.result, {"id": 7, "status": "completed"})
    until(launcher, files, WorkerState.GONE)
    files.result.unlink()
    monkeypatch.setattr(slurm_commands, "CALL_S", 1.0)  # then it is ended
    other = make(wake=wake)
    os.write(write, b"!")
    assert other.poll({7: files}, 0.0) == {7: WorkerState.UNKNOWN}
    wait_until(lambda: (stand_ins.folder / "hangs").read_text() == "\n\n")
    os.read(wake, 1)
    stand_ins.lists((token_of(files), "RUNNING", 0, "None"))
    until(other, files, WorkerState.ALIVE)
    os.close(wake)
    os.close(write)


def test_what_could_not_be_submitted_is_when_slurm_answers_again(
    stand_ins: StandIns, files: JobFiles, make: Make, notes: Notes
) -> None:
    launcher = make()
    stand_ins.away()
    launcher.submit(files, 1)
    token = token_of(files)
    assert over(launcher, files, 0.5) == {WorkerState.UNKNOWN}
    assert stand_ins.calls("sbatch") == 1
    stand_ins.says("sbatch")
    stand_ins.lists()
    until(launcher, files, WorkerState.ALIVE)
    assert stand_ins.calls("sbatch") == 2
    assert token_of(files) == token == stand_ins.words("sbatch")[3]
    assert len(notes) == 2  # does not answer, answers again


@pytest.mark.parametrize(
    "why",
    [
        "QOSMaxSubmitJobPerUserLimit",
        "AssocGrpSubmitJobsLimit",
        "QOSGrpSubmitJobsLimit",
        "Required partition not available (inactive or drain)",
        "Requested node configuration is not available",
        "I/O error writing script/environment to file",
    ],
)
def test_a_refusal_that_passes_is_waited_for(
    stand_ins: StandIns, files: JobFiles, make: Make, notes: Notes, why: str
) -> None:
    said = f"sbatch: error: {why}\nsbatch: error: Batch job submission failed: Job violates policy"
    launcher = make()
    stand_ins.says("sbatch", said, 1)
    launcher.submit(files, 1)
    stand_ins.lists()
    assert over(launcher, files, 1.0) == {WorkerState.UNKNOWN}
    assert 1 < stand_ins.calls("sbatch") <= 6
    assert len(notes) == 1
    assert f"takes no more jobs now ({why}; " in notes[0]
    stand_ins.says("sbatch")
    until(launcher, files, WorkerState.ALIVE)


# --- a driver after another


def test_what_a_killed_driver_submitted_is_found_by_its_name(stand_ins: StandIns, files: JobFiles, make: Make) -> None:
    make().submit(files, 1)
    second = make()
    stand_ins.lists((token_of(files), "PENDING", 0, "Resources"))
    assert second.poll({7: files}, 0.0) == {7: WorkerState.ALIVE}
    second.submit(files, 1)  # by a driver that did not look
    assert watch(second, files, 10, stand_ins) == {WorkerState.ALIVE}
    assert stand_ins.calls("sbatch") == 1


def test_what_a_killed_driver_did_not_submit_is_submitted_by_the_next_under_the_same_name(
    stand_ins: StandIns, files: JobFiles, make: Make
) -> None:
    write_json(files.launch, {"scheduler": "slurm", "attempt": 2, "token": "hp-7-abc"})
    launcher = make(grace_s=2.0)
    stand_ins.lists()
    assert launcher.poll({7: files}, 0.0) == {7: WorkerState.UNKNOWN}
    assert watch(launcher, files, 3, stand_ins) == {WorkerState.UNKNOWN}  # its sbatch may still be on its way
    assert stand_ins.calls("sbatch") == 0
    until(launcher, files, WorkerState.ALIVE)
    assert stand_ins.words("sbatch")[3] == "hp-7-abc"
    assert shlex.split(stand_ins.words("sbatch")[-1])[-1] == "2"
    stand_ins.lists(
        ("hp-7-abc", "RUNNING", 0, "None"), ("hp-7-abc", "COMPLETED", 0, "None")
    )  # it was, and one went home
    assert watch(launcher, files, 10, stand_ins) == {WorkerState.ALIVE}
    assert stand_ins.calls("sbatch") == 1


def test_a_job_that_slurm_forgets_again_and_again_is_gone(stand_ins: StandIns, files: JobFiles, make: Make) -> None:
    launcher = make()
    stand_ins.lists()
    launcher.submit(files, 1)
    until(launcher, files, WorkerState.GONE)
    assert stand_ins.calls("sbatch") == slurm_module.MOST_SUBMISSIONS
    assert "does not list it" in launcher.fate(files).clause
    assert stand_ins.words("scancel") == ["--name", token_of(files)]  # it may be there, and run some day
    launcher.submit(files, 1)  # the driver's retry
    assert stand_ins.calls("sbatch") == slurm_module.MOST_SUBMISSIONS + 1


@pytest.mark.parametrize("answer", ["", "sbatch: error: Batch job submission failed: Socket timed out"])
def test_a_job_that_sbatch_took_may_appear_late_in_the_queue(
    stand_ins: StandIns, files: JobFiles, make: Make, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """squeue may answer from a cache; where the answer of sbatch was lost, a job is rather not there at all."""
    monkeypatch.setattr(slurm_module, "ABSENT_S", 0.1)
    launcher = make(grace_s=3600.0)
    stand_ins.says("sbatch", answer, int(bool(answer)))
    stand_ins.lists()
    launcher.submit(files, 1)
    stand_ins.says("sbatch")
    if answer:
        wait_until(lambda: launcher.poll({7: files}, 0.01) and stand_ins.calls("sbatch") == 2)
    assert over(launcher, files, 1.0) == {WorkerState.ALIVE}
    assert stand_ins.calls("sbatch") == (2 if answer else 1)


def test_of_a_job_that_began_before_the_queue_was_heard_nothing_is_concluded(
    stand_ins: StandIns, files: JobFiles, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_commands, "CALL_S", 3600.0)
    launcher = make(grace_s=0.05)
    stand_ins.lists()
    watch(launcher, files, 1, stand_ins)
    begun, hangs, go = (stand_ins.folder / name for name in ("begun", "hangs", "go"))
    stand_ins.says("squeue", before="touch begun; while ! [ -e go ]; do sleep 0.02; done")
    wait_until(lambda: launcher.poll({7: files}, 0.01) and begun.exists())
    launcher.submit(files, 1)
    write_json(files.attempt(1), {"pid": 1})
    stand_ins.says("squeue", before="touch hangs; exec sleep 600")
    go.touch()  # the answer knows nothing of the job
    wait_until(lambda: launcher.poll({7: files}, 0.01) and hangs.exists())
    assert over(launcher, files, 0.5) == {WorkerState.ALIVE}


@pytest.mark.parametrize("state", ["RUNNING", "CANCELLED"])
def test_of_a_job_that_was_submitted_twice_the_worker_that_went_home_does_not_count(
    stand_ins: StandIns, files: JobFiles, make: Make, state: str
) -> None:
    launcher = make()
    launcher.submit(files, 1)
    write_json(files.attempt(1), {"pid": 1})
    entries = [(token_of(files), state, 0, "None"), (token_of(files), "COMPLETED", 0, "None")]
    for ordered in (entries, entries[::-1]):
        stand_ins.lists(*ordered)
        seen = over(launcher, files, 1.0)
        assert (WorkerState.GONE in seen) is (state == "CANCELLED")
    assert launcher.fate(files).status is (Status.CANCELLED if state == "CANCELLED" else None)


def test_a_claimed_attempt_is_not_submitted_again(stand_ins: StandIns, files: JobFiles, make: Make) -> None:
    write_json(files.launch, {"scheduler": "slurm", "attempt": 1, "token": "hp-7-abc"})
    write_json(files.attempt(1), {"pid": 1})
    stand_ins.lists()
    launcher = make()
    until(launcher, files, WorkerState.GONE)
    assert stand_ins.calls("sbatch") == 0


@pytest.mark.parametrize(
    "record", ["", "{", "[]", '{"attempt": "1"}', '{"attempt": 1, "token": null}', '{"schema": 99}']
)
def test_a_damaged_record_is_none(stand_ins: StandIns, files: JobFiles, make: Make, record: str) -> None:
    files.launch.write_text(record)
    launcher = make()
    assert launcher.poll({7: files}, 0.0) == {7: WorkerState.GONE}
    launcher.submit(files, 1)
    assert stand_ins.calls("sbatch") == 1


def test_a_worker_that_another_launcher_started_is_watched_by_its_heartbeat(
    stand_ins: StandIns, files: JobFiles, make: Make
) -> None:
    write_json(files.launch, {"scheduler": "slurm", "attempt": 1, "token": "hp-7-abc"})  # of an attempt before
    write_json(files.attempt(1), {"pid": 1})
    write_json(files.attempt(2), {"pid": 1})
    launcher = make(silence_s=0.5)
    assert launcher.poll({7: files}, 0.0) == {7: WorkerState.UNKNOWN}
    until(launcher, files, WorkerState.GONE)
    assert launcher.fate(files) == Fate("its worker vanished")


# --- cancelling


def test_a_cancelled_job_is_told_so_by_file_and_by_slurm(stand_ins: StandIns, files: JobFiles, make: Make) -> None:
    launcher = make(grace_s=3600.0)
    launcher.submit(files, 1)
    stand_ins.lists((token_of(files), "PENDING", 0, "Resources"))
    watch(launcher, files, 2, stand_ins)
    launcher.cancel(files, "no longer wanted")
    assert files.stop.read_text() == "no longer wanted\n"
    assert stand_ins.words("scancel") == ["--name", token_of(files)]
    stand_ins.lists((token_of(files), "CANCELLED", 0, "Resources"))
    until(launcher, files, WorkerState.GONE)  # without the grace: nothing of it ever began
    assert launcher.fate(files).status is Status.CANCELLED


def test_a_cancelled_job_that_ran_has_its_grace(stand_ins: StandIns, files: JobFiles, make: Make) -> None:
    """Its worker writes the result, which may come into sight later."""
    launcher = make(grace_s=3600.0)
    launcher.submit(files, 1)
    write_json(files.attempt(1), {"pid": 1})
    stand_ins.lists((token_of(files), "RUNNING", 0, "None"))
    watch(launcher, files, 2, stand_ins)
    launcher.cancel(files, "no longer wanted")
    stand_ins.lists((token_of(files), "CANCELLED", 0, "None"))
    assert watch(launcher, files, 10, stand_ins) == {WorkerState.ALIVE}
    write_json(files.result, {"id": 7, "status": "cancelled"})
    until(launcher, files, WorkerState.GONE)


def test_what_could_not_be_cancelled_is_when_slurm_answers_again(
    stand_ins: StandIns, files: JobFiles, make: Make
) -> None:
    launcher = make()
    launcher.submit(files, 1)
    stand_ins.lists((token_of(files), "RUNNING", 0, "None"))
    watch(launcher, files, 2, stand_ins)
    stand_ins.away()
    launcher.cancel(files, "no longer wanted")
    assert over(launcher, files, 0.5) == {WorkerState.UNKNOWN}
    stand_ins.says("scancel")
    stand_ins.lists((token_of(files), "RUNNING", 0, "None"))
    before = stand_ins.calls("scancel")
    until(launcher, files, WorkerState.ALIVE)
    watch(launcher, files, 10, stand_ins)
    assert stand_ins.calls("scancel") == before + 1


def test_a_job_that_is_cancelled_before_it_was_submitted_never_is(
    stand_ins: StandIns, files: JobFiles, make: Make
) -> None:
    launcher = make()
    stand_ins.away()
    launcher.submit(files, 1)
    launcher.cancel(files, "no longer wanted")
    for name in ("sbatch", "scancel"):
        stand_ins.says(name)
    stand_ins.lists()
    until(launcher, files, WorkerState.GONE)
    assert launcher.fate(files).status is Status.CANCELLED
    assert stand_ins.calls("sbatch") == 1  # the one that failed


# --- the options of all jobs


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"timeout-s": 3600}, ["--time=62"]),
        ({"timeout-s": 0.5}, ["--time=2"]),
        ({"timeout-s": 3600, "platform": {"meter": "simulated-gtx1070"}}, ["--time=72"]),
        ({"timeout-s": 3600, "scheduler-args": {"time": "5"}}, ["--time=5"]),
        ({"timeout-s": 3600, "scheduler-args": ["-t", "5"]}, ["-t", "5"]),
        ({"timeout-s": 3600, "scheduler-args": {"time-min": 5}}, ["--time-min=5", "--time=62"]),
        ({"scheduler-args": {"partition": "low", "gres": "gpu:1"}}, ["--partition=low", "--gres=gpu:1"]),
    ],
)
def test_slurm_grants_a_little_more_than_timeout_s(changes: dict[str, Any], words: list[str]) -> None:
    """So much that the worker comes first; and time for the network of a completed job to be measured."""
    assert job_options(parse({**CONFIG, "scheduler": "slurm", **changes})) == words


def test_slurm_is_asked_before_a_search_begins(
    stand_ins: StandIns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = make_experiment(tmp_path / "search", scheduler="slurm", **{"scheduler-args": {"partition": "low"}})
    config = experiment.read_config()
    check_scheduler(experiment, config)
    assert stand_ins.words("sbatch")[:2] == ["--test-only", "--partition=low"]
    stand_ins.says("sbatch", "allocation failure: Invalid partition name specified\n", 1)
    with pytest.raises(LaunchError, match=r"config\.json: .*sbatch says: allocation failure: Invalid partition name"):
        check_scheduler(experiment, config)
    check_scheduler(experiment, config, patient=True)
    assert "Invalid partition name specified; going on with the jobs that were sub" in capsys.readouterr().err
    stand_ins.says("sbatch", "allocation failure: Requested node configuration is not available\n", 1)
    with pytest.raises(LaunchError, match=r"could not run: .*Requested node configuration"):  # most likely for ever
        check_scheduler(experiment, config)
    stand_ins.away()
    with pytest.raises(LaunchError, match=r"Slurm takes no jobs now .Unable to contact slurm controller"):
        check_scheduler(experiment, config)
    check_scheduler(experiment, config, patient=True)
    assert "waiting for it to take the jobs" in capsys.readouterr().err
    check_scheduler(experiment, make_experiment(tmp_path / "local").read_config())  # needs no Slurm


@pytest.mark.parametrize(
    ("changes", "blamed"),
    [
        ({"timeout-s": 600}, True),
        ({"timeout-s": 600, "scheduler-args": {"time": "20"}}, False),
        ({}, False),
    ],
)
def test_a_limit_of_time_that_the_launcher_chose_is_not_taken_for_the_users(
    stand_ins: StandIns, tmp_path: Path, changes: dict[str, Any], blamed: bool
) -> None:
    experiment = make_experiment(tmp_path / "search", scheduler="slurm", **changes)
    stand_ins.says("sbatch", "allocation failure: Requested time limit is invalid (missing or exceeds some limit)", 1)
    with pytest.raises(LaunchError, match="Requested time limit is invalid") as refused:
        check_scheduler(experiment, experiment.read_config())
    assert ("(--time=12, in minutes, is timeout-s and the time to begin" in str(refused.value)) is blamed
    assert ('set "time" in scheduler-args' in str(refused.value)) is blamed

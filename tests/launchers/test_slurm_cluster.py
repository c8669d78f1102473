"""Searches on a real Slurm cluster of three nodes: kills, crashes, limits and outages."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import Cluster
from searching import Recorder, command_line, make_experiment, results, run_command
from seen import processes_of

from hyperpower_runner.driver import Driver, Why
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.job_files import read_json
from hyperpower_runner.launchers import WorkerState
from hyperpower_runner.launchers.slurm import SlurmLauncher, job_options
from hyperpower_runner.trial import Status

pytestmark = pytest.mark.slurm

LIMIT_S = 90.0  # for what takes half a minute at most
RUNS = """
    import json, os, pathlib, sys, time
    job = json.load(open(sys.argv[-1]))
    with open("runs", "a") as runs:
        print(job["id"], os.environ["SLURMD_NODENAME"], os.environ["SLURM_JOB_PARTITION"], file=runs, flush=True)
"""
REPORTS = """
    print(json.dumps({"error": job["params"]["x"]}))
"""
WAITS = """
    while not pathlib.Path("go").exists(): time.sleep(0.05)
"""


def make(root: Path, script: str = RUNS + REPORTS, /, **changes: Any) -> Experiment:
    return make_experiment(root, script, **{"scheduler": "slurm", "polling-time": 0.1, **changes})


def runs(experiment: Experiment) -> list[list[str]]:
    """What scripts ran: their job, their node, and its partition."""
    path = experiment.root / "runs"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def statuses(experiment: Experiment) -> list[Status]:
    return [result.status for result in results(experiment).values()]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


class Search:
    """A search that was started with the command line."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: Path) -> None:
        self.process = process
        self._stderr = stderr

    def ended(self) -> int:
        """Its exit code, once it has one."""
        return self.process.wait(LIMIT_S)

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def runs_until(self, condition: Callable[[], object]) -> None:
        """Wait for something that happens while it runs."""
        wait_until(lambda: condition() or self.process.poll() is not None)
        assert condition(), self.stderr


@contextlib.contextmanager
def started(experiment: Experiment, **environment: str) -> Iterator[Search]:
    stderr = experiment.root / "stderr"
    with stderr.open("wb") as file:
        process = subprocess.Popen(
            command_line("run", experiment.root),
            stdout=subprocess.DEVNULL,
            stderr=file,
            env={**os.environ, **environment},
        )
    try:
        yield Search(process, stderr)
    finally:
        process.kill()
        process.wait()


def drive(
    experiment: Experiment, step: Callable[[Recorder], None] = lambda seen: None, grace_s: float = 1.0, **others: float
) -> tuple[Why, Recorder]:
    """Run a search in this process, with short graces; `step` is called at each tick of its driver."""
    config, seen = experiment.read_config(), Recorder()
    seen.on_tick = lambda summary: step(seen)
    launcher = SlurmLauncher(job_options(config), None, 0.1, seen.note, grace_s, **others)
    with experiment.lock():
        return Driver(experiment, config, experiment.read_models(config), launcher, seen).run().why, seen


def test_a_whole_search_on_three_nodes(cluster: Cluster, tmp_path: Path) -> None:
    experiment = make(tmp_path, budget={"evaluations": 9}, **{"max-concurrent": 3})
    done = run_command("run", tmp_path)
    assert done.returncode == 0, done.stderr
    assert statuses(experiment) == [Status.COMPLETED] * 9
    assert sorted(int(job_id) for job_id, _, _ in runs(experiment)) == list(range(1, 10))
    wait_until(lambda: cluster.jobs() == ["COMPLETED"] * 9)
    assert not processes_of(tmp_path)


def test_a_search_on_slurm_proposes_what_a_local_one_does(cluster: Cluster, tmp_path: Path) -> None:
    searches = [make(tmp_path / "slurm"), make_experiment(tmp_path / "local")]
    for each in searches:
        assert run_command("run", each.root).returncode == 0
    params = [[trial.job.params for trial in each.read_history()] for each in searches]
    assert params[0] == params[1]


def test_a_script_has_the_cores_that_slurm_gave_its_job(cluster: Cluster, tmp_path: Path) -> None:
    script = "import os; print('{\"error\": %s}' % os.environ['OMP_NUM_THREADS'])"
    experiment = make(tmp_path, script, budget={"evaluations": 1}, **{"scheduler-args": {"cpus-per-task": 2}})
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as on many a login node
    subprocess.run(command_line("run", tmp_path), env=environment, check=True, capture_output=True)
    assert results(experiment)[1].metrics["error"] == 2
    assert [trial.job.threads for trial in experiment.read_history()] == [None]


def test_a_job_knows_nothing_of_the_allocation_that_its_driver_runs_in(cluster: Cluster, tmp_path: Path) -> None:
    script = "import os; print('{\"error\": %s}' % os.environ['SLURM_JOB_ID']); assert 'SLURM_NTASKS' not in os.environ"
    experiment = make(tmp_path, script, budget={"evaluations": 1})
    allocated = ["salloc", "-Q", "-n", "3", *command_line("run", tmp_path)]
    done = subprocess.run(allocated, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert statuses(experiment) == [Status.COMPLETED]


@pytest.mark.parametrize("name", ["100 %j", r"100 %j back\slash"])
def test_a_directory_may_have_any_name(cluster: Cluster, tmp_path: Path, name: str) -> None:
    experiment = make(tmp_path / name, budget={"evaluations": 1}, **{"max-retries": 0})
    done = run_command("run", experiment.root)
    assert done.returncode == 0, done.stderr
    assert statuses(experiment) == [Status.COMPLETED]


def test_jobs_go_to_the_partition_of_the_scheduler_args(cluster: Cluster, tmp_path: Path) -> None:
    short = make(tmp_path / "short", **{"scheduler-args": {"partition": "short", "time": "5"}, "max-concurrent": 2})
    main = make(tmp_path / "main", **{"scheduler-args": ["-p", "main", "-w", "n3"], "timeout-s": 600})
    with started(short) as one, started(main) as other:
        assert (one.ended(), other.ended()) == (0, 0), one.stderr + other.stderr
    assert {tuple(row[1:]) for row in runs(short)} == {("n1", "short")}
    assert {tuple(row[1:]) for row in runs(main)} == {("n3", "main")}
    limits = set(cluster.jobs("%P %l"))
    assert limits == {"short 5:00", "main 12:00"}  # the ten minutes of timeout-s, and time to end in order


FAKE_SBATCH = """#!/bin/sh
echo call >>"{log}"
if [ "$(wc -l <"{log}")" = 2 ] && [ "$1" = --parsable ]; then
    {then}
fi
exec "{real}" "$@"
"""


@pytest.mark.parametrize(
    "then",
    [
        pytest.param("kill -9 $PPID; exit 1", id="between the intention and sbatch"),
        pytest.param("kill -9 $PPID; sleep 0.5", id="during sbatch"),
        pytest.param('"{real}" "$@"; kill -9 $PPID; exit 0', id="after sbatch"),
    ],
)
def test_a_driver_that_is_killed_while_it_submits_submits_nothing_twice(
    cluster: Cluster, tmp_path: Path, then: str
) -> None:
    experiment = make(tmp_path / "search", budget={"evaluations": 4}, **{"max-concurrent": 2})
    log, real = tmp_path / "calls", cluster.call("sh", "-c", "command -v sbatch").strip()
    log.write_text("")
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    fake.write_text(FAKE_SBATCH.format(log=log, real=real, then=then.replace("{real}", real)))
    fake.chmod(0o755)
    path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
    with started(experiment, PATH=path) as search:
        assert search.ended() == -signal.SIGKILL
    before = read_json(experiment.job_files(1).launch)
    with started(experiment) as search:
        assert search.ended() == 0, search.stderr
    assert statuses(experiment) == [Status.COMPLETED] * 4
    assert sorted(int(job_id) for job_id, _, _ in runs(experiment)) == [1, 2, 3, 4]
    assert len(set(cluster.jobs("%j"))) == len(cluster.jobs()) == 4  # each was in the queue once
    assert read_json(experiment.job_files(1).launch) == before


def test_a_driver_that_is_killed_between_jobs_takes_over_those_that_wait_and_those_that_run(
    cluster: Cluster, tmp_path: Path
) -> None:
    options = {"max-concurrent": 4, "scheduler-args": {"partition": "short"}}  # which has two slots
    experiment = make(tmp_path, RUNS + WAITS + REPORTS, budget={"evaluations": 5}, **options)
    with started(experiment) as search:
        search.runs_until(lambda: len(runs(experiment)) == 2 and experiment.job_files(4).launch.exists())
        search.process.kill()
    (tmp_path / "go").touch()
    with started(experiment) as search:
        assert search.ended() == 0, search.stderr
    assert statuses(experiment) == [Status.COMPLETED] * 5
    assert sorted(int(job_id) for job_id, _, _ in runs(experiment)) == [1, 2, 3, 4, 5]
    assert len(cluster.jobs()) == 5


def test_a_job_whose_node_died_is_tried_again_on_another(cluster: Cluster, tmp_path: Path) -> None:
    script = RUNS + "    if len(open('runs').readlines()) == 1: time.sleep(600)" + REPORTS
    experiment = make(tmp_path, script, budget={"evaluations": 1})
    crashed: list[str] = []

    def crash(seen: Recorder) -> None:
        if runs(experiment) and not crashed:
            crashed.append(runs(experiment)[0][1])
            cluster.crash_node(crashed[0])

    _, seen = drive(experiment, crash)
    first, second = runs(experiment)
    assert first[1] == crashed[0] != second[1]
    assert statuses(experiment) == [Status.COMPLETED]
    assert any("NODE_FAIL" in note and "attempt 2 of 3" in note for note in seen.notes), seen.notes


def test_a_job_that_beats_is_not_tried_again_although_slurm_lost_its_node(cluster: Cluster, tmp_path: Path) -> None:
    """Of a node only the daemons die. The script beats in its worker's stead, which does so every ten seconds only."""
    beats = """
    while not pathlib.Path("go").exists():
        time.sleep(0.1)
        pathlib.Path(sys.argv[-1]).with_name("heartbeat").touch()
    """
    experiment = make(tmp_path, RUNS + beats + REPORTS, budget={"evaluations": 1})
    ticks_since_lost = 0

    def crash(seen: Recorder) -> None:
        nonlocal ticks_since_lost
        if runs(experiment) and not (tmp_path / "crashed").exists():
            (tmp_path / "crashed").touch()
            cluster.crash_node(runs(experiment)[0][1], jobs=False)
        if "NODE_FAIL" in cluster.jobs():
            ticks_since_lost += 1
        if ticks_since_lost > 40:  # of 0.1 s at least: several graces
            (tmp_path / "go").touch()

    _, seen = drive(experiment, crash)
    assert len(runs(experiment)) == 1
    assert statuses(experiment) == [Status.COMPLETED]
    assert not any("attempt" in note for note in seen.notes)


def test_a_running_job_without_a_heartbeat_is_cancelled_and_tried_again(cluster: Cluster, tmp_path: Path) -> None:
    """A worker beats when it begins, and then every ten seconds, so one second of patience is too short for it."""
    script = RUNS + "    if len(open('runs').readlines()) == 1: time.sleep(600)" + REPORTS
    experiment = make(tmp_path, script, budget={"evaluations": 1})
    _, seen = drive(experiment, silence_s=2.0)
    assert statuses(experiment) == [Status.COMPLETED]
    assert [job_id for job_id, _, _ in runs(experiment)] == ["1", "1"]
    assert any("no sign of life" in note for note in seen.notes)
    wait_until(lambda: cluster.jobs() == ["CANCELLED", "COMPLETED"])


def test_jobs_that_a_user_cancels_in_slurm_are_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    """Four run, two wait, and none has asked its worker to stop."""
    options = {"max-concurrent": 6, "scheduler-args": {"exclude": "n3"}}
    experiment = make(tmp_path, RUNS + WAITS, budget={"hours": 1}, **options)

    def cancel(seen: Recorder) -> None:
        if len(runs(experiment)) == 4 and len(seen.events) == 6 and experiment.stop_request() is None:
            experiment.request_stop("enough")
            cluster.call("scancel", "-u", str(os.getuid()))

    drive(experiment, cancel)
    assert statuses(experiment) == [Status.CANCELLED] * 6
    assert {result.reason for result in results(experiment).values()} == {"it was cancelled in Slurm"}


def test_a_job_that_slurm_ends_at_its_limit_timed_out(cluster: Cluster, tmp_path: Path) -> None:
    """Slurm's limits are in minutes; this one is lowered to none while the job runs."""
    experiment = make(tmp_path, RUNS + WAITS, budget={"evaluations": 1})

    def limit(seen: Recorder) -> None:
        if runs(experiment) and not (tmp_path / "limited").exists():
            (tmp_path / "limited").touch()
            (number,) = cluster.call("squeue", "-h", "-o", "%A").split()
            cluster.call("scontrol", "update", f"JobId={number}", "TimeLimit=0")

    drive(experiment, limit)
    (result,) = results(experiment).values()
    assert (result.status, result.reason) == (Status.TIMED_OUT, "Slurm ended it at its time limit")
    assert len(runs(experiment)) == 1


def test_the_worker_keeps_to_timeout_s_by_itself(cluster: Cluster, tmp_path: Path) -> None:
    experiment = make(tmp_path, RUNS + WAITS, budget={"evaluations": 1}, **{"timeout-s": 0.5})
    drive(experiment)
    (result,) = results(experiment).values()
    assert result.status is Status.TIMED_OUT
    assert "timeout-s" in (result.reason or "")
    wait_until(lambda: cluster.jobs() == ["COMPLETED"])


def test_a_search_survives_a_restart_of_the_controller(cluster: Cluster, tmp_path: Path) -> None:
    """While it is away jobs end and more are to be submitted; unknown is not gone, and nothing is submitted twice."""
    experiment = make(tmp_path, RUNS + WAITS + REPORTS, budget={"evaluations": 6}, **{"max-concurrent": 3})
    away = False

    def restart(seen: Recorder) -> None:
        nonlocal away
        if len(runs(experiment)) == 3 and not away:
            away = True
            cluster.stop_controller()
            (tmp_path / "go").touch()
        if away and len(results(experiment)) >= 3 and any("does not answer" in note for note in seen.notes):
            cluster.start_controller()

    why, seen = drive(experiment, restart, grace_s=5.0)
    assert why is Why.BUDGET
    assert statuses(experiment) == [Status.COMPLETED] * 6
    assert sorted(int(job_id) for job_id, _, _ in runs(experiment)) == [1, 2, 3, 4, 5, 6]
    assert any("answers again" in note for note in seen.notes)
    assert not any("attempt" in note for note in seen.notes)


def test_stop_now_cancels_running_and_waiting_jobs(cluster: Cluster, tmp_path: Path) -> None:
    options = {"max-concurrent": 5, "scheduler-args": {"partition": "short"}}  # which has two slots
    experiment = make(tmp_path, RUNS + WAITS, budget={"evaluations": 9}, **options)
    with started(experiment) as search:
        search.runs_until(lambda: len(runs(experiment)) == 2 and experiment.job_files(5).launch.exists())
        assert run_command("stop", tmp_path, "--now").returncode == 0
        assert search.ended() == 0, search.stderr
    assert statuses(experiment) == [Status.CANCELLED] * 5
    wait_until(lambda: cluster.jobs() == ["CANCELLED"] * 5)
    assert not processes_of(tmp_path)


def test_stop_now_ends_what_a_killed_driver_left_in_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    options = {"max-concurrent": 4, "scheduler-args": {"partition": "short"}}
    experiment = make(tmp_path, RUNS + WAITS, budget={"evaluations": 9}, **options)
    with started(experiment) as search:
        search.runs_until(lambda: len(runs(experiment)) == 2 and experiment.job_files(4).launch.exists())
        search.process.kill()
    done = run_command("stop", tmp_path, "--now")
    assert done.returncode == 0, done.stderr
    assert statuses(experiment) == [Status.CANCELLED] * 4
    wait_until(lambda: cluster.jobs() == ["CANCELLED"] * 4)


def test_a_worker_that_cannot_begin_is_lost_with_the_reason(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    experiment = make(tmp_path, budget={"evaluations": 1}, **{"max-retries": 1})
    drive(experiment, grace_s=0.5)
    (result,) = results(experiment).values()
    assert result.status is Status.LOST
    assert "exit code 127; see" in (result.reason or "")
    assert "output.log) 2 times" in (result.reason or "")
    assert "/nowhere/python" in experiment.job_files(1).log_tail()
    assert not runs(experiment)


def test_a_worker_whose_node_does_not_see_the_directory_says_so(cluster: Cluster, tmp_path: Path) -> None:
    """It waits in the queue until the nodes take jobs again, and meanwhile its directory is gone."""
    experiment = make(tmp_path / "before", budget={"evaluations": 1}, **{"max-retries": 0})
    cluster.call("scontrol", "update", "NodeName=n1,n2,n3", "State=DRAIN", "Reason=test")
    notes: list[str] = []
    launcher = SlurmLauncher(polling_s=0.1, note=notes.append, grace_s=0.5)
    files = experiment.job_files(1)
    files.folder.mkdir(parents=True)
    launcher.submit(files, 1)
    experiment.root.rename(tmp_path / "after")
    cluster.call("scontrol", "update", "NodeName=n1,n2,n3", "State=RESUME")
    wait_until(lambda: launcher.poll({1: files}, 0.1)[1] is WorkerState.GONE)
    assert launcher.fate(files).status is None
    assert "does its node see" in launcher.fate(files).clause


def test_validate_asks_slurm(cluster: Cluster, tmp_path: Path) -> None:
    make(tmp_path)
    assert run_command("validate", tmp_path).returncode == 0
    for wrong, said in (
        ({"partition": "nowhere"}, "invalid partition specified: nowhere"),
        ({"partition": "short", "time": "1:00:00"}, "time limit is invalid"),
        ({"cpus-per-task": 9}, "more processors requested than permitted"),
        (["--nonsense"], "unrecognized option '--nonsense'"),
    ):
        make(tmp_path, **{"scheduler-args": wrong})
        for command in ("validate", "run"):
            done = run_command(command, tmp_path)
            assert done.returncode == 1
            assert said.lower() in done.stderr.lower()
            assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "jobs").exists()

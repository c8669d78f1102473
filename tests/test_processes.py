"""Process identities: a pid alone is not one. And what a dead worker left, which is killed, and nothing else."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from working import PATIENCE_S, end, make_job, result_of, start_worker, wait_until

from hyperpower_runner import processes

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def is_running(pid: int) -> bool:
    return processes._ticks(pid) is not None


@contextlib.contextmanager
def started(command: list[str], env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, which has no others left when the test is over."""
    with subprocess.Popen(command, start_new_session=True, env=env, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def left_by_a_dead_worker(script: str) -> Iterator[tuple[dict[str, object], int]]:
    """The identity of a worker that was killed, and the process whose pid it had printed."""
    read, write = os.pipe()
    command = ["bash", "-c", f"read mark; export {processes.WORKER_VARIABLE}=$mark; {script}"]
    leader = subprocess.Popen(command, start_new_session=True, stdin=read, stdout=subprocess.PIPE)
    os.close(read)
    identity = processes.identity(leader.pid)
    os.write(write, processes.mark_of(identity).encode() + b"\n")
    os.close(write)
    assert leader.stdout is not None
    pid = int(leader.stdout.readline())
    try:
        leader.kill()
        leader.wait()
        yield identity, pid
    finally:
        leader.stdout.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def test_a_process_is_alive_until_it_ends_also_before_it_is_reaped() -> None:
    assert processes.is_alive(processes.own_identity()) is True
    process = subprocess.Popen(SLEEP)
    identity = processes.identity(process.pid)
    assert processes.is_alive(identity) is True
    handle = processes.wait_handle(process.pid)
    process.kill()
    assert handle is not None
    wait_until(lambda: not processes.is_alive(identity))  # it is a zombie as soon as the kernel is done with it
    process.wait()
    assert processes.is_alive(identity) is False
    os.close(handle)


def test_a_pid_that_is_used_again_is_another_process() -> None:
    identity = processes.own_identity()
    assert processes.is_alive({**identity, "start_ticks": identity["start_ticks"] - 1}) is False
    assert processes.is_alive({**identity, "boot_id": "an earlier boot"}) is False
    assert processes.is_alive({**identity, "pid": "17"}) is False
    assert processes.is_alive({}) is None


@pytest.mark.parametrize("key", ["host", "machine", "pid_namespace"])
def test_a_process_of_another_host_or_container_cannot_be_seen(key: str) -> None:
    assert processes.is_alive({**processes.own_identity(), key: "elsewhere"}) is None


def test_a_machine_that_was_started_again_has_none_of_its_processes_left() -> None:
    identity = {**processes.own_identity(), "boot_id": "an earlier boot"}
    assert processes.is_alive(identity) is False
    assert processes.is_alive({**identity, "pid_namespace": "of that boot"}) is False
    assert processes.is_alive({**identity, "machine": "another"}) is None


def test_an_identity_that_an_older_version_wrote_is_still_one() -> None:
    identity = processes.own_identity()
    older = {key: identity[key] for key in ("host", "boot_id", "pid", "start_ticks")}
    assert processes.is_alive(older) is True
    assert processes.is_alive({**older, "start_ticks": 1}) is False


def test_a_system_without_machine_id_or_namespaces_is_known_by_its_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "_MACHINE_ID", tmp_path / "none")
    monkeypatch.setattr(processes, "_PID_NAMESPACE", tmp_path / "none")
    identity = processes.own_identity()
    assert (identity["machine"], identity["pid_namespace"]) == ("", "")
    assert processes.is_alive(identity) is True


def test_nothing_of_a_living_worker_is_killed() -> None:
    with started(["bash", "-c", "sleep 600 & echo $!; wait"]) as leader:
        assert leader.stdout is not None
        child = int(leader.stdout.readline())
        try:
            assert processes.kill_remains(processes.identity(leader.pid)) is True
            assert is_running(child)
            assert leader.poll() is None
        finally:
            os.kill(child, 9)


LEFT = {
    "in its session": "sleep 600 & echo $!; wait",
    "in its session, without an environment": "env -i sleep 600 & echo $!; wait",
    "in another session": "setsid sleep 600 & echo $!; wait",
    "forked twice": "(setsid sh -c 'echo $$; exec sleep 600' &); sleep 600",
}


@pytest.mark.parametrize("where", LEFT)
def test_what_a_dead_worker_left_is_killed(where: str) -> None:
    with left_by_a_dead_worker(LEFT[where]) as (identity, pid):
        assert processes.kill_remains({**identity, "boot_id": "an earlier boot"}) is True
        assert processes.kill_remains({**identity, "host": "elsewhere"}) is True
        assert processes.kill_remains({**identity, "pid_namespace": "elsewhere"}) is True
        assert is_running(pid)
        assert processes.kill_remains(identity) is True
        assert not is_running(pid)


FLEES = """
import os, time
until = time.monotonic() + 60  # when nobody has ended it, it does so itself
if os.fork() == 0:
    print(os.getpid(), flush=True)
    while time.monotonic() < until:  # is always another process
        if os.fork():
            os._exit(0)
        os.setsid()
        time.sleep(0.001)
    os._exit(0)
os.wait()
"""


MULTIPLIES = """
import os, time
for count in range(3000):
    if os.fork() == 0:
        if count == 0:
            print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(0.001)
"""


@pytest.mark.parametrize("script", [FLEES, MULTIPLIES], ids=["is another one every moment", "multiplies"])
def test_what_forks_all_the_time_is_killed(script: str) -> None:
    with left_by_a_dead_worker(f"{sys.executable} -S -c '{script}' & wait") as (identity, _):
        wait_until(lambda: any(processes._remains(identity)))
        assert processes.kill_remains(identity) is True
        for _ in range(3):
            assert not any(processes._remains(identity))


def test_a_worker_that_is_not_buried_yet_is_dead() -> None:
    with started(["bash", "-c", "sleep 600 & echo $!; kill -9 $$"]) as leader:
        assert leader.stdout is not None
        child = int(leader.stdout.readline())
        identity = processes.identity(leader.pid)
        wait_until(lambda: not is_running(leader.pid))
        identity["start_ticks"] = int(processes._stat(leader.pid)[19])
        assert processes.kill_remains(identity) is True
        assert not is_running(child)


def test_a_process_that_only_has_the_pid_or_another_mark_is_left_alone() -> None:
    with left_by_a_dead_worker(LEFT["forked twice"]) as (identity, pid):
        ticks = identity["start_ticks"]
        assert isinstance(ticks, int)
        assert processes.kill_remains({**identity, "start_ticks": ticks - 1}) is True  # another mark
        assert is_running(pid)
        with started(["bash", "-c", "sleep 600 & echo $!; wait"]) as other:
            assert other.stdout is not None
            child = int(other.stdout.readline())
            try:  # its pid is in use again
                assert processes.kill_remains({**processes.identity(other.pid), "start_ticks": 1}) is True
                assert is_running(child)
            finally:
                os.kill(child, 9)


def test_descendants_are_seen_whatever_they_do(tmp_path: Path) -> None:
    before = set(processes.descendants() or [])
    with started(["bash", "-c", "setsid sleep 600 & setsid sleep 600 & echo; wait"]) as leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        try:
            wait_until(lambda: len(set(processes.descendants() or []) - before) == 3)
        finally:
            for pid in set(processes.descendants() or []) - before:
                os.kill(pid, 9)


ENDS_WITH_PARENT = """
import os, subprocess, sys
from hyperpower_runner import processes
prepare = processes.group_that_ends_with_parent()
if sys.argv[1] == "orphan":  # what a child is whose parent died before it could ask to be killed with it
    if os.fork() == 0:
        prepare()
        os.write(1, b"it went on")
    os.wait()
else:
    child = subprocess.Popen(["sleep", "600"], preexec_fn=prepare)
    print(child.pid, os.getpgid(child.pid) == child.pid, os.getsid(child.pid) == os.getsid(0), flush=True)
    os.kill(os.getpid(), 9)
"""


def test_a_python_that_was_built_for_an_older_linux_cannot_say_when_a_process_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)  # as conda's
    assert processes.wait_handle(os.getpid()) is None


def test_a_child_that_is_worth_nothing_without_its_parent_ends_with_it() -> None:
    code = ENDS_WITH_PARENT
    run = subprocess.run([sys.executable, "-c", code, "parent"], capture_output=True, text=True, timeout=60)
    pid, *facts = run.stdout.split()
    assert facts == ["True", "True"]  # it led a group, in its parent's session
    wait_until(lambda: not is_running(int(pid)))


def test_a_child_whose_parent_was_dead_already_does_not_begin() -> None:
    code = ENDS_WITH_PARENT.replace("if os.fork() == 0:", "if os.fork() == 0 and os.fork() == 0:")
    run = subprocess.run([sys.executable, "-c", code, "orphan"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""


def test_workers_are_known_by_their_names_and_their_own_is_left_out(tmp_path: Path) -> None:
    script = """
        import json, os, time
        from hyperpower_runner import processes
        while not os.path.exists("looked"):
            time.sleep(0.01)
        print(json.dumps({"error": 0.5, "own": os.getppid(), "beside": [*processes.workers_beside()]}))
    """
    jobs = [make_job(tmp_path / name, script) for name in ("one", "other")]
    workers = [start_worker(files) for files in jobs]
    try:
        wait_until(lambda: {worker.pid for worker in workers} <= set(processes.workers_beside()))
        (tmp_path / "one" / "looked").touch()
        workers[0].wait(PATIENCE_S)
        result = result_of(jobs[0])
        assert result.metrics["own"] == workers[0].pid
        assert workers[0].pid not in result.extra["beside"]
        assert workers[1].pid in result.extra["beside"]
        assert workers[0].pid not in processes.workers_beside()
    finally:
        for worker in workers:
            end(worker)


@pytest.mark.parametrize(
    ("threads", "exported", "env", "found"),
    [
        (None, "1", {}, "4"),  # the login shell's is not meant for the job
        (None, None, {}, "4"),
        (None, "1", {"OMP_NUM_THREADS": "2"}, "2"),
        (3, None, {}, "3"),
        (3, "1", {}, "1"),  # a local job, be it in an allocation
    ],
)
def test_how_many_threads_a_script_is_told_to_use_in_a_job_of_slurm(
    monkeypatch: pytest.MonkeyPatch, threads: int | None, exported: str | None, env: dict[str, str], found: str
) -> None:
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if exported is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", exported)
    assert processes.script_environment("job.json", threads, env)["OMP_NUM_THREADS"] == found

"""Process identities: a pid alone is not one."""

from __future__ import annotations

import os
import subprocess
import sys

from hyperpower_runner import processes

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def identity_of(process: subprocess.Popen[bytes]) -> dict[str, object]:
    return {**processes.own_identity(), "pid": process.pid, "start_ticks": processes._ticks(process.pid)}


def test_a_process_is_alive_until_it_ends_also_before_it_is_reaped() -> None:
    assert processes.is_alive(processes.own_identity()) is True
    process = subprocess.Popen(SLEEP)
    identity = identity_of(process)
    assert processes.is_alive(identity) is True
    handle = processes.wait_handle(process.pid)
    process.kill()
    assert handle is not None
    while processes.is_alive(identity):  # it is a zombie as soon as the kernel is done with it
        pass
    process.wait()
    assert processes.is_alive(identity) is False
    os.close(handle)


def test_a_pid_that_is_used_again_is_another_process() -> None:
    identity = processes.own_identity()
    assert processes.is_alive({**identity, "start_ticks": identity["start_ticks"] - 1}) is False
    assert processes.is_alive({**identity, "boot_id": "an earlier boot"}) is False
    assert processes.is_alive({**identity, "pid": "17"}) is False
    assert processes.is_alive({}) is None


def test_a_process_of_another_host_cannot_be_seen() -> None:
    assert processes.is_alive({**processes.own_identity(), "host": "elsewhere"}) is None


def test_what_a_dead_session_leader_left_is_killed_and_a_live_one_is_not() -> None:
    leader = subprocess.Popen(
        ["bash", "-c", "sleep 600 & echo $!; wait"], start_new_session=True, stdout=subprocess.PIPE
    )
    assert leader.stdout is not None
    child = int(leader.stdout.readline())
    child_identity = {**processes.own_identity(), "pid": child, "start_ticks": processes._ticks(child)}
    identity = identity_of(leader)
    processes.kill_session(identity)  # the leader lives: nothing happens
    assert processes.is_alive(child_identity) is True
    leader.kill()
    leader.wait()
    leader.stdout.close()
    processes.kill_session({**identity, "boot_id": "an earlier boot"})
    assert processes.is_alive(child_identity) is True
    processes.kill_session(identity)
    while processes.is_alive(child_identity):
        pass

"""A process and all that comes of it. What escapes from scripts is tried in `test_hostile`; here, the tree itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from hyperpower_runner import processes

# Each runs in a process of its own, which has no other children and may become everyone's parent.
BEGIN = """
import os, signal, sys, time
from hyperpower_runner import processes
from hyperpower_runner.supervision import process_tree
from hyperpower_runner.supervision.process_tree import ProcessTree
def wait_until(condition):
    while not condition():
        time.sleep(0.01)
def shell(script):
    return ProcessTree(["bash", "-c", script])
"""


def run(code: str) -> list[str]:
    """What some code about trees prints, in lines."""
    command = [sys.executable, "-c", BEGIN + textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_exit_code_is_that_of_the_child_though_its_orphans_end_before() -> None:
    code = """
    with shell("(setsid true &) ; (setsid sh -c 'exit 3' &) ; sleep 0.2; exit 7") as tree:
        wait_until(lambda: not tree.goes_on())
        print(tree.exit_code, tree.has_left())
    """
    assert run(code) == ["7 False"]


def test_an_exit_code_is_not_lost_where_the_child_ends_between_two_looks() -> None:
    code = """
    with shell("exit 7") as tree:
        wait_until(lambda: processes._ticks(tree.pid) is None)  # it has ended, and nobody has looked
        poll = tree._process.poll
        tree._process.poll = lambda: None
        print(tree.has_left())
        tree._process.poll = poll
        print(tree.goes_on(), tree.exit_code)
    """
    assert run(code) == ["True", "False 7"]


def test_the_context_ends_all_that_is_left() -> None:
    code = """
    with shell("sleep 600 & (setsid sleep 600 &) ; echo begun; wait") as tree:
        tree.stdout.readline()
        wait_until(lambda: len(processes.descendants()) == 3)
    print(processes.descendants(), tree.exit_code)
    """
    assert run(code) == [f"[] {-signal.SIGKILL}"]


def test_all_are_told_to_end_then_killed() -> None:
    code = """
    process_tree.TERM_GRACE_S = 1.0
    waits = "while :; do sleep 9; done"
    child = 'trap "echo child told" TERM; echo; ' + waits
    with shell(f"trap 'echo told' TERM; setsid bash -c '{child}' & {waits}") as tree:
        tree.stdout.readline()
        assert tree.enforce() == float("inf")
        tree.end_within(3600)
        tree.end_within(0)
        tree.end_within(3600)  # the earliest counts
        while tree.goes_on():
            tree.enforce()
            time.sleep(0.01)
        print(tree.signalled, tree.exit_code, sorted(tree.stdout.read().decode().split("\\n"))[1:])
    """
    assert run(code) == [f"True {-signal.SIGKILL} ['child told', 'told']"]


def test_what_even_sigkill_does_not_end_is_given_up() -> None:
    code = """
    process_tree.TERM_GRACE_S = process_tree.KILL_S = 0.1
    process_tree._send = lambda pids, number: None  # as for a process that waits for a dead disk
    tree = shell("echo; sleep 600")
    tree.stdout.readline()
    tree.end_within(0)
    while tree.goes_on():
        tree.enforce()
    print(tree.exit_code, tree.has_left())
    for pid in processes.descendants():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not tree.has_left())
    """
    assert run(code) == ["None True"]


def test_a_child_is_killed_when_its_parent_is(tmp_path: Path) -> None:
    code = "tree = shell('exec sleep 600'); print(tree.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    while processes._ticks(pid) is not None:
        os.sched_yield()

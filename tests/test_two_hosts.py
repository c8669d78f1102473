"""Two hosts that share a directory: who drives it, what the other is told, and what is done when one of them dies.

The other host is a name and a process namespace of its own on this machine, for which one must be root. What one kernel
shows of the other in spite of that, its file locks, is taken away by deleting the lock file, as on a file system whose
locks do not reach.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import faulty
import pytest
from faults import (
    Account,
    Drivers,
    assert_no_run_overlapped,
    assert_nothing_lives,
    text_of,
    victims,
    wait_until,
    witnessed,
)
from faulty import Fault
from searching import run_command

OTHER = "other-host"
BRIEFLY = {  # else seconds to minutes
    **{"presence.BEAT_S": 0.2, "presence.WATCH_S": 3.0, "worker.HEARTBEAT_S": 0.2, "slots.WATCH_S": 5.0},
    **{"launchers.local.LocalLauncher:silence_s": 3.0, "launchers.heartbeats.Heartbeats:look_s": 0.2},
}
UNSHARE = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]


def other_hosts_can_be_had() -> bool:
    if shutil.which("unshare") is None or shutil.which("hostname") is None:
        return False
    return subprocess.run([*UNSHARE, "hostname other"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(
    not other_hosts_can_be_had(), reason="making another host of namespaces needs root, and the program `unshare`"
)


def long_search(folder: Path) -> Path:
    """A search of three jobs, which last until there is a file `short`."""
    root = witnessed(folder / "search", budget={"evaluations": 3}).root
    script = (root / "train.py").read_text()
    waits = 'while not os.path.exists("short"): time.sleep(0.05)'
    (root / "train.py").write_text(script.replace("time.sleep(zlib", f"{waits}\ntime.sleep(zlib"))
    return root


class Host:
    """The other host, with a command that runs there; `sh`, its first process, lives on when that has ended."""

    def __init__(self, root: Path, log: Path, *words: str | Path) -> None:
        self.root = root
        self.log = log
        fault = Fault(str(root), constants=BRIEFLY).to_json()
        command = [sys.executable, faulty.__file__, "once", fault, *map(str, words)]
        script = f'hostname {OTHER}; "$@"; echo "code $?" >&2; sleep 600'
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [*UNSHARE, script, "sh", *command], stdout=file, stderr=file, start_new_session=True
            )

    @property
    def said(self) -> str:
        return text_of(self.log)

    def wait(self) -> int:
        """The exit code of its command."""
        wait_until(lambda: "\ncode " in "\n" + self.said)
        return int(self.said.rpartition("code ")[2])

    def driver(self) -> int:
        """The pid of its driver, as it is seen from here."""
        (pid,) = (
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdecimal() and self._is_driver(entry / "cmdline")
        )
        return pid

    def _is_driver(self, path: Path) -> bool:
        with contextlib.suppress(OSError, ValueError):
            program, _, mode, *words = path.read_bytes().split(b"\0")
            return program == os.fsencode(sys.executable) and mode == b"once" and os.fsencode(self.root) in words
        return False

    def crash(self) -> None:
        """End all that runs there, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def host(root: Path, log: Path, *words: str | Path) -> Iterator[Host]:
    found = Host(root, log, *words)
    try:
        yield found
    finally:
        found.crash()


def begun(root: Path, job_id: int) -> bool:
    return f"begin {job_id} " in text_of(root / "runs")


@pytest.mark.parametrize("locks_reach", [True, False])
def test_a_driver_on_another_host_is_refused_by_host_and_process(
    folder: Path, drivers: Drivers, locks_reach: bool
) -> None:
    root = long_search(folder)
    drivers.start(Fault(str(root), constants=BRIEFLY), "run", root)
    wait_until(lambda: begun(root, 1))
    if not locks_reach:
        (root / "driver.lock").unlink()
    with host(root, folder / "log", "run", root) as other:
        assert other.wait() == 1
        assert f"is already run by process {drivers.pid} on {os.uname().nodename}; wait for it, or end it" in other.said
        assert other.said.count("error: ") == 1
        assert ("watching for" in other.said) is not locks_reach
    (root / "short").touch()
    assert drivers.wait() == 0
    Account.of(root).assert_whole(3, 1)
    assert_no_run_overlapped(root)


@pytest.mark.parametrize("locks_reach", [True, False])
def test_a_driver_on_another_host_is_seen_and_stopped_from_here(folder: Path, locks_reach: bool) -> None:
    root = long_search(folder)
    with host(root, folder / "log", "run", root) as other:
        wait_until(lambda: begun(root, 1))
        if not locks_reach:
            (root / "driver.lock").unlink()
        told = json.loads(run_command("status", root, "--json").stdout)
        assert told["driver"]["host"] == OTHER
        assert told["counts"]["running"] == 1
        stopped = run_command("stop", root)
        assert stopped.returncode == 0, stopped.stderr
        assert f"on {OTHER} to stop" in stopped.stderr
        (root / "short").touch()
        assert other.wait() == 0
        assert "Stopped on request" in other.said
    found = Account.of(root)
    found.assert_whole(1, 1)
    assert found.counts == {"completed": 1}


def test_nothing_is_deleted_while_jobs_of_a_killed_driver_run_on_another_host(folder: Path, drivers: Drivers) -> None:
    """Until that host is gone too: then its silence shows that."""
    root = long_search(folder)
    fault = Fault(str(root), constants=BRIEFLY)
    with host(root, folder / "log", "run", root) as other:
        wait_until(lambda: begun(root, 1))
        os.kill(other.driver(), signal.SIGKILL)
        assert other.wait() == 128 + signal.SIGKILL
        assert drivers.run(fault, "clean", root, "--yes") == 1
        assert f"on {OTHER} left no word" in drivers.said
        assert "jobs [1] are still running" in drivers.said
        assert len(victims(root)["worker"]) == 1
        drivers.start(fault, "run", root)
        wait_until(lambda: "job 1 taken over" in drivers.said)
        assert Account.of(root).attempts == {1: 1}
    # The host has crashed, in the middle of its job.
    (root / "short").touch()
    assert drivers.wait() == 0
    found = Account.of(root)
    found.assert_whole(3, 2)
    assert found.attempts == {1: 2, 2: 1, 3: 1}
    assert set(found.counts) == {"completed"}
    assert_nothing_lives(root)
    assert drivers.run(fault, "clean", root, "--yes") == 0
    assert not (root / "jobs").exists()

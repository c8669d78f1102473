"""A throw-away Slurm cluster on this one machine: a controller and virtual nodes, with directory and ports of its own.

Several can run side by side. It needs no systemd, no cgroups and no accounting; where Slurm is not installed, root gets
it from the packages of Debian or Ubuntu. Whatever a cluster started, its jobs included, is gone when its context ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import filelock

from hyperpower_runner import processes

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
CPUS = 2  # job slots of a node; they may exceed the cores that there are

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={base}/munge.socket,cred_expire=10
SlurmctldPidFile={base}/slurmctld.pid
SlurmctldLogFile={base}/slurmctld.log
StateSaveLocation={base}/state
SlurmdPidFile={base}/%n.pid
SlurmdLogFile={base}/%n.log
SlurmdSpoolDir={base}/%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
EnforcePartLimits=ALL
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=2
SlurmctldTimeout=30
SlurmdTimeout=6
MessageTimeout=5
ReturnToService=2
MailProg=/bin/true
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=n1 MaxTime=10 State=UP
"""


class UnavailableError(Exception):
    """Why there can be no cluster here, in one clause."""


class Cluster:
    """A running cluster. conf: what SLURM_CONF must name for the commands of Slurm to find it."""

    def __init__(self, base: Path, nodes: int) -> None:
        self.base = base
        self.conf = base / "slurm.conf"
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._last = 0  # the number of the last job before

    def call(self, *words: str | Path) -> str:
        """The stdout of one of Slurm's commands; raises CalledProcessError."""
        return subprocess.run(
            list(map(str, words)), env=self._environment(), check=True, capture_output=True, text=True, timeout=60
        ).stdout

    def jobs(self, field: str = "%T") -> list[str]:
        """What squeue says, in the code of its manual, of all jobs since the cluster was healed; by default, states."""
        lines = self.call("squeue", "-h", "-t", "all", "-o", f"%A {field}").splitlines()
        return sorted(said for number, _, said in (line.partition(" ") for line in lines) if int(number) > self._last)

    def start(self) -> None:
        """Bring up all daemons, and wait until every node takes jobs."""
        host, ports = socket.gethostname().partition(".")[0], _free_ports(1 + len(self.nodes))
        rows = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} State=UNKNOWN"
            for name, port in zip(self.nodes, ports[1:], strict=True)
        ]
        user = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
        (self.base / "state").mkdir()
        self.conf.write_text(CONF.format(host=host, port=ports[0], user=user, base=self.base, nodes="\n".join(rows)))
        key = self.base / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self.heal()

    def heal(self) -> None:
        """End all jobs, start what is down, and wait until every node takes jobs."""
        if not self._runs("munged"):
            options = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid"}
            options |= {"log-file": "munged.log", "seed-file": "munged.seed"}
            words = [f"--{option}={self.base / name}" for option, name in options.items()]
            self._launch("munged", ["munged", "--foreground", "--force", "--num-threads=2", *words])
            self._await((self.base / "munge.socket").exists, "munged")
        self.start_controller()
        for name in self.nodes:
            if not self._runs(name):
                (self.base / name).mkdir(exist_ok=True)
                self._launch(name, ["slurmd", "-D", "-N", name, "-f", str(self.conf)])
        with contextlib.suppress(subprocess.CalledProcessError):  # one of them may be about to end
            self.call("scancel", "-u", str(os.getuid()))
        self._await(lambda: self.call("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split() == self._all_idle, "nodes")
        self._last = max(map(int, self.jobs("%A")), default=self._last)

    @property
    def _all_idle(self) -> list[str]:
        return ["idle"] * len(self.nodes)

    def start_controller(self) -> None:
        if not self._runs("slurmctld"):
            self._launch("slurmctld", ["slurmctld", "-D", "-f", str(self.conf)])
        self._await(lambda: "is UP" in self.call("scontrol", "ping"), "slurmctld")

    def stop_controller(self) -> None:
        self._end("slurmctld", signal.SIGTERM)

    def crash_node(self, name: str, *, jobs: bool = True) -> None:
        """Kill a node's daemons at once and, as a power failure would, all of its jobs; or leave those running."""
        self._end(name, signal.SIGKILL)
        of_jobs = [pid for pid in self._processes() if f"SLURMD_NODENAME={name}" in _environment_of(pid)]
        steps = [pid for pid in map(_parent_of, of_jobs) if _name_of(pid).startswith("slurmstepd")]
        for pid in {*steps, *(of_jobs if jobs else ())}:
            _kill(pid)

    def stop(self) -> None:
        """End all daemons and jobs."""
        for name in self._daemons:
            self._end(name, signal.SIGTERM if name == "slurmctld" else signal.SIGKILL)  # it has a child to bury
        while rest := self._processes():
            for pid in rest:
                _kill(pid)
            time.sleep(0.01)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    def _runs(self, name: str) -> bool:
        return name in self._daemons and self._daemons[name].poll() is None

    def _launch(self, name: str, command: list[str]) -> None:
        with (self.base / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command,
                cwd=self.base,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                umask=0o022,
                preexec_fn=processes.group_that_ends_with_parent(),
            )

    def _end(self, name: str, number: signal.Signals) -> None:
        self._daemons[name].send_signal(number)
        self._daemons[name].wait(60)

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(subprocess.CalledProcessError):
                if condition():
                    return
            ended = [name for name in self._daemons if not self._runs(name)]
            if ended or time.monotonic() > deadline:
                logs = "\n".join(path.read_text(errors="replace")[-1000:] for path in self.base.glob("*.out"))
                raise UnavailableError(f"{what} did not come up ({ended} ended): {logs}")
            time.sleep(0.05)

    def _processes(self) -> list[int]:
        """Everything that this cluster started: it finds the way to the cluster in its environment."""
        mark, own = f"SLURM_CONF={self.conf}", os.getpid()
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if pid != own and mark in _environment_of(pid)]


@contextlib.contextmanager
def slurm_cluster(nodes: int = 3) -> Iterator[Cluster]:
    """A cluster for as long as the context lasts; raises UnavailableError."""
    _install()
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:  # sockets have names of 108 bytes at most
        cluster = Cluster(Path(folder), nodes)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _install() -> None:
    """Install Slurm where it is missing; of several processes, one does and the others wait."""
    with filelock.FileLock(Path(tempfile.gettempdir()) / f"slurm-install-{os.getuid()}.lock"):
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        if not missing:
            return
        if os.getuid() != 0 or shutil.which("apt-get") is None:
            raise UnavailableError(f"Slurm is not installed ({', '.join(missing)}), and only root can, with apt-get")
        policy = Path("/usr/sbin/policy-rc.d")  # keeps packages from starting what they install
        made = not policy.exists()
        if made:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        try:
            _apt("update")
            _apt("install", "--yes", "--no-install-recommends", *PACKAGES)
        finally:
            if made:
                policy.unlink()


def _apt(*words: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "-qq", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UnavailableError(f"Slurm could not be installed: {' '.join(command)}: {last}")


def _free_ports(count: int) -> Sequence[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _environment_of(pid: int) -> list[str]:
    try:
        return (Path("/proc") / str(pid) / "environ").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _parent_of(pid: int) -> int:
    try:
        return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(") ")[2].split()[1])
    except OSError:
        return 0


def _name_of(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "comm").read_text().strip()
    except OSError:
        return ""

"""Slurm's commands: how sbatch, squeue and scancel are called, and what they say.

Everything is plain text, and no accounting database is needed. It knows nothing of job folders, and decides nothing.
"""

from __future__ import annotations

import os
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hyperpower_runner.errors import LaunchError, shortened

PREFIX = "hp-"  # of the names under which jobs of ours are in the queue
QUEUE = ["squeue", "-h", "-a", "-r", "-t", "all", "-O", "Name:60 ,State:20 ,exit_code:10 ,Reason:60"]
CALL_S = 90.0  # the longest that a command may take; without an answer they give up by themselves, after 10 to 20 s
LONGEST_COMPLAINT = 300

ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
)
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
# What Slurm says when the same command may succeed later: its controller is away or busy, or other jobs must end first.
AWAY = (
    *("unable to contact slurm controller", "timed out", "connection refused", "zero bytes were transmitted"),
    *("temporarily un", "standby", "transport endpoint", "munge", "authentication"),
)
PASSING = (
    "submitjob",  # of QOSMaxSubmitJobPerUserLimit, AssocGrpSubmitJobsLimit and their like
    *("required partition not available", "required node not available", "configuration not available now"),
    *("i/o error writing script", "try again", "submissions disabled"),
)
# Likewise, once `check` passed; there it is rather the options that are wrong.
DOWN = "requested node configuration is not available"
# Variables that would change what the commands do beyond what their words say; most are options that are refused.
UNWANTED = (
    *("SQUEUE_", "SCANCEL_", "SLURM_CLUSTERS", "SBATCH_CLUSTERS", "SBATCH_ERROR", "SBATCH_OUTPUT"),
    *("SBATCH_ARRAY_INX", "SBATCH_WAIT", "SBATCH_TEST_ONLY"),
)
OF_CLIENTS = ("SLURM_CONF", "SLURM_JWT")  # what the commands need to reach the controller


class LaterError(Exception):
    """A command failed, but may succeed later; its message is Slurm's own."""


class AwayError(LaterError):
    """Slurm's controller did not answer, so that no command would succeed now."""


@dataclass(frozen=True)
class Entry:
    """What squeue says of a job. code: as of wait(2), None where it says none that makes sense."""

    state: str
    code: int | None
    reason: str

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def waits(self) -> bool:
        """Whether it waits for its turn, or for somebody to release it."""
        return self.state in WAITING

    @property
    def started(self) -> bool:
        """Whether it was given its node, so that its worker should have begun."""
        return self.state in ("RUNNING", "COMPLETING")

    @property
    def suspended(self) -> bool:
        """Whether Slurm keeps its processes from running."""
        return self.state in ("SUSPENDED", "STOPPED")

    @property
    def unstarted(self) -> bool:
        """Whether its node could not even open the files for its output: Slurm gives them 53 in place of a signal."""
        return self.code is not None and self.code & 0x7F == 53

    @property
    def how(self) -> str:
        """How it ended, in a few words."""
        if self.state != "FAILED" or self.code is None:
            return self.state
        signal, code = self.code & 0x7F, self.code >> 8
        return f"{self.state}, signal {signal}" if signal else f"{self.state}, exit code {code}"


def submit(words: Sequence[str], name: str, command: str) -> None:
    """Put a job into the queue; raises LaterError, or LaunchError where Slurm does not want it."""
    _call(["sbatch", "--parsable", "--no-requeue", "--job-name", name, *words, "--wrap", command], (*PASSING, DOWN))


def filename_pattern(path: str) -> str:
    """What sbatch's --output must be given for this path: it knows patterns such as %j, but not beside a backslash."""
    return path.replace("\\", "\\\\") if "\\" in path else path.replace("%", "%%")


def check(words: Sequence[str]) -> None:
    """Ask whether a job with these options could run; raises LaterError or LaunchError."""
    _call([*QUEUE, "-u", str(os.getuid())])
    _call(["sbatch", "--test-only", *words, "--wrap", "true"])


def cancel(name: str) -> None:
    """End the user's jobs of a name, waiting or running; raises LaterError or LaunchError."""
    _call(["scancel", "--name", name])


class Query:
    """One call of squeue, which goes on while others do something else.

    asked_s, until_s: when it was made, and when it is given up, on the monotonic clock. wake: a descriptor that becomes
    readable when there is something to `advance`.
    """

    def __init__(self) -> None:
        self.asked_s = time.monotonic()
        self.until_s = self.asked_s + CALL_S
        self._text = b""
        self._process = _start([*QUEUE, "-u", str(os.getuid())])
        assert self._process.stdout is not None
        self.wake = self._process.stdout.fileno()
        os.set_blocking(self.wake, False)
        self._close = weakref.finalize(self, _end, self._process)  # also where nobody waits for the answer any more

    def advance(self) -> dict[str, list[Entry]] | None:
        """Read what there is; at its end return our jobs by name. Raises AwayError where it failed."""
        try:
            while chunk := os.read(self.wake, 1 << 16):
                self._text += chunk
        except BlockingIOError:
            if time.monotonic() < self.until_s:
                return None
            self._process.kill()
        code, text = self._process.wait(), self._text.decode(errors="replace")
        self._close()
        if code:
            raise AwayError(_complaint(text) or f"squeue ended with exit code {code}")
        return _entries(text)


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    process.stdout.close()
    process.kill()  # does nothing to one that has ended
    process.wait()


def _entries(text: str) -> dict[str, list[Entry]]:
    """Read squeue's table; a name stands there twice where a job was submitted twice.

    No row with a name of ours is left out, however odd: a job that is not in the queue would be submitted again.
    """
    entries: dict[str, list[Entry]] = {}
    for line in text.splitlines():
        if line.startswith(PREFIX):
            name, state, code, reason = [*line.split(maxsplit=3), "", "", ""][:4]
            entry = Entry(state, int(code) if code.isdecimal() else None, reason.strip())
            entries.setdefault(name, []).append(entry)
    return entries


def _call(words: Sequence[str], passing: Sequence[str] = PASSING) -> None:
    """Run a command to its end; raises LaterError or LaunchError, which say what it said.

    passing: in lower case, what it says when it is refused now and may not be later.
    """
    process = _start(words)
    try:
        text = process.communicate(timeout=CALL_S)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise AwayError(f"{words[0]} did not answer within {CALL_S:g} s") from None
    if process.returncode == 0:
        return
    complaint = _complaint(text) or f"exit code {process.returncode}"
    if any(sign in text.lower() for sign in AWAY):
        raise AwayError(complaint)
    if any(sign in text.lower() for sign in passing):
        raise LaterError(complaint)
    raise LaunchError(f"{words[0]} says: {complaint}")


def _start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            words,
            env=_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is meant for the driver
        )
    except FileNotFoundError:
        raise LaunchError(f'there is no program "{words[0]}" on the PATH; run this on a host of the cluster') from None
    except OSError as error:  # a machine that is short of everything
        raise AwayError(f"{words[0]} could not be started: {error}") from None


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What a command, and by sbatch a job, finds set: not what Slurm says of an allocation that this process is in."""
    unwanted = UNWANTED if "SLURM_JOB_ID" not in ours else (*UNWANTED, "SLURM_")
    return {name: value for name, value in ours.items() if not name.startswith(unwanted) or name.startswith(OF_CLIENTS)}


def _complaint(text: str) -> str:
    """What Slurm said, as a part of a sentence."""
    lines = [line.strip().partition("error: ") for line in text.splitlines() if not line.startswith("Try ")]
    return shortened("; ".join(filter(None, (after or before for before, _, after in lines))), LONGEST_COMPLAINT)

"""Slurm's commands: how sbatch, squeue and scancel are called, and what they say.

Everything is plain text, and no accounting database is needed. It knows nothing of job folders, and decides nothing.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hyperpower_runner.errors import LaunchError, shortened

PREFIX = "hp-"  # of the names under which jobs of ours are in the queue
NAME_WIDTH = 60
QUEUE = ["squeue", "-h", "-a", "-r", "-t", "all", "-O", f"Name:{NAME_WIDTH} ,State:20 ,exit_code:10 ,Reason:60"]
CALL_S = 90.0  # the longest that a command may take; without an answer they give up by themselves, after 10 to 20 s
LONGEST_COMPLAINT = 300

ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
)
# What Slurm says when the same command may succeed later: its controller is away or busy, or other jobs must end first.
AWAY = (
    *("unable to contact slurm controller", "timed out", "connection refused", "zero bytes were transmitted"),
    *("temporarily un", "standby", "transport endpoint", "munge", "authentication"),
)
FULL = "maxsubmit"  # of QOSMaxSubmitJobPerUserLimit and its like
# Variables that would change what the commands do beyond what their words say.
UNWANTED = ("SQUEUE_", "SCANCEL_", "SBATCH_ARRAY_INX", "SBATCH_WAIT", "SBATCH_TEST_ONLY")


class LaterError(Exception):
    """A command failed, but may succeed later; its message is Slurm's own."""


class AwayError(LaterError):
    """Slurm's controller did not answer, so that no command would succeed now."""


@dataclass(frozen=True)
class Entry:
    """What squeue says of a job. code: as of wait(2)."""

    state: str
    code: int
    reason: str

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def unstarted(self) -> bool:
        """Whether its node could not even open the files for its output: Slurm gives them 53 in place of a signal."""
        return self.code & 0x7F == 53

    @property
    def how(self) -> str:
        """How it ended, in a few words."""
        signal, code = self.code & 0x7F, self.code >> 8
        detail = f", signal {signal}" if signal else f", exit code {code}"
        return self.state + (detail if self.state == "FAILED" else "")


def submit(words: Sequence[str], name: str, command: str) -> None:
    """Put a job into the queue; raises LaterError, or LaunchError where Slurm does not want it."""
    _call(["sbatch", "--parsable", "--no-requeue", "--job-name", name, *words, "--wrap", command])


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
        self._pipe = self._process.stdout
        self.wake = self._pipe.fileno()
        os.set_blocking(self.wake, False)

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
        if code:
            raise AwayError(_complaint(text) or f"squeue ended with exit code {code}")
        return _entries(text)

    def __del__(self) -> None:
        self._pipe.close()
        self._process.kill()  # does nothing to one that has ended
        self._process.wait()


def _entries(text: str) -> dict[str, list[Entry]]:
    """Read squeue's table; a name stands there twice where a job was submitted twice."""
    entries: dict[str, list[Entry]] = {}
    for line in text.splitlines():
        fields = line[NAME_WIDTH:].split(maxsplit=2)
        if line.startswith(PREFIX) and len(fields) == 3 and fields[1].isdigit():
            entry = Entry(fields[0], int(fields[1]), fields[2].strip())
            entries.setdefault(line[:NAME_WIDTH].strip(), []).append(entry)
    return entries


def _call(words: Sequence[str]) -> None:
    """Run a command to its end; raises LaterError or LaunchError, which say what it said."""
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
    if FULL in text.lower():
        raise LaterError(complaint)
    raise LaunchError(f"{words[0]} says: {complaint}")


def _start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(UNWANTED)}
    try:
        return subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is meant for the driver
        )
    except FileNotFoundError:
        raise LaunchError(f'there is no program "{words[0]}" on the PATH; run this on a host of the cluster') from None
    except OSError as error:  # a machine that is short of everything
        raise AwayError(f"{words[0]} could not be started: {error}") from None


def _complaint(text: str) -> str:
    """What Slurm said, as a part of a sentence."""
    lines = [line.strip().partition("error: ") for line in text.splitlines() if not line.startswith("Try ")]
    return shortened("; ".join(filter(None, (after or before for before, _, after in lines))), LONGEST_COMPLAINT)

"""Where jobs run: one protocol, one module for each place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from hyperpower_runner.job_files import JobFiles
from hyperpower_runner.trial import Status


class WorkerState(Enum):
    """What a launcher knows of a worker. A result on disk is trusted before it."""

    ALIVE = "alive"  # it runs, or waits in a queue for its turn
    GONE = "gone"  # it ended, with or without a result
    UNKNOWN = "unknown"  # cannot be seen now; never taken for gone


@dataclass(frozen=True)
class Fate:
    """Why a worker is gone: a clause, and how the job ended where trying again would not help."""

    clause: str
    status: Status | None = None


VANISHED = Fate("its worker vanished")


class Launcher(Protocol):
    """Starts workers, says how they fare, and ends them. Attempts at a job are numbered from 1."""

    def submit(self, files: JobFiles, attempt: int) -> None:
        """Start a worker for a job; raises LaunchError."""
        ...

    def poll(self, jobs: dict[int, JobFiles], timeout_s: float) -> dict[int, WorkerState]:
        """Say how the workers of `jobs` (by job id) fare; return early from `timeout_s` when one of them ends."""
        ...

    def fate(self, files: JobFiles) -> Fate:
        """Say why the worker of a job, which `poll` called gone, left no result."""
        ...

    def cancel(self, files: JobFiles, reason: str) -> None:
        """Ask a job to end now; its worker writes the result. Of a worker that is gone, end what it left running."""
        ...

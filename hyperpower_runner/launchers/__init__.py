"""Where jobs run: one protocol of three verbs, one module for each place."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from hyperpower_runner.job_files import JobFiles


class WorkerState(Enum):
    """What a launcher knows of a worker. A result on disk is trusted before it."""

    ALIVE = "alive"
    GONE = "gone"  # it ended, with or without a result
    UNKNOWN = "unknown"  # cannot be seen now; never taken for gone


class Launcher(Protocol):
    """Starts workers, says how they fare, and ends them. Attempts at a job are numbered from 1."""

    def submit(self, files: JobFiles, attempt: int) -> None:
        """Start a worker for a job; raises LaunchError."""
        ...

    def poll(self, jobs: dict[int, JobFiles], timeout_s: float) -> dict[int, WorkerState]:
        """Say how the workers of `jobs` (by job id) fare; return early from `timeout_s` when one of them ends."""
        ...

    def cancel(self, files: JobFiles, reason: str) -> None:
        """Ask a job to end now; its worker writes the result. Of a worker that is gone, end what it left running."""
        ...

"""One attempt at a job: claimed by one worker, so that no other makes it too, and clear of what earlier ones left.

The claim is the file attempt-N.json, which says whose it is. It knows nothing of what a worker does with it.
"""

from __future__ import annotations

import errno
import os

from hyperpower_runner import processes
from hyperpower_runner.job_files import JobFiles, fsync_directory, write_json


class Attempt:
    """An attempt, 1, 2, ..., at the job in a folder, as the process makes it that calls."""

    def __init__(self, files: JobFiles, number: int) -> None:
        self.files = files
        self.number = number
        self.identity = processes.own_identity()
        self._file = files.attempt(number)
        self._next = files.attempt(number + 1)
        self._look: tuple[int, int] | None = None

    def claim(self) -> bool:
        """Make it this process's; False where it is another's, who runs it. Raises OSError."""
        claim = {**self.identity, "folder": str(self.files.folder.resolve())}
        if write_json(self._file, claim, exclusive=True):
            fsync_directory(self.files.folder.parent)  # with this, the job itself survives a power loss
        elif not self._is_own():  # made before the disk was full
            return False
        self._look = _look(self._file.stat())
        return True

    def counts(self) -> bool:
        """Whether it is, or still is, what the job waits for. Raises OSError where that cannot be seen.

        It is not where it was taken for lost, and a later one begun, or where the folder is another job's by now,
        since a search was deleted, and another one started in its place.
        """
        if self._next.exists():
            return False
        if self._look is None:
            return True
        try:
            found = _look(self._file.stat())
        except FileNotFoundError:
            return not self.files.folder.exists()  # a shared file system may be away
        if found != self._look and not self._is_own():  # else somebody touched or restored it
            return False
        self._look = found
        return True

    def end_remains(self) -> None:
        """Kill what earlier attempts left running on this machine; raises OSError where something cannot be killed."""
        for number in range(1, self.number):
            if not processes.kill_remains(self.files.claim(number) or {}):
                raise OSError(
                    errno.EAGAIN, "what an earlier attempt left running cannot be ended", str(self.files.folder)
                )

    def _is_own(self) -> bool:
        found = self.files.claim(self.number) or {}
        return all(found.get(key) == value for key, value in self.identity.items())


def _look(found: os.stat_result) -> tuple[int, int]:
    return found.st_ino, found.st_mtime_ns

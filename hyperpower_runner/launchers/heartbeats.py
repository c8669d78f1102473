"""Heartbeats seen from another host: for how long a worker has given no sign of life.

Only changes of a file's time are looked at, on this host's monotonic clock: the clocks of hosts differ, and jump. While
nobody looked there was no silence: this process was stopped, or the file system away. It decides nothing.
"""

from __future__ import annotations

import time

from hyperpower_runner.job_files import JobFiles, touched_ns

LOOK_S = 5.0  # between two looks at one job: a shared file system pays for each
LONGEST_GAP_S = 20.0  # between two looks, of which more does not count: within it a worker beats twice


class Heartbeats:
    """The heartbeats of several jobs, watched since the first time that each was asked for.

    look_s: the least time between two looks at one job.
    """

    def __init__(self, look_s: float = LOOK_S) -> None:
        self._look_s = look_s
        self._seen: dict[str, tuple[object, float, float]] = {}  # by job folder: signs, when they changed, last look

    def silent_s(self, files: JobFiles) -> float:
        """For how many seconds no sign of life was seen to change: 0.0 when it is asked for the first time."""
        now_s, key = time.monotonic(), str(files.folder)
        signs, changed_s, looked_s = self._seen.get(key, (None, now_s, -self._look_s))
        if now_s - looked_s >= self._look_s:
            found = _signs(files)
            unwatched_s = max(0.0, now_s - looked_s - LONGEST_GAP_S)
            changed_s = changed_s + unwatched_s if found == signs else now_s
            self._seen[key] = found, changed_s, now_s
        return now_s - changed_s

    def forget(self, files: JobFiles) -> None:
        """Begin anew with the next question."""
        self._seen.pop(str(files.folder), None)


def _signs(files: JobFiles) -> list[int]:
    """What changes while a worker lives: the time of its heartbeat, and the claim of an attempt."""
    return [touched_ns(files.heartbeat), files.last_attempt()]

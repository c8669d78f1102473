"""What a worker shows and sees in its job's folder: that it lives; whether others want the job to end.

A shared file system pays for each look, so most of them are one `stat` of the folder, whose time changes when a file
appears in it. It does not know what is done about what it sees.
"""

from __future__ import annotations

import contextlib

from hyperpower_runner.job_files import JobFiles, touched_ns
from hyperpower_runner.supervision.attempt import Attempt
from hyperpower_runner.untrusted import open_regular

SURE_S = 10.0  # after so long also an unchanged folder is searched: its time may be a cached or a coarse one
LONGEST_REQUEST = 1000


class JobWatch:
    """The folder of a job, watched by the worker that makes the given attempt at it.

    stop_reason: what the request to stop says, None where there is none. is_given_up: whether the attempt counts no
    more.
    """

    def __init__(self, files: JobFiles, attempt: Attempt) -> None:
        self.files = files
        self.attempt = attempt
        self.stop_reason: str | None = None
        self.is_given_up = False
        self._modified_ns = 0
        self._sure_at = 0.0

    def beat(self) -> None:
        """Say that the worker lives; a beat that is missed must not end a training."""
        with contextlib.suppress(OSError):
            self.files.heartbeat.touch()

    def look(self, now: float, *, sure: bool = False) -> None:
        """Look for what others wrote; sure: whether the folder's time shall not be trusted.

        now: on the monotonic clock.
        """
        sure = sure or now >= self._sure_at
        try:
            modified_ns = touched_ns(self.files.folder) if sure else self.files.folder.stat().st_mtime_ns
            if sure or modified_ns != self._modified_ns:
                if self.stop_reason is None and self.files.stop.exists():
                    self.stop_reason = self._request()
                self.is_given_up = self.is_given_up or not self.attempt.counts()
                self._modified_ns, self._sure_at = modified_ns, now + SURE_S
        except OSError:
            return  # a shared file system is away: so much the later

    def _request(self) -> str:
        try:
            with open_regular(self.files.stop) as file:
                text = file.read(LONGEST_REQUEST).decode("utf-8", errors="replace").strip()
        except OSError:
            text = ""
        return text or "it was asked to stop"

"""The queue of Slurm, looked at now and then: when squeue is called, and for how long the controller is left alone.

The calls go on while others do something else. It knows nothing of job folders, and decides nothing about jobs.
"""

from __future__ import annotations

import math
import select
import time

from hyperpower_runner.launchers.slurm_commands import AwayError, Entry, Query

LONGEST_PAUSE_S = 60.0  # between two calls of squeue, where they fail or are slow
SHARE = 10.0  # the controller is left alone for so many times as long as it took to answer


class Queue:
    """What squeue says, asked once each `polling_s` seconds at most.

    asked_s: when it was asked for what it said last, on the monotonic clock; -inf before its first answer.
    """

    def __init__(self, polling_s: float) -> None:
        self.asked_s = -math.inf
        self._polling_s = polling_s
        self._pause_s = polling_s
        self._query: Query | None = None
        self._next_s = -math.inf  # when it is asked again
        self._hurried = False
        self._waited_s = 0.0  # for the answer; not what else this process did meanwhile

    def look(self) -> dict[str, list[Entry]] | None:
        """Ask where it is time to, and return the answer, jobs of ours by name; None while there is none.

        Raises AwayError where squeue failed, which is then asked less and less often; LaunchError where it is missing.
        """
        if self._query is None and not self._hurried and time.monotonic() < self._next_s:
            return None
        try:
            if self._query is None:
                self._hurried, self._waited_s = False, 0.0
                self._query = Query()
            answer = self._query.advance()
        except AwayError:
            self._pause(min(2 * self._pause_s, max(self._polling_s, LONGEST_PAUSE_S)))
            raise
        if answer is not None:
            self.asked_s = self._query.asked_s
            self._pause(max(self._polling_s, min(SHARE * self._waited_s, LONGEST_PAUSE_S)))
        return answer

    def _pause(self, pause_s: float) -> None:
        self._query, self._pause_s = None, pause_s
        self._next_s = time.monotonic() + pause_s

    def hurry(self) -> None:
        """Have squeue asked at once, as soon as it has answered what it was asked before."""
        self._hurried = True

    def wait(self, longest_s: float, wake: int | None) -> bool:
        """Sleep until there is something to `look` at, or for `longest_s`; True where the descriptor `wake` ends it."""
        descriptors = [] if wake is None else [wake]
        if self._query is not None:
            until_s = self._query.until_s
            descriptors.append(self._query.wake)
        else:
            until_s = -math.inf if self._hurried else self._next_s
        begun_s = time.monotonic()
        timeout_s = max(0.0, min(longest_s, until_s - begun_s))
        readable, _, _ = select.select(descriptors, [], [], timeout_s)
        self._waited_s += min(timeout_s, time.monotonic() - begun_s)  # it may have been stopped
        return wake in readable

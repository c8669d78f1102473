"""How a worker waits for a child: what the child prints is taken, and what is due is done, until all of it has ended.

It knows the signals that ask the worker itself to end, not what is done about them.
"""

from __future__ import annotations

import os
import select
import selectors
import signal
import time
from collections.abc import Callable
from types import FrameType

from hyperpower_runner.supervision.process_tree import ProcessTree
from hyperpower_runner.supervision.script_output import Stream

DRAIN_S = 0.5  # for output that is still in the pipes when the child has ended
QUIET_S = 0.1  # of these, when what it left behind prints nothing
BLIND_POLL_S = 0.02  # where the system cannot say when a process ends


class Orders:
    """The signals that ask this process to end, or are meant for its child; they wake it, and interrupt nothing.

    number: of the first that asks it to end, or None. wake: a descriptor that becomes readable when one comes.
    """

    def __init__(self) -> None:
        """Take them from whoever forked this process, together with what else of signals a worker relies on."""
        self.number: int | None = None
        self._passed_on: list[int] = []
        self.wake, write = os.pipe()
        for descriptor in (self.wake, write):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda number, frame: self._passed_on.append(number))
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would take the exit codes away
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number

    def passed_on(self) -> list[int]:
        """The signals that have come for the child: schedulers can announce the end of a job by one."""
        found, self._passed_on = self._passed_on, []
        return found

    def wait(self, seconds: float) -> None:
        """Sleep, until a signal comes at the longest."""
        if select.select([self.wake], [], [], seconds)[0]:
            self.acknowledge()

    def acknowledge(self) -> None:
        """Let `wake` be readable at the next signal only."""
        os.read(self.wake, 4096)


def attend(child: ProcessTree, streams: list[Stream], orders: Orders, tick: Callable[[], float]) -> None:
    """Let a child run to its end, and take what is in its pipes then.

    streams: of what it prints. tick: does what is due, and says when something is next, on the monotonic clock.
    """
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream.pipe, selectors.EVENT_READ, stream)
        selector.register(orders.wake, selectors.EVENT_READ, orders)
        ended = child.ended
        if ended is not None:
            selector.register(ended, selectors.EVENT_READ)
        while child.goes_on():
            wake_at = tick()
            if ended is not None and child.exit_code is not None:  # the others are in their grace
                selector.unregister(ended)
                ended = None
            if ended is None:
                wake_at = min(wake_at, time.monotonic() + BLIND_POLL_S)
            _take(selector, wake_at - time.monotonic())
        if ended is not None:
            selector.unregister(ended)
        selector.unregister(orders.wake)
        until = time.monotonic() + DRAIN_S  # whatever it left behind may hold the pipes open for ever
        while selector.get_map() and time.monotonic() < until:
            if not _take(selector, QUIET_S if child.has_left() else 0.0):
                break


def _take(selector: selectors.BaseSelector, timeout_s: float) -> bool:
    """Wait for something to happen, and take what was printed; False where nothing did."""
    happened = selector.select(max(0.0, timeout_s))
    for key, _ in happened:
        if isinstance(key.data, Stream):
            if not key.data.read():
                selector.unregister(key.fileobj)
        elif isinstance(key.data, Orders):
            key.data.acknowledge()
    return bool(happened)

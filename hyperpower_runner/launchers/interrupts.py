"""Ctrl-C and SIGTERM, counted instead of raised: an exception in the middle of a write would leave it half done."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let a signal that asks to end raise KeyboardInterrupt, as Ctrl-C does: what was begun is ended in order."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupts:
    """A context in which SIGINT and SIGTERM only count, and a search outlives its terminal.

    count: how many came; wake: a descriptor that becomes readable when one does, to end a wait.
    """

    def __init__(self) -> None:
        self.count = 0
        self.wake, self._write = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(self._write, False)
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        # A window is closed, a connection lost. By a handler, since what is ignored stays so for programs started here.
        self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda number, frame: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.wake)
        os.close(self._write)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        os.write(self._write, b"!")

    def acknowledge(self) -> int:
        """Return the count, and let the next wait sleep again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, 4096)
        return self.count

"""What a script prints: copied to output.log, which is kept from filling the disk, and the end of it remembered.

It does not know what the lines mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from pathlib import Path
from typing import IO

LOG_LIMIT = 8 << 20  # bytes of output.log; beyond, its middle is left out
LOG_HEAD, LOG_TAIL = 64 << 10, 1 << 20  # what is kept of it
CHUNK = 1 << 16  # what a pipe holds
STDOUT, STDERR = 1, 2
_NOTE = re.compile(rb"\n\[\.\.\. (\d+) bytes left out \.\.\.\]\n")
_LONGEST_NOTE = 64


class OutputLog:
    """This process's stdout, and where that is the file at `path`, a limit on its size.

    Of a longer log the first LOG_HEAD bytes are kept, a line that says how much was left out, and the last LOG_TAIL.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = 0  # of what is known to be in the file
        self._is_capped = False
        self._in_line = False
        with contextlib.suppress(OSError):
            found = os.fstat(STDOUT)
            self._is_capped = stat.S_ISREG(found.st_mode) and os.path.samestat(found, path.stat())
            if self._is_capped:
                self._size = found.st_size
                fcntl.fcntl(STDOUT, fcntl.F_SETFL, fcntl.fcntl(STDOUT, fcntl.F_GETFL) | os.O_APPEND)  # also after a cut

    def write(self, chunk: bytes) -> None:
        """Append to the log; what cannot be written is lost, which must not end an evaluation."""
        with contextlib.suppress(OSError):
            self._size += os.write(STDOUT, chunk)
            self._in_line = not chunk.endswith(b"\n")
            if self._is_capped and self._size > LOG_LIMIT:
                self._cut()

    def say(self, sentence: str) -> None:
        """Print a line of the worker's own to stderr, which is the same file where a launcher started it."""
        line = ("\n" if self._in_line else "") + sentence + "\n"
        with contextlib.suppress(OSError):
            self._size += os.write(STDERR, line.encode("utf-8", errors="backslashreplace"))
            self._in_line = False

    def _cut(self) -> None:
        """Leave out the middle. What is left is written over it before the end is cut off: a kill loses nothing."""
        with self.path.open("r+b") as file:
            if not os.path.samestat(os.fstat(file.fileno()), os.fstat(STDOUT)):  # somebody put another file there
                self._is_capped = False
                return
            size = file.seek(0, os.SEEK_END)
            file.seek(LOG_HEAD)
            earlier = _NOTE.match(file.read(_LONGEST_NOTE))
            begin = LOG_HEAD + (earlier.end() if earlier else 0)
            left_out = size - LOG_TAIL - begin + (int(earlier[1]) if earlier else 0)
            file.seek(size - LOG_TAIL)
            kept = b"\n[... %d bytes left out ...]\n" % left_out + file.read(LOG_TAIL)
            file.seek(LOG_HEAD)
            file.write(kept)
            file.truncate()
            self._size = LOG_HEAD + len(kept)


class Stream:
    """One output of a child, read as it comes: the last `most_bytes` are remembered.

    log: where it is copied to, if anywhere.
    """

    def __init__(self, pipe: IO[bytes], most_bytes: int, log: OutputLog | None = None) -> None:
        self.pipe = pipe
        self._most_bytes = most_bytes
        self._log = log
        self._kept = bytearray()

    def read(self) -> bool:
        """Take what is in the pipe, which must be something; False at its end."""
        chunk = os.read(self.pipe.fileno(), CHUNK)
        if self._log is not None and chunk:
            self._log.write(chunk)
        self._kept += chunk
        if len(self._kept) > 2 * self._most_bytes:
            del self._kept[: -self._most_bytes]
        return bool(chunk)

    @property
    def tail(self) -> bytes:
        """The end of what has come."""
        return bytes(self._kept[-self._most_bytes :])

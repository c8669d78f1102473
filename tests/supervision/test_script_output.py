"""The log of a job: a copy of what the script prints, with its beginning, its end, and an honest count of the rest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hyperpower_runner.supervision.script_output import LOG_HEAD, LOG_LIMIT, LOG_TAIL, Stream

NOTE = re.compile(rb"\n\[\.\.\. (\d+) bytes left out \.\.\.\]\n")

WRITES = """
import sys
from pathlib import Path
from hyperpower_runner.supervision.script_output import OutputLog
def block(number):
    return (b"%07d." % number) * 8192  # 64 KiB
log = OutputLog(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    log.write(block(number))
{then}
"""


def write(log: Path, begin: int, end: int, then: str = "", mode: str = "ab") -> None:
    """Write 64 KiB blocks of numbers to a log from a process whose stdout it is."""
    command = [sys.executable, "-c", WRITES.format(then=then), str(log), str(begin), str(end)]
    with log.open(mode) as file:
        subprocess.run(command, stdout=file, stderr=file, check=True, timeout=60)


def whole(begin: int, end: int) -> bytes:
    return b"".join((b"%07d." % number) * 8192 for number in range(begin, end))


def check(log: bytes, written: bytes) -> None:
    """The log is the beginning of what was written, the number of bytes that are missing, and its end."""
    note = NOTE.search(log)
    assert note is not None
    assert note.start() == LOG_HEAD
    assert log[:LOG_HEAD] == written[:LOG_HEAD]
    tail = log[note.end() :]
    assert len(tail) >= LOG_TAIL
    assert written.endswith(tail)
    assert int(note[1]) == len(written) - LOG_HEAD - len(tail)
    assert len(NOTE.findall(log)) == 1


def test_a_short_log_is_a_copy(tmp_path: Path) -> None:
    write(tmp_path / "log", 0, 127)
    assert (tmp_path / "log").read_bytes() == whole(0, 127)


@pytest.mark.parametrize("blocks", [129, 240, 241, 700])
def test_the_middle_of_a_long_log_is_left_out(tmp_path: Path, blocks: int) -> None:
    write(tmp_path / "log", 0, blocks)
    log = (tmp_path / "log").read_bytes()
    assert len(log) <= LOG_LIMIT
    check(log, whole(0, blocks))


def test_the_count_goes_on_in_the_next_attempt(tmp_path: Path) -> None:
    write(tmp_path / "log", 0, 300)
    write(tmp_path / "log", 300, 600)
    check((tmp_path / "log").read_bytes(), whole(0, 600))


def test_a_log_that_was_not_opened_for_appending_gets_no_hole(tmp_path: Path) -> None:
    write(tmp_path / "log", 0, 300, mode="wb")
    check((tmp_path / "log").read_bytes(), whole(0, 300))


def test_a_file_that_others_put_there_is_left_alone(tmp_path: Path) -> None:
    then = "import os; os.rename(sys.argv[1], sys.argv[1] + '.old'); open(sys.argv[1], 'wb').write(b'z' * 20_000_000)\n"
    write(tmp_path / "log", 0, 100, then + "for number in range(100): log.write(block(number))")
    assert (tmp_path / "log").read_bytes() == b"z" * 20_000_000
    assert (tmp_path / "log.old").stat().st_size == 200 << 16


def test_a_line_of_the_worker_stands_on_its_own(tmp_path: Path) -> None:
    write(tmp_path / "log", 0, 1, "log.write(b'torn'); log.say('one'); log.say('two'); log.write(b'on')")
    assert (tmp_path / "log").read_bytes()[1 << 16 :] == b"torn\none\ntwo\non"


def test_output_that_goes_nowhere_raises_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITES.format(then="log.say('x')"), str(tmp_path / "none"), "0", "3"]
    with Path("/dev/full").open("wb") as full:
        subprocess.run(command, stdout=full, stderr=full, check=True, timeout=60)


@pytest.mark.parametrize("sizes", [[0], [3], [10], [11], [30], [7, 7, 7, 1]])
def test_the_end_of_a_stream_is_remembered(sizes: list[int]) -> None:
    read, write_end = os.pipe()
    expected = b""
    with os.fdopen(read, "rb", buffering=0) as pipe:
        stream = Stream(pipe, 10)
        for number, size in enumerate(sizes):
            chunk = bytes([97 + number]) * size
            expected += chunk
            if chunk:
                os.write(write_end, chunk)
                assert stream.read()
        os.close(write_end)
        assert not stream.read()
        assert stream.tail == expected[-10:]

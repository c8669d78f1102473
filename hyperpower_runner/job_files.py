"""The files of one job, and how JSON reaches a disk: atomically, strictly, with a schema number.

Driver, worker and wrapper scripts all go through here, so it imports nothing but the standard library and `errors`.
It does not know what the fields mean. One writer per file:

    job.json         driver, once          progress.jsonl   script, appended
    attempt-1.json   worker, once          output.log       worker, appended
    result.json      once, atomically      heartbeat        worker, touched
    trained.json     worker, once: the result before the network is measured
    launch.json      launcher, where workers wait in a queue: under which name the latest one was put there
    stop             whoever asks the job to stop, with the reason
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hyperpower_runner.errors import PASSING, ExperimentError, shortened
from hyperpower_runner.untrusted import open_regular, parse_json, regular

SCHEMA = 1
LONGEST_LINE = 1 << 20  # of an appended file, with its end; a longer one is passed over
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # of systems without hard links
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1  # of linux/fcntl.h and linux/fs.h


def write_json(path: Path, content: dict[str, Any], *, exclusive: bool = False, named: bool = True) -> bool:
    """Write an object with its schema number, atomically; see `write_text`."""
    text = json.dumps({"schema": SCHEMA, **strict(content)}, indent=1, allow_nan=False) + "\n"
    return write_text(path, text, exclusive=exclusive, named=named)


def write_text(path: Path, text: str, *, exclusive: bool = False, named: bool = True) -> bool:
    """Write a file: temporary file, fsync, rename, all in the same directory.

    With `exclusive` an existing file is left alone and False is returned; True says that this call wrote it.
    named: whether its name, too, must survive a power loss from now on; its content does whenever its name does.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")  # also other hosts and threads write here
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            if not _give_name(temporary, path):
                return False
        else:
            temporary.replace(path)
        if named:
            fsync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _give_name(temporary: Path, path: Path) -> bool:
    """Give a file the name that it is for, unless that is taken; False where it is."""
    try:
        os.link(temporary, path)  # unlike rename, fails where the name is taken
    except FileExistsError:
        return temporary.stat().st_nlink > 1  # NFS may have made the link, and lost its first answer
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return _rename_to_free_name(temporary, path)
    return True


def _rename_to_free_name(temporary: Path, path: Path) -> bool:
    """The same where there are no hard links; False where the name is taken."""
    import ctypes  # here, since it costs what few need

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux has it
    if rename is not None:
        if rename(_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(path), _RENAME_NOREPLACE) == 0:
            return True
        code = ctypes.get_errno()
        if code == errno.EEXIST:
            return False
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code), str(path))
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # the claim; filled by the rename
    except FileExistsError:
        return False
    temporary.replace(path)
    return True


def make_folder(path: Path) -> None:
    """Make a directory, and those above it, so that they survive a power loss; one that exists is left alone."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Make a rename or a new name in `path` survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def touched_ns(path: Path) -> int:
    """When a file was last modified, 0 where there is none. It is opened, because NFS then asks its server."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)


def strict(value: Any) -> Any:
    """Replace the floats that JSON has no literal for by the strings "NaN", "Infinity" and "-Infinity"."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def last_object(stdout: bytes) -> dict[str, Any] | None:
    """The JSON object that a script printed as the last line of its stdout; None where it is none."""
    lines = [line for line in stdout.splitlines() if line.strip()]
    try:
        content = json.loads(lines[-1]) if lines else None
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def as_number(value: Any) -> float | None:
    """Read a JSON value as a number, the strings of `strict` included; None where it is not one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if isinstance(value, str) and re.fullmatch(r"[+-]?(nan|inf|infinity)", value, re.IGNORECASE):
        return float(value)
    return None


def read_json(path: Path | str) -> dict[str, Any] | None:
    """Read an object, or None where the file does not exist.

    Raises ExperimentError for a file that is unreadable, is not a JSON object, or has a newer schema number; OSError
    of the kinds in PASSING, which say nothing of the file.
    """
    return read_json_and_look(path)[0]


def read_json_and_look(path: Path | str) -> tuple[dict[str, Any] | None, os.stat_result | None]:
    """Likewise, and how the file that was read looked: its size and times."""
    try:
        text, look = _whole(path)
        content = parse_json(text)
    except FileNotFoundError:
        return None, None
    except OSError as error:
        if error.errno in PASSING:
            raise
        raise ExperimentError(f"{path}: cannot be read ({error.strerror or error}); mend this, then go on") from None
    except ValueError as error:
        raise ExperimentError(f"{path}: cannot be read as JSON ({error}); restore the file or delete it") from None
    if not isinstance(content, dict):
        raise ExperimentError(f"{path}: a JSON object was expected, found {type(content).__name__}")
    check_schema(content, str(path))
    return content, look


def _whole(path: Path | str) -> tuple[bytes, os.stat_result]:
    """The content of a file, in a third of the time that Python's own files take: there may be 100,000 jobs."""
    descriptor = regular(path, os.O_RDONLY)
    try:
        look = os.fstat(descriptor)
        text = os.read(descriptor, look.st_size + 1)
        while len(text) != look.st_size and (more := os.read(descriptor, LONGEST_LINE)):
            text += more  # it grows, or comes in parts
    finally:
        os.close(descriptor)
    return text, look


def check_schema(content: dict[str, Any], where: str) -> None:
    """Raise ExperimentError, naming `where`, for a file of a newer version."""
    schema = content.get("schema", SCHEMA)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise ExperimentError(
            f"{where}: its schema number is {shortened(repr(schema))}, but this version knows numbers up to {SCHEMA};"
            " use a newer hyperpower_runner"
        )


def append_json_line(path: Path, content: dict[str, Any], *, durable: bool = False) -> None:
    """Append one object as a line; a torn last line is closed first, so that it spoils no other.

    durable: whether it must survive a power loss.
    """
    line = (json.dumps(strict(content), allow_nan=False) + "\n").encode()
    descriptor = regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        while line:  # a disk that is nearly full takes a part, and then says why
            line = line[os.write(descriptor, line) :]
        if durable:
            os.fsync(descriptor)
            if not size:
                fsync_directory(path.parent)
    finally:
        os.close(descriptor)


def read_json_lines(
    path: Path, shortcut: Callable[[bytes], dict[str, Any] | None] = lambda line: None
) -> Iterator[dict[str, Any]]:
    """Yield the objects of an appended file; lines that are torn or are not objects are passed over.

    shortcut: gives what is wanted of a whole line that it knows how to read faster.
    """
    try:
        with open_regular(path) as file:
            for line in file:
                content = shortcut(line) or _object_of(line)
                if content is not None:
                    yield content
    except FileNotFoundError:
        return


def _object_of(line: bytes) -> dict[str, Any] | None:
    try:
        content = parse_json(line) if len(line) <= LONGEST_LINE else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


class AppendedLines:
    """The objects of an appended file, read as it grows: each look costs what was added since the last.

    A last line without its end is left for the next look. A file that shrank is read from its start again.
    offset: up to where it was read, in bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0

    def new(self, most_bytes: int = 16 * LONGEST_LINE) -> list[dict[str, Any]]:
        """What was added since the last look, of at most so many bytes; the rest is for the next one."""
        try:
            with open_regular(self.path) as file:
                size = file.seek(0, os.SEEK_END)
                self.offset = self.offset if size >= self.offset else 0
                file.seek(self.offset)
                chunk = file.read(most_bytes)
        except FileNotFoundError:
            return []
        ended = chunk.rfind(b"\n") + 1
        # Of a line that is too long, so much is read once more that the rest of it is too long as well.
        self.offset += ended or max(0, len(chunk) - LONGEST_LINE)
        objects = map(_object_of, io.BytesIO(chunk[:ended]))
        return [content for content in objects if content is not None]


def last_json_line(path: Path, limit_bytes: int = 8192) -> dict[str, Any] | None:
    """The last object of an appended file, looked for in its last bytes only; None where none can be read."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - limit_bytes))
            objects = [_object_of(line) for line in file]
    except OSError:  # there is none yet, or a script made something else of that name
        return None
    return next((content for content in reversed(objects) if content is not None), None)


class _File:
    """A path in the folder of a job, made when it is asked for, since of 100,000 jobs few are."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, files: JobFiles, owner: type[JobFiles]) -> Path:
        return files.folder / self.name


class JobFiles:
    """The folder of one job: `jobs/000012`."""

    job = _File("job.json")
    progress = _File("progress.jsonl")
    result = _File("result.json")
    trained = _File("trained.json")
    output = _File("output.log")
    heartbeat = _File("heartbeat")
    launch = _File("launch.json")
    stop = _File("stop")

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def attempt(self, number: int) -> Path:
        """The claim of the worker that makes the given attempt (1, 2, ...) at the job."""
        return self.folder / f"attempt-{number}.json"

    def last_attempt(self) -> int:
        """The number of the latest attempt that a worker claimed; 0 before the first."""
        number = 0
        while self.attempt(number + 1).exists():
            number += 1
        return number

    def request_stop(self, reason: str) -> None:
        """Ask whoever runs the job to end it. No error where there is no room or no folder: a signal must do then."""
        try:
            write_text(self.stop, reason + "\n")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT):
                raise

    def claim(self, attempt: int) -> dict[str, Any] | None:
        """Who claimed an attempt; None for one that nobody did, nothing of whom where that cannot be read."""
        try:
            return read_json(self.attempt(attempt)) if attempt else None
        except ExperimentError:
            return {}

    def signs_s(self) -> tuple[float, float] | None:
        """When the latest attempt was claimed, and its worker's last sign of life; None before the first."""
        attempt = self.last_attempt()
        try:
            claimed_s = self.attempt(attempt).stat().st_mtime if attempt else None
        except FileNotFoundError:
            return None
        if claimed_s is None:
            return None
        try:
            return claimed_s, max(claimed_s, self.heartbeat.stat().st_mtime)
        except FileNotFoundError:
            return claimed_s, claimed_s

    def log_tail(self, lines: int = 12, limit_bytes: int = 8192) -> str:
        """The last lines of output.log, or '' where none can be read."""
        try:
            with open_regular(self.output) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - limit_bytes))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.rstrip().splitlines()[-lines:])

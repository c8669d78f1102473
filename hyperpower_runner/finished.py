"""What finished jobs came to, in one file, so that a search of many need not open two for each when it is resumed.

state/finished.jsonl holds what many jobs have in common once, under its digest, and then a line for each job:

    {"schema": 1, "common": "9f2c06...", "names": ["x", "n"], "job": {"command": ["./train"], ...}, "sum": 25819}
    {"id": 12, "of": "9f2c06...", "stamp": [...], "key": "51...", "job": {"params": [0.3, 7], ...}, "result": ..., ...}

It is a cache: a line is believed only where its checksum is right, and while time of change and size of the job's
job.json and result.json are those of its stamp. Whatever else stands there is passed over. The one driver that holds
the directory writes it. Nothing is lost where it is deleted, or cannot be written. It does not know which jobs there
are, and judges none.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import compress
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

from hyperpower_runner.job_files import LONGEST_LINE, SCHEMA
from hyperpower_runner.trial import Job, Result, Status, Trial
from hyperpower_runner.untrusted import open_regular

OWN = ("params", "seed", "deadline", "predictions", "extrapolated", "surrogate", "created_s")  # in which jobs differ
ABSENT: tuple[object, ...] = (None, {}, [], "")  # what stands where nothing is written
SUM = b',"sum":'
DECODER = json.JSONDecoder()
Stamp = list[int]  # of job.json and result.json: time of change in nanoseconds, and size


class FinishedJobs:
    """The cache of a directory's finished jobs.

    file: state/finished.jsonl; jobs: the directory that holds their folders. unkept: finished jobs that `read` did not
    give, each with the stamp of the files that it was read from.
    """

    def __init__(self, file: Path, jobs: Path) -> None:
        self.file = file
        self.jobs = jobs
        self._common: dict[str, tuple[list[str], dict[str, Any]]] = {}  # by digest: names of params, fields of the job
        self.unkept: list[tuple[Stamp, Trial]] = []
        self._good = bytearray()  # of each line that was read, whether it was believed
        self._latest: tuple[dict[str, Any], str] = {}, ""

    def stamp(self, job_id: int) -> Stamp | None:
        """How the files of a job look now; None where it has no result."""
        folder = f"{self.jobs}/{job_id:06d}"
        try:
            looks = [os.stat(f"{folder}/{name}") for name in ("job.json", "result.json")]  # noqa: PTH116 Path is slower
        except OSError:
            return None
        return stamp_of(*looks)

    def read(self) -> dict[int, Trial]:
        """The finished jobs whose files are as they were when they were written down."""
        trials: dict[int, Trial] = {}
        self._common, self._good, self.unkept = {}, bytearray(), []
        with contextlib.suppress(OSError), open_regular(self.file) as file:
            for line in _lines_of(file):
                self._good.append(self._believed(line, trials))
        return trials

    def keep(self) -> None:
        """Write down what is `unkept`; lines that `read` did not believe go when they have become many."""
        unkept, good = self.unkept, self._good
        self.unkept, self._good = [], bytearray()  # it is not tried again where there is no room
        with contextlib.suppress(OSError):
            if 4 * good.count(0) > len(good):
                self._rewrite(good, unkept)
            elif unkept:
                self._append(unkept)

    def append(self, trial: Trial) -> None:
        """Write down one more finished job."""
        self.keep()
        stamp = self.stamp(trial.job_id)
        if stamp is not None:
            with contextlib.suppress(OSError):
                self._append([(stamp, trial)])

    def _believed(self, line: bytes, trials: dict[int, Trial]) -> bool:
        """Take in one line; False where it is torn, foreign, out of date, or there twice."""
        try:
            body, _, found = line.rpartition(SUM)
            if not line.endswith(b"}\n") or int(found[:-2]) != crc32(body):
                return False
            content, _ = DECODER.raw_decode(line.decode())
            return self._take_common(content) if "common" in content else self._take_job(content, trials)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):  # what another version wrote
            return False

    def _take_common(self, content: dict[str, Any]) -> bool:
        digest = content["common"]
        if content["schema"] != SCHEMA or digest in self._common:
            return False
        # What most jobs lack is shared too.
        fields = {"predictions": {}, "extrapolated": [], "surrogate": {}, **content["job"]}
        self._common[digest] = [sys.intern(name) for name in content["names"]], fields
        return True

    def _take_job(self, content: dict[str, Any], trials: dict[int, Trial]) -> bool:
        job_id, stamp = content["id"], self.stamp(content["id"])
        if stamp is None or stamp != content["stamp"] or job_id in trials:
            return False
        names, common = self._common[content["of"]]
        job, result = {**common, **content["job"]}, content["result"]
        job["params"] = dict(zip(names, job["params"], strict=True))
        result["status"] = Status(result["status"])
        result["metrics"] = {sys.intern(name): value for name, value in result.get("metrics", {}).items()}
        trials[job_id] = Trial(Job(job_id, **job), Result(**result), known_key=bytes.fromhex(content["key"]))
        return True

    def _lines(self, finished: Iterable[tuple[Stamp, Trial]]) -> Iterator[bytes]:
        for stamp, trial in finished:
            assert trial.result is not None
            job, result = trial.job.to_json(), trial.result.to_json()
            own = {name: value for name in OWN if (value := job.pop(name)) not in ABSENT}
            own["params"], names, job_id = list(trial.params.values()), list(trial.params), job.pop("id")
            common = {"names": names, "job": job}
            digest = self._digest_of(common)
            if digest not in self._common:
                self._common[digest] = names, job
                yield _line({"schema": SCHEMA, "common": digest, **common})
            told = {name: value for name, value in result.items() if value not in ABSENT}
            key = trial.key.hex()
            line = _line({"id": job_id, "of": digest, "stamp": stamp, "key": key, "job": own, "result": told})
            if len(line) <= LONGEST_LINE:  # else its files are read each time
                yield line

    def _digest_of(self, common: dict[str, Any]) -> str:
        if common != self._latest[0]:
            text = json.dumps(common, sort_keys=True)
            self._latest = common, blake2b(text.encode(), digest_size=12).hexdigest()
        return self._latest[1]

    def _append(self, finished: list[tuple[Stamp, Trial]]) -> None:
        with self.file.open("a+b") as file:
            if file.seek(0, os.SEEK_END) == 0:
                self._common.clear()
            else:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a driver was killed in the middle of a line
                    file.write(b"\n")
            file.writelines(self._lines(finished))

    def _rewrite(self, good: bytearray, finished: list[tuple[Stamp, Trial]]) -> None:
        temporary = self.file.with_name(f".{self.file.name}.new")
        try:
            with self.file.open("rb") as old, temporary.open("wb") as new:
                new.writelines(compress(_lines_of(old), good))
                new.writelines(self._lines(finished))
            temporary.replace(self.file)
        finally:
            temporary.unlink(missing_ok=True)


def stamp_of(job: os.stat_result | None, result: os.stat_result | None) -> Stamp | None:
    """The stamp of a finished job, by how its job.json and result.json look; None where one is not there."""
    if job is None or result is None:
        return None
    return [job.st_mtime_ns, job.st_size, result.st_mtime_ns, result.st_size]


def _lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; one that is too long comes in pieces, none of which will be believed."""
    return iter(lambda: file.readline(LONGEST_LINE), b"")


def _line(content: dict[str, Any]) -> bytes:
    """One line, with the checksum of what stands before it. A NaN stands as Python reads it, since nobody else does."""
    body = json.dumps(content, separators=(",", ":"))[:-1].encode()
    return body + SUM + b"%d}\n" % crc32(body)

"""How JSON reaches the disk: whole or not at all, once where it must be, and readable after a torn write."""

from __future__ import annotations

import ctypes
import errno
import json
import math
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpower_runner import job_files
from hyperpower_runner.errors import ExperimentError
from hyperpower_runner.job_files import (
    SCHEMA,
    JobFiles,
    append_json_line,
    as_number,
    last_json_line,
    read_json,
    read_json_lines,
    strict,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_what_is_written_is_read_with_its_schema_number(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    assert write_json(path, {"id": 3, "text": "\u00e9\n"})
    assert read_json(path) == {"schema": SCHEMA, "id": 3, "text": "\u00e9\n"}
    assert names(tmp_path) == ["job.json"]


def test_writing_again_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    write_json(path, {"a": "x" * 10_000})
    write_json(path, {"b": 1})
    assert read_json(path) == {"schema": SCHEMA, "b": 1}


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("broken", ["fsync", "link or replace"])
def test_a_failing_write_leaves_what_was_there_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exclusive: bool, broken: str
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError("no space left on device")

    if not exclusive:
        write_json(tmp_path / "job.json", {"a": "old"})
    before = names(tmp_path)
    if broken == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(os, "link", fail)
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_json(tmp_path / "job.json", {"a": "new"}, exclusive=exclusive)
    assert names(tmp_path) == before
    if not exclusive:
        assert read_json(tmp_path / "job.json") == {"schema": SCHEMA, "a": "old"}


def test_what_is_not_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "job.json", {"a": object()})
    assert names(tmp_path) == []


def test_content_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "job.json", []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        seen.append((path.exists(), os.fstat(descriptor).st_size))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_json(path, {"a": 1})
    assert not seen[0][0]
    assert seen[0][1] == path.stat().st_size
    assert seen[-1][0], "the directory is synced after the rename"


def test_an_exclusive_write_leaves_an_existing_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert write_json(path, {"by": 1}, exclusive=True)
    assert not write_json(path, {"by": 2}, exclusive=True)
    assert read_json(path) == {"schema": SCHEMA, "by": 1}
    assert names(tmp_path) == ["result.json"]


@pytest.mark.parametrize("lacking", ["nothing", "hard links", "hard links and renameat2"])
def test_among_threads_one_exclusive_write_wins_and_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    if "links" in lacking:
        monkeypatch.setattr(os, "link", refuse)
    if "rename" in lacking:
        monkeypatch.setattr(ctypes, "CDLL", lambda *arguments, **options: object())
    for attempt in range(20):
        path = tmp_path / f"attempt-{attempt}.json"
        won: list[int] = []
        barrier = threading.Barrier(6)

        def write(who: int, path: Path = path, won: list[int] = won, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            if write_json(path, {"by": who, "fill": str(who) * 5000}, exclusive=True):
                won.append(who)

        run_all([threading.Thread(target=write, args=(who,)) for who in range(6)])
        assert len(won) == 1
        assert read_json(path) == {"schema": SCHEMA, "by": won[0], "fill": str(won[0]) * 5000}
    assert len(names(tmp_path)) == 20


def claim(folder: str, who: int) -> None:
    for attempt in range(50):
        if write_json(Path(folder) / f"claim-{attempt}.json", {"by": who}, exclusive=True):
            append_json_line(Path(folder) / f"won-{who}.jsonl", {"attempt": attempt})


def test_among_processes_one_exclusive_write_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    run_all([context.Process(target=claim, args=(str(tmp_path), who)) for who in range(3)])
    won = {who: [line["attempt"] for line in read_json_lines(tmp_path / f"won-{who}.jsonl")] for who in range(3)}
    assert sorted(attempt for attempts in won.values() for attempt in attempts) == list(range(50))
    for who, attempts in won.items():
        for attempt in attempts:
            assert read_json(tmp_path / f"claim-{attempt}.json") == {"schema": SCHEMA, "by": who}


def run_all(workers: list[Any]) -> None:
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    write_json(path, {"n": 0, "fill": ""})
    stop = threading.Event()

    def rewrite() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            write_json(path, {"n": n, "fill": str(n) * 3000})

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(300):
            content = read_json(path)
            assert content is not None
            assert content["fill"] == (str(content["n"]) * 3000 if content["n"] else "")
    finally:
        stop.set()
        writer.join()


def test_a_missing_file_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "job.json") is None
    assert read_json(tmp_path / "no" / "folder" / "job.json") is None
    assert list(read_json_lines(tmp_path / "progress.jsonl")) == []


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "cannot be read as JSON"),
        (b'{"a": 1', "cannot be read as JSON"),
        (b"\xff\xfe{}", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[1, 2]", "object was expected, found list"),
        (b"null", "object was expected"),
        (b'{"schema": 2}', "schema number is 2"),
        (b'{"schema": 1.5}', "schema number is 1.5"),
        (b'{"schema": "one"}', "schema number is 'one'"),
    ],
)
def test_a_file_that_cannot_be_understood_is_refused_by_its_name(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(ExperimentError) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert part in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="cannot be read"):
        read_json(tmp_path)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.EIO, errno.EACCES])
def test_nobody_is_told_to_delete_what_the_system_could_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(path: Path, flags: int) -> int:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(job_files, "regular", fail)
    passes = code not in (errno.EIO, errno.EACCES)
    with pytest.raises(OSError if passes else ExperimentError) as caught:
        read_json(tmp_path / "result.json")
    assert str(tmp_path / "result.json") in str(caught.value)
    assert "delete it" not in str(caught.value)


def test_a_file_without_a_schema_number_counts_as_the_first(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"id": 1}')
    assert read_json(tmp_path / "job.json") == {"id": 1}


def test_a_newer_schema_is_met_with_advice(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(f'{{"schema": {SCHEMA + 1}}}')
    with pytest.raises(ExperimentError, match="use a newer hyperpower_runner"):
        read_json(tmp_path / "job.json")


def test_lines_are_read_in_the_order_in_which_they_were_appended(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    for epoch in range(5):
        append_json_line(path, {"epoch": epoch})
    assert [line["epoch"] for line in read_json_lines(path)] == list(range(5))
    assert path.read_bytes().count(b"\n") == 5


@pytest.mark.parametrize("kept", range(1, 21))
def test_a_torn_last_line_is_passed_over_and_does_not_spoil_the_next(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "progress.jsonl"
    append_json_line(path, {"epoch": 1})
    whole = path.read_bytes()
    torn = b'{"epoch": 2, "loss": 1}'[:kept]
    path.write_bytes(whole + torn)
    assert [line["epoch"] for line in read_json_lines(path)] == [1]
    append_json_line(path, {"epoch": 3})
    assert [line["epoch"] for line in read_json_lines(path)] == [1, 3]
    assert path.read_bytes() == whole + torn + b'\n{"epoch": 3}\n'


def test_a_whole_last_line_that_only_lacks_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_bytes(b'{"epoch": 1}')
    append_json_line(path, {"epoch": 2})
    assert [line["epoch"] for line in read_json_lines(path)] == [1, 2]


@pytest.mark.parametrize("garbage", [b"", b"\x00\x00", b"\xff\xfe", b"null", b"[1]", b"3", b"{", b"[" * 100_000, b"\r"])
def test_lines_that_are_no_objects_are_passed_over(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_bytes(b'{"epoch": 1}\n' + garbage + b'\n{"epoch": 2}\n')
    assert [line["epoch"] for line in read_json_lines(path)] == [1, 2]


@pytest.mark.parametrize("write", [write_json, append_json_line])
def test_numbers_that_json_has_no_literal_for_are_written_as_texts(tmp_path: Path, write: Callable[..., Any]) -> None:
    path = tmp_path / "result.json"
    write(path, {"a": [math.nan, {"b": math.inf}], "c": (-math.inf, 1.5), "d": "nan"})

    def refuse(literal: str) -> None:
        raise AssertionError(f"{literal} is no JSON")

    content = json.loads(path.read_text(), parse_constant=refuse)
    content.pop("schema", None)
    assert content == {"a": ["NaN", {"b": "Infinity"}], "c": ["-Infinity", 1.5], "d": "nan"}


PLAIN = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.floats(allow_nan=False, allow_infinity=False)
)
NESTED = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@given(NESTED)
def test_strict_changes_nothing_else(value: Any) -> None:
    assert strict(value) == value


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1.0),
        (0.5, 0.5),
        (-3, -3.0),
        ("Infinity", math.inf),
        ("-Infinity", -math.inf),
        ("inf", math.inf),
        (10**400, math.inf),
        (-(10**400), -math.inf),
    ],
)
def test_numbers_are_read_from_json(value: Any, number: float) -> None:
    assert as_number(value) == number
    assert isinstance(as_number(value), float)


@pytest.mark.parametrize("value", ["NaN", "nan", "-nan", "+NaN", math.nan])
def test_nan_is_read_as_nan(value: Any) -> None:
    number = as_number(value)
    assert number is not None
    assert math.isnan(number)


@pytest.mark.parametrize(
    "value", [None, True, False, "1", "0.5", "", "+-nan", "--inf", "infinite", " nan", [], {}, [1]]
)
def test_what_is_no_number_is_none(value: Any) -> None:
    assert as_number(value) is None


@given(st.floats())
def test_every_float_survives_strict_and_json(value: float) -> None:
    number = as_number(json.loads(json.dumps(strict(value), allow_nan=False)))
    assert number == value or (number is not None and math.isnan(number) and math.isnan(value))


def test_the_files_of_a_job_have_the_names_of_the_contract(tmp_path: Path) -> None:
    files = JobFiles(tmp_path)
    found = [files.job, files.progress, files.result, files.output, files.heartbeat, files.stop]
    assert [path.name for path in found] == [
        "job.json", "progress.jsonl", "result.json", "output.log", "heartbeat", "stop",
    ]  # fmt: skip
    assert {path.parent for path in found} == {tmp_path}


def test_the_last_attempt_is_the_last_of_an_unbroken_row(tmp_path: Path) -> None:
    files = JobFiles(tmp_path)
    assert files.last_attempt() == 0
    for number in (1, 2, 3, 5):
        files.attempt(number).touch()
    assert files.last_attempt() == 3


def test_a_pipe_in_place_of_a_file_that_is_only_shown_shows_nothing(tmp_path: Path) -> None:
    files = JobFiles(tmp_path)
    for path in (files.progress, files.output):
        os.mkfifo(path)
    assert last_json_line(files.progress) is None
    assert files.log_tail() == ""


def test_the_log_tail_is_the_last_lines(tmp_path: Path) -> None:
    files = JobFiles(tmp_path)
    assert files.log_tail() == ""
    files.output.write_bytes(b"".join(b"line %d\n" % n for n in range(5000)) + b"\xff\n\n")
    assert files.log_tail(lines=3) == "line 4998\nline 4999\n\ufffd"
    assert len(files.log_tail(lines=10**6, limit_bytes=100)) <= 100


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="the system has no file whose size is not its length")
def test_a_file_whose_size_is_not_its_length_is_read_to_its_end() -> None:
    """As one that somebody writes at this moment."""
    text, look = job_files._whole("/proc/version")
    assert text == Path("/proc/version").read_bytes()
    assert len(text) > look.st_size == 0


def test_a_long_file_is_read_whole(tmp_path: Path) -> None:
    content = {"text": "ä" * 3_000_000}
    job_files.write_json(tmp_path / "long.json", content)
    assert job_files.read_json(str(tmp_path / "long.json")) == {"schema": 1, **content}

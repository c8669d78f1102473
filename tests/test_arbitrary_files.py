"""Whatever stands in the files of an experiment, a command ends with 0, or with one sentence that names the file.

Each file of a small search is spoilt in turn (see `spoilt`), and what reads it is run in this process, as the command
line would be. `--hypothesis-profile=long` runs twenty times as many examples, other ones each time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from searching import read_and_keep, run_command
from spoilt import Place, make_dangling, make_endless, make_loop, make_pipe, replaced, spoilt, spoilt_lines, times

from hyperpower_runner import cli, presence, processes, slots
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.hardware.measurement import Window
from hyperpower_runner.hardware.profile import Point, append_event, append_point
from hyperpower_runner.job_files import append_json_line, write_json
from hyperpower_runner.launchers import local
from hyperpower_runner.stopping import StoppingRule
from hyperpower_runner.trial import Job, Rejection, Result, Status

NOBODY = 65534
HANG_S = 60  # of one command in this process, on a machine that is busy

CONFIG: dict[str, Any] = {
    "experiment-name": "any",
    "objective": {"command": ["./train.sh"], "env": {"SPEED": "1"}, "epochs": 3},
    "optimize": "error",
    "variables": {
        "x": {"type": "FLOAT", "min": 0.001, "max": 1, "scale": "log"},
        "n": {"type": "INT", "min": 1, "max": 50},
        "act": {"type": "ENUM", "options": ["relu", "tanh"], "structural": False},
        "widths": {"type": "INT", "min": 8, "max": 64, "size": 2},
    },
    "known-constraints": ["n * x <= 45"],
    "constraints": {
        "power_w": {"max": 95, "confidence": 0.8, "recalibrate": True},
        "memory_bytes": "1.15 GB",
        "error": 0.9,
    },
    "method": "rand",
    "method-args": {"initial-points": 4},
    "platform": {"meter": "simulated-gtx1070", "batch-size": 128, "measure-jobs": False},
    "early-termination": {"classes": 10, "after-epochs": 2},
    "budget": {"evaluations": 5, "hours": 1.0},
    "max-concurrent": 1,
    "max-retries": 0,
    "timeout-s": 20,
    "polling-time": 0.05,
    "seed": 1,
}
MODELS: dict[str, Any] = {
    "platform": {"meter": "simulated-gtx1070", "batch-size": 128, "simulated": True},
    "models": {
        "power_w": {
            "form": "linear",
            "weights": {"n": 0.5, "widths[0]": 0.1},
            "intercept": 40.0,
            "ranges": {"n": [1, 50], "widths[0]": [8, 64]},
            **{"rmspe": 0.01, "spread": 0.001, "rmspe_constant": 0.1},
            **{"samples": 12, "structures": 12, "folds": 10, "repeats": 5},
            "forms": {"linear": {"rmspe": 0.01, "spread": 0.001}, "computed": {"left_out": "no features"}},
            "ratios": [0.97 + 0.005 * place for place in range(11)] + [None],
        },
        "memory_bytes": {"form": "polynomial", "weights": {"n * widths[1]": 1e4, "log(n)^2": 1e6}, "intercept": 3e8},
    },
}
SCRIPT = """#!/bin/sh
echo '{"error": 0.3, "power_w": 50, "memory_bytes": 1000}'
"""


def params_of(number: int) -> dict[str, Any]:
    return {
        "x": 0.07 * number,
        "n": 3 * number,
        "act": ["relu", "tanh"][number % 2],
        "widths": [9 * number % 50 + 8, 9],
    }


def make_search(root: Path) -> None:
    """Three finished jobs and one whose worker has died, with models and a profile."""
    (root / "hardware").mkdir(parents=True)
    experiment = Experiment(root)
    experiment.config_file.write_text(json.dumps(CONFIG, indent=1))
    (root / "train.sh").write_text(SCRIPT)
    (root / "train.sh").chmod(0o755)
    config = experiment.read_config()
    write_json(experiment.models_file, MODELS)
    platform = MODELS["platform"]
    append_event(experiment.profile_file, "idle", {"power_w": 8.0, "platform": platform})
    for number in range(1, 13):
        params = params_of(number)
        window = Window({"power_w": 40.0 + params["n"] / 2, "memory_bytes": 3e8 + 1e6 * params["n"] + number % 3})
        point = Point(number, params, (window, window), platform, idle_power_w=8.0)
        append_point(experiment.profile_file, point, config.protocol, 1000.0)
    append_event(experiment.profile_file, "reference", {"params": params_of(1), "power_w": 50, "platform": platform})
    for number in range(1, 5):
        job = Job(
            job_id=number,
            params=params_of(number),
            seed=number,
            command=["./train.sh"],
            env={"SPEED": "1"},
            epochs=3,
            timeout_s=20.0,
            stopping_rule=StoppingRule(classes=10).to_json(),
            predictions={"power_w": 60.0, "memory_bytes": 4e8},
            extrapolated=["power_w"],
            surrogate={"converged": False},
            platform=dict(config.platform),
            created_s=1000.0 * number,
        )
        experiment.write_job(job)
        files = experiment.job_files(number)
        write_json(files.attempt(1), dead_process())
        for epoch in (1, 2):
            append_json_line(files.progress, {"id": number, "epoch": epoch, "error": 0.5, "loss": 1.5 / epoch})
        if number < 4:
            result = Result(
                Status.COMPLETED,
                {"error": 0.1 * number, "power_w": 50.0 + number, "memory_bytes": None},
                epoch=2.0,
                extra={"note": "x", "measurement": {"reason": "no"}},
                started_s=1000.0 * number,
                ended_s=1000.0 * number + 5,
                host="here",
                exit_code=0,
            )
            experiment.write_result(number, result)
            write_json(files.trained, {"id": number, **result.to_json()})
            first = ({"params": params_of(9), "predictions": {"power_w": 99.0}},)
            experiment.append_rejection(number, Rejection(3, first), config.platform)
    experiment.state.mkdir()
    read_and_keep(experiment)


def dead_process() -> dict[str, Any]:
    """Of another boot, so that no change of it means a process that lives: what claims say is acted on."""
    return {**processes.own_identity(), "boot_id": "another"}


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files as they should be."""
    root = tmp_path_factory.mktemp("arbitrary") / "search"
    make_search(root)
    return root


@pytest.fixture(scope="module", autouse=True)
def _no_patience() -> Iterator[None]:
    """What cannot be seen from here is not watched for long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "WATCH_S", 0.0)
        patch.setattr(presence, "WATCH_S", 0.0)
        patch.setattr(local, "LocalLauncher", partial(local.LocalLauncher, silence_s=0.0))
        yield


# --- commands


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


class HungError(Exception):
    """A command that waits for something that will not come."""


def call(*words: str | Path) -> Ended:
    """Run the command line in this process."""

    def hang(number: int, frame: FrameType | None) -> None:
        raise HungError(shlex.join(map(str, words)))

    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    code: Any = 0
    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(HANG_S)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["hyperpower-runner", *map(str, words)])
            patch.setenv("NO_COLOR", "1")
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    cli.main()
                except SystemExit as end:
                    code = end.code or 0
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(errors="replace"))
    return Ended(code, *texts)


OPTIONS = {"clean": ["--yes"], "fit": ["--form", "linear"], "run": ["--evaluations", "5"]}
LOOKS = ("validate", "status", "status --json", "best", "best --json")
QUIET = ("validate", "status", "best")  # on stderr they say one sentence, if any; others also what they wait for


def call_on(root: Path, command: str) -> Ended:
    name, *more = command.split()
    return call(name, root, *more, *OPTIONS.get(name, []))


def check(ended: Ended, command: str, *named: str) -> None:
    """One sentence that names the file, or what was asked for."""
    name = command.split()[0]
    assert ended.code in (0, 1, 2), ended
    assert "Traceback" not in ended.err, ended.err
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == (1 if ended.code else 0), ended.err
    if ended.code:
        assert ended.out == ""
        assert ended.err.endswith(errors[0] + "\n")
        assert name not in QUIET or ended.err == errors[0] + "\n", ended.err
        assert len(errors[0]) < 2000
        expected = (*named, "no best yet", "no driver is running", "already run by process")
        assert any(word in errors[0] for word in expected), errors[0]
    elif command.endswith("--json"):
        json.loads(ended.out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_the_files_as_they_should_be_are_read(search: Path) -> None:
    for command in (*LOOKS, "fit", "stop --now", "run", "clean"):
        with copy_of(search) as root:
            ended = call_on(root, command)
            assert ended.code == 0, ended
            check(ended, command)
            assert went_on(root) == (command == "run")


def went_on(root: Path) -> bool:
    return (root / "jobs/000005/result.json").exists()


@contextlib.contextmanager
def copy_of(search: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=search.parent) as folder:
        yield Path(shutil.copytree(search, Path(folder) / "copy"))


# --- files with other contents


# What a sentence may name where one of them is spoilt: the file, or what stands in it.
FILES: dict[str, tuple[str, ...]] = {
    "config.json": ("config.json", "constraints."),
    "jobs/000001/job.json": ("000001/job.json", ": job 1 "),
    "jobs/000001/result.json": ("000001/result.json",),
    "jobs/000001/trained.json": (),
    "jobs/000001/progress.jsonl": (),
    "jobs/000004/job.json": ("000004/job.json", ": job 4 "),
    "jobs/000004/attempt-1.json": ("000004/attempt-1.json",),
    "jobs/000004/progress.jsonl": (),
    "rejected.jsonl": (),
    "hardware/models.json": ("models.json", "constraints."),
    "hardware/profile.jsonl": ("profile.jsonl",),
    "state/finished.jsonl": (),
    "state/driver.json": (),
    "stop": (),
}
ABSENT: dict[str, dict[str, Any]] = {  # which the search has not
    "state/driver.json": {**dead_process(), "directory": [1, 2], "since_s": 1.0, "doing": "search"},
    "stop": {"schema": 1, "reason": "the stop command", "cancel": False},
}


@cache
def strategy(search: Path, name: str) -> st.SearchStrategy[bytes]:
    content = json.dumps(ABSENT[name]).encode() if name in ABSENT else (search / name).read_bytes()
    return (spoilt_lines if name.endswith(".jsonl") else spoilt)(content)


def draw_spoilt(data: st.DataObject, search: Path, name: str) -> bytes:
    return data.draw(strategy(search, name), label=name)


@pytest.mark.parametrize("name", FILES)
@times(25)
@given(data=st.data())
def test_a_command_reads_a_spoilt_file_or_says_which_one_it_is(search: Path, name: str, data: st.DataObject) -> None:
    content = draw_spoilt(data, search, name)
    command = data.draw(st.sampled_from([*LOOKS, "stop", "stop --now", "clean"]))
    with copy_of(search) as root:
        (root / name).write_bytes(content)
        check(call_on(root, command), command, *FILES[name])


@pytest.mark.parametrize("name", FILES)
@times(4)
@given(data=st.data())
def test_a_search_goes_on_with_a_spoilt_file_or_says_which_one_it_is(
    search: Path, name: str, data: st.DataObject
) -> None:
    content = draw_spoilt(data, search, name)
    with copy_of(search) as root:
        (root / name).write_bytes(content)
        ended = call_on(root, "run")
        check(ended, "run", *FILES[name], "The last failure is job")
        if not FILES[name]:
            assert went_on(root), ended.err


@times(30)
@given(data=st.data())
def test_a_spoilt_profile_is_fitted_or_the_sentence_names_it(search: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["hardware/profile.jsonl"] * 3 + ["config.json"]))
    content = draw_spoilt(data, search, name)
    with copy_of(search) as root:
        (root / name).write_bytes(content)
        check(call_on(root, "fit"), "fit", name, "profile.jsonl")


@times(60)
@given(data=st.data())
def test_a_driver_that_lives_is_told_of_whatever_else_stands_in_its_file(search: Path, data: st.DataObject) -> None:
    command = data.draw(st.sampled_from(["status", "status --json", "stop", "stop --now", "clean"]))
    with copy_of(search) as root:
        found = root.stat()
        shown = {**processes.own_identity(), "directory": [found.st_dev, found.st_ino], "seen_s": 1, "doing": "x\ny"}
        (root / "state/driver.json").write_bytes(data.draw(spoilt(json.dumps(shown).encode())))
        ended = call_on(root, command)
    check(ended, command)
    assert len(ended.err.splitlines()) <= 2


def test_a_host_of_any_name_is_shown_in_one_line(search: Path) -> None:
    with copy_of(search) as root:
        write_json(root / "state/driver.json", {**dead_process(), "host": "x\n\x1b[2J" * 100})
        last = call_on(root, "status").out.splitlines()[-1]
    assert last.startswith("driver ")
    assert "on x\\n\\x1b[2J" in last
    assert len(last) < 300


# What long runs found, or nearly did: the value at a place of the first line, or of the only object.
FOUND: dict[str, tuple[str, str, Place, str]] = {
    "an objective beyond floats": ("status", "jobs/000001/result.json", ("metrics", "error"), "9" * 400),
    "an objective beyond int64": ("best", "jobs/000001/result.json", ("metrics", "error"), "9" * 20),
    "a power beyond int64": ("best", "jobs/000001/result.json", ("metrics", "power_w"), "9" * 20),
    "a time beyond floats": ("status", "jobs/000001/result.json", ("started_s",), "9" * 400),
    "an epoch that is a text": ("status", "jobs/000001/result.json", ("epoch",), '"two"'),
    "metrics that are a list": ("status", "jobs/000001/result.json", ("metrics",), "[]"),
    "params without end": ("status --json", "jobs/000001/job.json", ("params", "x"), "[" * 900 + "]" * 900),
    "a prediction beyond floats": ("status", "jobs/000001/job.json", ("predictions", "power_w"), "9" * 400),
    "a metric with a long name": ("validate", "jobs/000001/job.json", ("metric",), f'"{"x" * 3000}"'),
    "an id that is a long text": ("status", "jobs/000001/job.json", ("id",), f'"{"x" * 3000}"'),
    "a long schema number": ("status", "jobs/000001/job.json", ("schema",), "9" * 4300),
    "more discarded than can be": ("status", "rejected.jsonl", ("discarded",), "9" * 4300),
    "a ratio near the largest float": ("best", "hardware/models.json", ("models", "power_w", "ratios", 0), "1e308"),
    "a long schema number of a line": ("fit", "hardware/profile.jsonl", ("schema",), "9" * 4300),
}


@pytest.mark.parametrize("case", FOUND)
def test_what_was_found_before_is_said_in_one_sentence(search: Path, case: str) -> None:
    command, name, place, odd = FOUND[case]
    content = (search / name).read_text()
    first, *rest = content.splitlines() if name.endswith(".jsonl") else [content]
    line = replaced(first, place, odd)
    lines = [line, line.replace('"id": 1', '"id": 2'), *rest[1:]] if rest else [line]
    with copy_of(search) as root:
        (root / name).write_text("\n".join(lines) + "\n")
        check(call_on(root, command), command, *FILES[name])


# --- what is no file


KINDS = [Path.mkdir, Path.touch, make_pipe, make_loop, make_endless, make_dangling]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_is_neither_waited_for_nor_read_for_ever(search: Path, name: str, kind: Any) -> None:
    with copy_of(search) as root:
        (root / name).unlink(missing_ok=True)
        kind(root / name)
        for command in ("status", "validate", "stop --now", "fit", "clean"):
            check(call_on(root, command), command, *FILES[name], f"/{name}", *folder_of_job(name))


@pytest.mark.parametrize("kind", [Path.mkdir, make_pipe], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", [*FILES, "driver.lock", "jobs/000004/heartbeat", "jobs/000004/stop"])
def test_a_search_does_not_wait_for_what_is_no_file(search: Path, name: str, kind: Any) -> None:
    with copy_of(search) as root:
        (root / name).unlink(missing_ok=True)
        kind(root / name)
        check(call_on(root, "run"), "run", *FILES.get(name, ()), f"/{name}", *folder_of_job(name))


def folder_of_job(name: str) -> list[str]:
    """What a sentence may name where a job lacks one of its files."""
    return [f"/{Path(name).parent}: holds"] if name.startswith("jobs/") else []


@pytest.mark.parametrize("name", ["jobs", "state", "hardware"])
def test_a_file_in_place_of_a_directory_is_named(search: Path, name: str) -> None:
    for command in (*LOOKS, "fit", "stop", "run", "clean"):
        with copy_of(search) as root:
            shutil.rmtree(root / name)
            (root / name).write_text("{}")
            check(call_on(root, command), command, f"/{name}")


@pytest.mark.parametrize("name", [*FILES, "driver.lock", "jobs", "state", "jobs/000001", "."])
def test_what_may_not_be_read_is_named(search: Path, imported: None, name: str) -> None:
    for command in ("status", "validate", "fit", "stop --now", "clean"):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(shutil.copytree(search, Path(folder) / "copy"))
            if name in ABSENT or name == "driver.lock":
                (root / name).write_text("{}")
            (root / name).chmod(0)
            with somebody(Path(folder)):
                check(call_on(root, command), command, *FILES.get(name, ()), f"/{name}", "/config.json")


@pytest.fixture(scope="module")
def imported(search: Path) -> None:
    """All that commands import, since the files of the interpreter may be out of reach later."""
    with copy_of(search) as root:
        for command in ("status", "validate", "fit", "stop --now", "clean"):
            call_on(root, command)


@contextlib.contextmanager
def somebody(folder: Path) -> Iterator[None]:
    """Be the owner of a folder, who is not root and so may not read everything."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


# --- as users run it

RESULT = b'{"status": "completed", "metrics": {"error": %s}}'
OUTSIDE: dict[str, tuple[str, str, bytes, str]] = {
    "a config that is not text": ("status", "config.json", b"\xff\xfe\x00", "config.json: cannot be read"),
    "a config without end": ("validate", "config.json", b"[" * 100_000, "config.json: maximum recursion"),
    "a number beyond all": ("status", "jobs/000002/result.json", RESULT % b"1e999", ""),
    "an integer beyond floats": ("best", "jobs/000002/result.json", RESULT % (b"9" * 400), "result.json: is not a res"),
    "a list of models": ("validate", "hardware/models.json", b"[1]", "models.json: a JSON object was expected"),
    "bytes among the rejections": ("status", "rejected.jsonl", bytes(range(256)), ""),
    "a cache of something else": ("best", "state/finished.jsonl", b'{"id": [1], "sum":3}\n' * 9, ""),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_the_real_command_line_says_the_same(search: Path, case: str) -> None:
    command, name, content, sentence = OUTSIDE[case]
    with copy_of(search) as root:
        (root / name).write_bytes(content)
        ended = run_command(command, root)
    assert ended.returncode == (1 if sentence else 0), ended.stderr
    assert sentence in ended.stderr
    assert ended.stderr.count("\n") == (1 if sentence else 0)

"""Work, counted and not timed: a step costs as much after many jobs as after few, and a resume reads each job once."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from searching import Recorder, drive, make_experiment, write_models

from hyperpower_runner import processes
from hyperpower_runner.config import parse
from hyperpower_runner.driver import Driver
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.hardware.measuring import measure
from hyperpower_runner.hardware.models import HardwareModels, LinearModel
from hyperpower_runner.hardware.validation import Score, Validation
from hyperpower_runner.history import History
from hyperpower_runner.search import Search
from hyperpower_runner.space import Array, Space
from hyperpower_runner.summary import Summary
from hyperpower_runner.trial import Job, Result, Status, Trial
from hyperpower_runner.view import LiveView

VARIABLES: dict[str, Any] = {
    "x": {"type": "FLOAT", "min": 0, "max": 1},
    "n": {"type": "INT", "min": 1, "max": 10**6},
    "rate": {"type": "FLOAT", "min": 0.001, "max": 1, "scale": "log"},
}
CASES: dict[str, dict[str, Any]] = {
    "rand": {"method": "rand"},
    "rand-walk": {"method": "rand-walk"},
    "constrained": {"method": "rand-walk", "constraints": {"power_w": 500_000}},
    "with a margin": {"method": "rand", "constraints": {"power_w": {"max": 500_000, "confidence": 0.9}}},
}


class Counting(LinearModel):
    """A model of n watts that counts the points it is asked for."""

    asked = 0

    def predict(self, space: Space, values: Array, features: Any = None) -> Array:
        type(self).asked += len(values)
        return np.array(values[:, 1])


def trials_of(space: Space, count: int) -> list[Trial]:
    """Finished jobs, some cancelled or failed, and three that are pending."""
    values = space.sample(np.random.default_rng(3), count)
    ends = {3: Status.FAILED, 7: Status.CANCELLED}
    found = []
    for number in range(1, count + 1):
        params = space.to_params(values[number - 1])
        result = Result(ends.get(number % 20, Status.COMPLETED), {"error": 1 / number, "power_w": params["n"] * 1.01})
        found.append(Trial(Job(number, params, 0), result if number <= count - 3 else None))
    return found


def search_after(count: int, changes: dict[str, Any]) -> Search:
    config = parse({"variables": VARIABLES, **changes}, runnable=False)
    ratios = tuple(1 + 0.001 * n for n in range(40))
    validation = Validation(Score(0.01, 0.01), 0.2, 40, 40, 10, 5, ratios=ratios)
    models = HardwareModels(config.space, {"power_w": Counting({"n": 1.0}, validation=validation)})
    history = History(trials_of(config.space, count))
    return Search(config, models=models if "constraints" in changes else None, history=history)


def step(search: Search) -> None:
    """What a driver does with a search for each of its jobs."""
    job, _ = search.propose()
    search.add(job)
    search.end(job.job_id, Result(Status.COMPLETED, {"error": 0.5, "power_w": job.params["n"] * 1.01}))
    history = search.live_history
    summary = Summary(search.config, history, {}, 0, 0.0)
    assert summary.best in (None, history.best(search.config.constraints))
    assert summary.counts["completed"] == history.counts[Status.COMPLETED]
    assert len(history.unfinished) == 3
    assert search.trial(job.job_id).job_id == history.last_id


def calls(work: Callable[[], object]) -> Counter[str]:
    """Every call of a function that some work makes, also of those in C."""
    counted: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            counted[f"{frame.f_code.co_filename}:{frame.f_code.co_name}"] += 1
        elif event == "c_call":
            counted[getattr(argument, "__qualname__", repr(argument))] += 1

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return counted


def fewest_calls(search: Search) -> Counter[str]:
    """Of a step, and not of one that happened to draw candidates twice."""
    step(search)  # the first makes what later ones keep up
    return min((calls(lambda: step(search)) for _ in range(10)), key=lambda counted: counted.total())


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("case", CASES)
def test_a_step_makes_as_many_calls_after_2000_jobs_as_after_100(case: str) -> None:
    few, many = (fewest_calls(search_after(count, CASES[case])) for count in (100, 2000))
    pending = {name: abs(few[name] - many[name]) for name in few | many if few[name] != many[name]}
    assert pending == {} or few.total() == pytest.approx(many.total(), abs=5), pending


@pytest.mark.parametrize("case", CASES)
def test_a_step_copies_nothing_that_grows_with_the_jobs(case: str) -> None:
    """A tuple of 20,000 pointers alone would be 160 kB."""
    few, many = (search_after(count, CASES[case]) for count in (100, 20_000))
    for search in (few, many):
        step(search)
    peaks = [min(peak_bytes(lambda: step(search)) for _ in range(5)) for search in (few, many)]  # noqa: B023 called here
    assert peaks[1] - peaks[0] < 20_000


def test_the_live_view_looks_at_running_jobs_only(tmp_path: Path) -> None:
    experiment, found = make_experiment(tmp_path, variables=VARIABLES), []
    for count in (100, 2000):
        search = search_after(count, {"constraints": {"power_w": 500_000}})
        live = LiveView(experiment, search.config, Console(file=io.StringIO()))
        running = {trial.job_id: Status.RUNNING for trial in search.live_history.unfinished}
        summary = Summary(search.config, search.live_history, running, 0, 0.0)
        live.tick(lambda summary=summary: summary)  # type: ignore[misc]  # the first looks for the best
        shown = calls(lambda live=live, summary=summary: live._panel(summary))  # type: ignore[misc]
        found.append(Counter({name: n for name, n in shown.items() if is_own(name) or "runner/view" in name}))
    assert found[0].total() > 20
    assert found[0] == found[1]


def test_with_recalibrate_the_predictions_of_earlier_jobs_are_not_made_again() -> None:
    changes = {"method": "rand", "constraints": {"power_w": {"max": 500_000, "confidence": 0.9, "recalibrate": True}}}
    asked = []
    for count in (100, 2000):
        search = search_after(count, changes)
        step(search)
        before = Counting.asked
        job, _ = search.propose()
        asked.append(Counting.asked - before)
        assert search.propose()[0] == job
    assert asked[0] == asked[1] < 100


# --- the driver


def write_finished(root: Path, count: int, **changes: Any) -> Experiment:
    """A directory with many finished jobs, written without waiting for the disk, and a budget of four more."""
    trials = trials_of(parse({"variables": VARIABLES}, runnable=False).space, count)
    started = count - sum(trial.result is not None and trial.result.status is Status.CANCELLED for trial in trials)
    experiment = make_experiment(root, variables=VARIABLES, **{"budget": {"evaluations": started + 4}, **changes})
    (root / "train.py").write_text("print('{\"error\": 0.5}')\n")
    for trial in trials:
        files, result = experiment.job_files(trial.job_id), trial.result or Result(Status.TERMINATED)
        files.folder.mkdir(parents=True)
        files.job.write_text(json.dumps({"schema": 1, **trial.job.to_json()}))
        files.attempt(1).write_text(json.dumps({"schema": 1, "host": "elsewhere", "pid": 1}))
        files.result.write_text(json.dumps({"schema": 1, "id": trial.job_id, **result.to_json()}))
    return experiment


def calls_for_a_job(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What the driver itself calls to start and to end a job."""
    counted: list[Counter[str]] = []
    recorder, ticks = Recorder(), list[Summary]()
    recorder.on_tick = ticks.append

    def counting(method: Callable[..., None]) -> Callable[..., None]:
        return lambda *arguments: counted.append(calls(lambda: method(*arguments)))

    with monkeypatch.context() as patched:
        for name in ("_fill_slot", "_ingest"):
            patched.setattr(Driver, name, counting(getattr(Driver, name)))
        drive(experiment, recorder)
    own = [Counter({name: n for name, n in each.items() if is_own(name)}) for each in counted]
    assert len(own) == 8
    assert ticks
    return own[4] + own[5]  # after the first look at everything, a start and an end


def test_the_driver_makes_as_many_calls_for_a_job_after_1000_jobs_as_after_50(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (calls_for_a_job(write_finished(tmp_path / str(n), n), monkeypatch) for n in (50, 1000))
    assert few.total() > 10
    assert few == many


def is_own(name: str) -> bool:
    """Whether a call is of a module whose work may depend on the history, and on nothing else."""
    return any(f"hyperpower_runner/{part}" in name for part in ("history", "search", "trial", "summary", "finished"))


# --- what is measured after a job


@pytest.mark.parametrize("meter", ["simulated-gtx1070", "rapl"])
def test_a_network_is_measured_with_as_many_calls_among_1000_jobs_as_among_50(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meter: str
) -> None:
    monkeypatch.setattr(
        processes, "workers_beside", lambda: [1]
    )  # which keeps the power of the machine from being read
    counted = []
    for count in (50, 1000):
        experiment = write_finished(tmp_path / str(count), count, platform={"meter": meter})
        script = "def features(params): return {'parameters': 1e4, 'macs': 4e5, 'activations': 2e3}"
        (experiment.root / "train.py").write_text(script)
        measure(experiment, 7)  # what is imported once
        made = calls(lambda experiment=experiment: measure(experiment, 7))  # type: ignore[misc]
        counted.append(Counter({name: n for name, n in made.items() if is_of_files(name)}))
    assert counted[0].total() > 5
    assert counted[0] == counted[1]


def is_of_files(name: str) -> bool:
    """Whether a call looks at the directory."""
    parts = ("hyperpower_runner/experiment", "hyperpower_runner/job_files", "pathlib", "stat", "scandir")
    return any(part in name for part in parts)


# --- resume

COUNT_OPENED = """
import atexit, collections, json, sys
counts, words = sys.argv[1], sys.argv[2:]
opened = {True: collections.Counter(), False: collections.Counter()}  # by the system, and by Python: often the same

def note(event, arguments):
    if event == "open" and str(arguments[0]).endswith(("job.json", "result.json", "finished.jsonl")):
        if arguments[1] is None or "r" in arguments[1]:
            opened[arguments[1] is None]["/".join(str(arguments[0]).split("/")[-2:])] += 1

sys.addaudithook(note)
atexit.register(lambda: json.dump(opened[True] | opened[False], open(counts, "w")))
from hyperpower_runner.cli import app
app(words, standalone_mode=False)
"""


def opened_by(root: Path, *words: str) -> dict[str, int]:
    """How often a command opened each job's files."""
    counts = root.parent / "opened.json"
    command = [sys.executable, "-c", COUNT_OPENED, str(counts), words[0], str(root), *words[1:]]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return dict(json.loads(counts.read_text()))


@pytest.mark.parametrize("models", [False, True])
def test_a_resume_opens_each_file_once_and_with_the_cache_none(tmp_path: Path, models: bool) -> None:
    experiment = write_finished(tmp_path / "search", 60, **({"constraints": {"power_w": 10**6}} if models else {}))
    if models:
        write_models(experiment, power_w={"form": "paper", "weights": {"n": 1.0}})
    cache = "state/finished.jsonl"
    every = {f"{number:06d}/{name}": 1 for number in range(1, 61) for name in ("job.json", "result.json")}
    assert opened_by(experiment.root, "status") == {**every, cache: 1}
    opened = opened_by(experiment.root, "run", "--evaluations", "59")
    assert {name: count for name, count in opened.items() if name in every} == every
    for command in (["status"], ["run", "--evaluations", "59"]):
        opened = opened_by(experiment.root, *command)
        assert not opened.keys() & every.keys()
        assert opened[cache] == 1

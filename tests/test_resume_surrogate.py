"""Whole directories searched by HW-IECI and HW-CWEI: killed and resumed twins, budgets, and what job.json says."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from searching import all_params, command_line, drive, make_experiment, results, run_command, write_models

from hyperpower_runner.driver import Why
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.job_files import read_json, read_json_lines
from hyperpower_runner.search import Search
from hyperpower_runner.trial import Status

METHODS = ["hw-ieci", "hw-cwei"]

# The error falls with n, which draws power; beyond x = 0.9 the training breaks. It is slow enough to be killed in.
SCRIPT = """
    import json, sys, time
    job = json.load(open(sys.argv[-1]))
    x, n = job["params"]["x"], job["params"]["n"]
    time.sleep(SECONDS)
    if x > 0.9: sys.exit(3)
    print(json.dumps({"error": (x - 0.4) ** 2 + (50 - n) / 50, "power_w": 20.0 + n, "latency_s": 1 + x}))
"""


def make(root: Path, method: str, seconds: float = 0.0, **changes: Any) -> Experiment:
    config = {"method": method, "budget": {"evaluations": 9}, "seed": 7, "max-consecutive-failures": 50}
    variables = {
        "x": {"type": "FLOAT", "min": 0, "max": 1},
        "n": {"type": "INT", "min": 1, "max": 50},
        "rate": {"type": "FLOAT", "min": 1e-3, "max": 1, "scale": "log"},
    }
    constraints = {"constraints": {"power_w": 50, "latency_s": 1.8}, "variables": variables}
    experiment = make_experiment(root, SCRIPT.replace("SECONDS", str(seconds)), **{**constraints, **config, **changes})
    write_models(experiment, power_w={"form": "linear", "weights": {"n": 1.0}, "intercept": 20.0})
    return experiment


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def surrogates(experiment: Experiment) -> list[dict[str, Any]]:
    return [trial.job.surrogate for trial in experiment.read_history()]


def metrics(experiment: Experiment) -> dict[int, dict[str, float | None]]:
    """What was reported, without what a clock measured."""
    return {
        job_id: {name: value for name, value in result.metrics.items() if name != "duration_s"}
        for job_id, result in results(experiment).items()
    }


@pytest.fixture(scope="module", params=METHODS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A search of nine evaluations that nothing interrupted; it is only read."""
    experiment = make(tmp_path_factory.mktemp("finished"), request.param)
    _, ending = drive(experiment)
    assert ending.why is Why.BUDGET
    assert len(results(experiment)) == 9
    return experiment


def test_a_killed_and_resumed_search_has_the_jobs_of_its_uninterrupted_twin(
    tmp_path: Path, finished: Experiment
) -> None:
    method = finished.read_config().method
    killed = make(tmp_path, method, seconds=0.1)
    for count in (3, 6):  # while points are drawn, and while they are fitted
        process = subprocess.Popen(command_line("run", killed.root), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_until(lambda: len(results(killed)) >= count)  # noqa: B023
        process.kill()
        process.communicate()
    assert len(results(killed)) < 9
    drive(killed)
    assert all_params(killed) == all_params(finished)
    assert surrogates(killed) == surrogates(finished)
    assert metrics(killed) == metrics(finished)
    assert [trial.job.seed for trial in killed.read_history()] == [trial.job.seed for trial in finished.read_history()]
    # What was discarded is written once for each job, whoever wrote it.
    assert dict(killed.read_rejections()) == dict(finished.read_rejections())


def test_a_search_that_is_resumed_twice_and_one_that_is_asked_go_on_the_same(
    tmp_path: Path, finished: Experiment
) -> None:
    """From a directory alone: what else was in a process, or under state/, is not needed."""
    method = finished.read_config().method
    for evaluations in (5, 6):
        parts = make(tmp_path, method, budget={"evaluations": evaluations})
        drive(parts)
        shutil.rmtree(parts.root / "state", ignore_errors=True)
    asked = [Search(parts.root).ask() for _ in range(2)]
    expected = all_params(finished)
    assert all_params(parts) == {job_id: expected[job_id] for job_id in range(1, 7)}
    assert [job.params for job in asked] == [expected[7]] * 2
    assert [job.surrogate for job in asked] == [surrogates(finished)[6]] * 2


def test_no_job_is_predicted_to_violate_and_what_was_discarded_is_counted(finished: Experiment) -> None:
    history = finished.read_history()
    for trial in history:
        assert trial.job.predictions == {"power_w": 20.0 + trial.params["n"]}
        assert trial.params["n"] <= 30
    discarded = dict(finished.read_rejections())
    assert set(discarded) <= set(range(1, 10))
    assert min(discarded[job_id] for job_id in range(5, 10)) > 100  # each fit looks at hundreds
    for line in read_json_lines(finished.root / "rejected.jsonl"):
        for rejected in line["first"]:
            assert rejected["predictions"]["power_w"] == 20.0 + rejected["params"]["n"] > 50.0
    answer = run_command("status", finished.root, "--json")
    assert answer.returncode == 0, answer.stderr
    status = json.loads(answer.stdout)
    assert status["violations"] == {"predicted": 0, "measured": 0}
    assert status["counts"]["rejected"] == sum(discarded.values())


def test_job_json_says_how_the_process_was_fitted(finished: Experiment) -> None:
    method = finished.read_config().method
    jobs: list[dict[str, Any]] = [read_json(finished.job_files(n).job) or {} for n in range(1, 10)]
    assert [job["surrogate"] for job in jobs[:4]] == [{}] * 4
    for job in jobs[4:]:
        found = job["surrogate"]
        ended = [results(finished)[n] for n in range(1, job["id"])]
        assert found["observations"] == sum(result.status is Status.COMPLETED for result in ended)
        processes = found["processes"]
        expected = {"error", "latency_s"}
        if any(result.status is not Status.COMPLETED for result in ended):
            expected.add("converging")
        assert expected <= set(processes)
        assert len(processes) == len(expected) + (method == "hw-cwei")
        for process in processes.values():
            assert 0.0 < process["acceptance"] < 1.0
            assert process["autocorrelation_steps"] > 0.0
            assert process["steps"] > 0
            assert isinstance(process["converged"], bool)
        assert found["converged"] == all(process["converged"] for process in processes.values())


def test_best_and_the_point_that_the_surrogate_prefers_are_feasible(finished: Experiment) -> None:
    answer = run_command("best", finished.root, "--json")
    assert answer.returncode == 0, answer.stderr
    best = json.loads(answer.stdout)
    assert best["metrics"]["power_w"] <= 50
    assert best["metrics"]["latency_s"] <= 1.8
    preferred = Search(finished.root).recommend()
    assert preferred is not None
    assert preferred.params["n"] <= 30
    assert preferred.params["x"] <= 0.85
    assert preferred.expected == pytest.approx(0.4, abs=0.3)


@pytest.mark.parametrize("method", METHODS)
def test_two_slots_run_different_points_within_the_budgets(tmp_path: Path, method: str) -> None:
    experiment = make(tmp_path, method, seconds=0.05, **{"max-concurrent": 2})
    _, ending = drive(experiment)
    assert ending.why is Why.BUDGET
    history = experiment.read_history()
    assert len(history) == len(history.seen) == 9
    assert all(trial.params["n"] <= 30 for trial in history)
    spans = [(result.started_s, result.ended_s) for result in results(experiment).values()]
    assert any(begin < other < end for begin, end in spans for other, _ in spans)


@pytest.mark.parametrize("method", METHODS)
def test_a_finite_space_ends_the_search_when_it_is_used_up(tmp_path: Path, method: str) -> None:
    variables = {"x": {"type": "ENUM", "options": [0.1, 0.5]}, "n": {"type": "INT", "min": 28, "max": 33}}
    experiment = make(tmp_path, method, variables=variables, budget={"evaluations": 40})
    _, ending = drive(experiment)
    assert ending.why is Why.EXHAUSTED
    assert sorted((params["x"], params["n"]) for params in all_params(experiment).values()) == [
        (x, n) for x in (0.1, 0.5) for n in (28, 29, 30)
    ]

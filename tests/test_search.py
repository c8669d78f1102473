"""Ask and tell: what becomes of what is told, what is refused, and that a history alone decides what is proposed."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searching import CONFIG, all_params, drive, make_experiment, results, write_models

import hyperpower_runner
from hyperpower_runner import methods
from hyperpower_runner.config import ExperimentConfig, parse
from hyperpower_runner.errors import (
    ConfigError,
    HyperPowerError,
    InfeasibleError,
    ParamsError,
    SearchError,
    SpaceExhaustedError,
)
from hyperpower_runner.hardware.models import HardwareModels, LinearModel
from hyperpower_runner.history import History
from hyperpower_runner.search import Search
from hyperpower_runner.trial import Job, Recommendation, Status, Suggestion

METHODS = ["rand", "rand-walk", "hw-cwei", "hw-ieci"]
README = Path(__file__).parents[1] / "README.md"
SPACE: dict[str, Any] = {
    "x": {"type": "FLOAT", "min": 0, "max": 1},
    "n": {"type": "INT", "min": 1, "max": 50},
    "kind": {"type": "ENUM", "options": ["relu", "tanh"]},
    "widths": {"type": "INT", "min": 8, "max": 64, "size": 2},
}
POINT: dict[str, Any] = {"x": 0.25, "n": 3, "kind": "tanh", "widths": [8, 9]}


def make(**changes: Any) -> Search:
    return Search({"variables": SPACE, "method": "rand", **changes})


def draws_power(config: ExperimentConfig) -> HardwareModels:
    """Hardware models that predict a power of n watts."""
    return HardwareModels(config.space, {"power_w": LinearModel({"n": 1.0})})


def error_of(params: dict[str, Any]) -> float:
    return float(abs(params["x"] - 0.7) + 0.01 * params["n"])


# --- asking


def test_a_job_holds_a_plain_point_of_the_space_and_is_pending() -> None:
    search = make(seed=3)
    job = search.ask()
    assert job.job_id == 1
    assert list(job.params) == list(SPACE)
    assert [type(param) for param in job.params.values()] == [float, int, str, list]
    assert search.config.space.from_params(job.params) is not None
    assert search.pending == [job]
    assert [trial.job for trial in search.history] == [job]


def test_several_jobs_may_be_asked_for_before_one_is_told() -> None:
    search = make()
    jobs = [search.ask() for _ in range(5)]
    assert [job.job_id for job in jobs] == [1, 2, 3, 4, 5]
    assert len({str(job.params) for job in jobs}) == len({job.seed for job in jobs}) == 5
    search.tell(3, error=0.1)
    assert [job.job_id for job in search.pending] == [1, 2, 4, 5]
    assert search.ask().job_id == 6


def test_who_changes_the_params_of_a_job_changes_no_history() -> None:
    search = make()
    job, observed = search.ask(), search.observe(POINT, error=0.1)
    before = [json.dumps(trial.params) for trial in search.history]
    for one in (job, observed):
        one.params.pop("x")
        one.params["widths"].append(1)
    assert [json.dumps(trial.params) for trial in search.history] == before


def test_the_budget_is_the_callers() -> None:
    search = make(budget={"evaluations": 1, "hours": 1e-9})
    assert [search.ask().job_id for _ in range(3)] == [1, 2, 3]


def test_candidates_predicted_above_a_bound_are_never_asked_for() -> None:
    config = {"variables": SPACE, "method": "rand", "constraints": {"power_w": 10}}
    search = Search(config, models=draws_power(parse(config, runnable=False)))
    jobs = [search.ask() for _ in range(20)]
    assert all(job.predictions == {"power_w": job.params["n"]} for job in jobs)
    assert max(job.params["n"] for job in jobs) <= 10
    unaware = {**config, "hardware-aware": False}
    search = Search(unaware, models=draws_power(parse(unaware, runnable=False)))
    assert max(search.ask().params["n"] for _ in range(20)) > 10


def test_known_constraints_hold_for_all_that_is_asked_for() -> None:
    search = make(**{"known-constraints": ["n < 5", "kind == 'tanh' or x < 0.1"]})
    for params in (search.ask().params for _ in range(20)):
        assert params["n"] < 5
        assert params["kind"] == "tanh" or params["x"] < 0.1


def test_a_space_that_is_used_up_and_one_that_is_empty_say_so() -> None:
    search = make(variables={"n": {"type": "INT", "min": 1, "max": 3}})
    assert sorted(search.ask().params["n"] for _ in range(3)) == [1, 2, 3]
    with pytest.raises(SpaceExhaustedError, match="every feasible point"):
        search.ask()
    search.tell(2, status="cancelled")  # told nothing, so it may be tried again
    assert search.ask().params == search.history.trials[1].params
    with pytest.raises(InfeasibleError, match='"n > 99" holds at none'):
        make(**{"known-constraints": ["n > 99"]}).ask()


def test_what_could_not_be_asked_for_leaves_nothing_behind() -> None:
    search = make(**{"known-constraints": ["n > 99"]})
    with pytest.raises(InfeasibleError):
        search.ask()
    assert len(search.history) == 0


# --- telling


def test_what_is_told_is_in_the_history_and_the_best_is_feasible() -> None:
    search = make(constraints={"power_w": 85})
    assert search.best() is None
    for error, power_w in ((0.1, 90.0), (0.3, 80.0), (0.2, 85.0), (0.05, None)):
        search.tell(search.ask().job_id, error=error, power_w=power_w)
    best = search.best()
    assert best is not None
    assert (best.job_id, best.metrics) == (3, {"error": 0.2, "power_w": 85.0})
    assert best.params == search.history.trials[2].job.params
    assert search.pending == []


def test_a_metric_that_was_not_measured_is_taken_from_the_hardware_models() -> None:
    config = {"variables": SPACE, "method": "rand", "constraints": {"power_w": 10}}
    search = Search(config, models=draws_power(parse(config, runnable=False)))
    search.tell(search.ask().job_id, error=0.1)
    search.observe({**POINT, "n": 11}, error=0.01)
    best = search.best()
    assert best is not None
    assert best.job_id == 1


def test_another_metric_may_be_optimised() -> None:
    search = make(optimize="latency_s")
    search.tell(search.ask().job_id, latency_s=3, error=0.1)
    search.tell(search.ask().job_id, latency_s=2, error=0.5)
    best = search.best()
    assert best is not None
    assert best.job_id == 2


@pytest.mark.parametrize("status", ["terminated", "failed", "timed-out", "lost", "cancelled"])
def test_a_job_that_did_not_complete_needs_no_metric_and_is_never_the_best(status: str) -> None:
    search = make()
    search.tell(search.ask().job_id, status=status)
    search.tell(search.ask().job_id, status=Status(status), error=0.1)
    search.observe(POINT, status=status)
    assert [trial.result and trial.result.status.value for trial in search.history] == [status] * 3
    assert search.best() is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), 10**400])
def test_a_value_that_is_not_finite_is_kept_and_never_counts(value: float) -> None:
    search = make()
    search.tell(search.ask().job_id, error=value)
    assert search.history.counts == {Status.COMPLETED: 1}
    assert search.best() is None
    search.tell(search.ask().job_id, error=1e9)
    assert search.best() is not None


@pytest.mark.parametrize("value", [np.float64(0.5), np.float32(0.5), np.int64(2), np.array(0.5), 2, 0.5])
def test_the_numbers_of_numpy_are_numbers(value: Any) -> None:
    search = make()
    search.tell(np.int64(search.ask().job_id), error=value)
    best = search.best()
    assert best is not None
    assert best.metrics == {"error": float(value)}
    assert type(best.metrics["error"]) in (int, float)


def told_twice(job_id: int, *statuses: str) -> Callable[[Search], object]:
    def call(search: Search) -> None:
        for status in statuses:
            search.tell(job_id, status=status, error=0.1)

    return call


def told(**metrics: Any) -> Callable[[Search], object]:
    return lambda search: search.tell(1, **metrics)


WRONG: dict[str, tuple[Callable[[Search], object], list[str]]] = {
    "an unknown id": (lambda search: search.tell(7, error=0.1), ["no job 7", "[1, 2]"]),
    "an id of nothing": (lambda search: search.tell(0, error=0.1), ["no job 0", "[1, 2]"]),
    "a job for its id": (lambda search: search.tell(search.ask(), error=0.1), ["no job Job(", "[1, 2, "]),  # type: ignore[arg-type]
    "a text for an id": (lambda search: search.tell("1", error=0.1), ["no job '1'"]),  # type: ignore[arg-type]
    "a job told twice": (told_twice(1, "completed", "completed"), ["job 1", "before"]),
    "a failed job told again": (told_twice(2, "failed", "completed"), ["job 2", '"failed"', "observe"]),
    "an observed job told again": (
        lambda search: search.tell(search.observe(POINT, error=0.1).job_id, error=0.2),
        ["job 3", '"completed"'],
    ),
    "a boolean": (told(error=True), ['"error"', "True", "number"]),
    "a boolean of numpy": (told(error=np.bool_(True)), ['"error"', "number"]),
    "a text": (told(error="0.1"), ['"error"', "'0.1'", "number"]),
    "a text that JSON uses for nan": (told(error="NaN"), ['"error"', "'NaN'", "number"]),
    "a list": (told(error=[0.1]), ['"error"', "[0.1]", "number"]),
    "an array": (told(error=np.array([0.1])), ['"error"', "array([0.1])", "number"]),
    "a complex number": (told(error=1j), ['"error"', "1j", "number"]),
    "a text for a metric of ones own": (told(error=0.1, note="good"), ['"note"', "'good'", "number"]),
    "a failed job with a text": (told(status="failed", error="none"), ['"error"', "'none'", "number"]),
    "no metric": (told(), ['"error"', "no metric", 'status="failed"']),
    "the optimised metric forgotten": (told(power_w=80.0), ['"error"', "power_w", 'status="failed"']),
    "the optimised metric as nothing": (told(error=None), ['"error"', "told no metric", 'status="failed"']),
    "the optimised metric misspelt": (told(eror=0.1), ['needs its "error"', 'call "eror" by that name']),
    "a constrained metric misspelt": (
        told(error=0.1, power=80.0),
        ['told "power" but no "power_w"', "call it by that name"],
    ),
    "an unknown status": (told(status="complete", error=0.1), ["'complete'", 'did you mean "completed"?']),
    "a status that is no end": (told(status="running"), ["'running'", "completed, terminated, failed"]),
    "a status that is a number": (told(status=1, error=0.1), ["status is 1", "completed"]),
    "a wrong observation": (lambda search: search.observe(POINT, eror=0.1), ['job 3 needs its "error"']),
}


@pytest.mark.parametrize(("call", "parts"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_result_is_refused_in_one_sentence(call: Callable[[Search], object], parts: list[str]) -> None:
    search = make(constraints={"power_w": 85})
    search.ask(), search.ask()
    with pytest.raises(SearchError) as caught:
        call(search)
    for part in parts:
        assert part in str(caught.value)
    assert len(str(caught.value)) < 250


def test_what_was_refused_has_changed_nothing() -> None:
    search = make()
    search.ask()
    wrong: list[dict[str, Any]] = [{"error": "low"}, {}, {"status": "done", "error": 0.1}]
    for metrics in wrong:
        with pytest.raises(SearchError):
            search.tell(1, **metrics)
        with pytest.raises(SearchError):
            search.observe(POINT, **metrics)
    assert [job.job_id for job in search.pending] == [1]
    assert len(search.history) == 1
    search.tell(1, error=0.1)


def test_a_metric_that_a_model_predicts_may_be_left_out_beside_one_with_a_similar_name() -> None:
    config = {"variables": SPACE, "method": "rand", "constraints": {"power_w": 50}}
    search = Search(config, models=draws_power(parse(config, runnable=False)))
    search.tell(search.ask().job_id, error=0.1, power_kw=0.1)
    assert search.best() is not None


# --- observing


def test_an_observed_point_is_a_job_of_the_history_and_can_be_the_best() -> None:
    search = make()
    search.ask()
    job = search.observe(POINT, error=0.01, power_w=80.0)
    assert (job.job_id, job.params) == (2, POINT)
    best = search.best()
    assert best is not None
    assert (best.job_id, best.metrics) == (2, {"error": 0.01, "power_w": 80.0})
    assert [pending.job_id for pending in search.pending] == [1]
    assert search.ask().job_id == 3


def test_an_observed_point_is_not_asked_for_but_may_be_observed_again() -> None:
    search = make(variables={"n": {"type": "INT", "min": 1, "max": 3}})
    search.observe({"n": 2}, error=0.3)
    search.observe({"n": 2}, error=0.5)
    assert sorted(search.ask().params["n"] for _ in range(2)) == [1, 3]


def test_params_of_numpy_are_observed_as_plain_ones() -> None:
    search = make()
    params = {"kind": np.str_("tanh"), "widths": np.array([8, 9]), "x": np.float64(0.25), "n": np.int32(3)}
    mixed = {"kind": "tanh", "widths": (np.int64(8), 9.0), "x": 0.25, "n": 3.0}
    for given in (params, mixed, search.ask().params | POINT):
        job = search.observe(given, error=0.1)
        assert json.dumps(job.params) == json.dumps(POINT)  # in the order of the variables, too
    assert len({trial.key for trial in search.history if trial.ended}) == 1


MISFITS: dict[str, tuple[Any, list[str]]] = {
    "a number out of its range": ({**POINT, "x": 1.5}, ['"x" is 1.5', "from 0 to 1"]),
    "a number of numpy out of its range": ({**POINT, "n": np.int64(51)}, ['"n" is 51', "from 1 to 50"]),
    "no number": ({**POINT, "x": float("nan")}, ['"x" is nan']),
    "a fractional INT": ({**POINT, "n": 2.5}, ['"n" is 2.5', "an integer"]),
    "a boolean for an INT": ({**POINT, "n": True}, ['"n" is True', "an integer"]),
    "an unknown option": ({**POINT, "kind": "selu"}, ["'selu'", "relu"]),
    "too few elements": ({**POINT, "widths": [8]}, ['"widths"', "2 elements"]),
    "a missing variable": ({"x": 0.5}, ['"n" is missing']),
    "an unknown variable": ({**POINT, "wdths": 1}, ['"wdths"', 'did you mean "widths"?']),
    "a number for params": (0.5, ["params are 0.5", "dict"]),
    "a point that a known constraint excludes": ({**POINT, "n": 41}, ['"n <= 40" does not hold', "'n': 41"]),
}


@pytest.mark.parametrize(("params", "parts"), MISFITS.values(), ids=MISFITS.keys())
def test_a_point_outside_the_space_is_refused_in_one_sentence(params: Any, parts: list[str]) -> None:
    search = make(**{"known-constraints": ["n <= 40"]})
    with pytest.raises(ParamsError) as caught:
        search.observe(params, error=0.1)
    for part in parts:
        assert part in str(caught.value)
    assert len(search.history) == 0


# --- the history alone decides


def play(search: Search, order: Callable[[list[Job]], list[Job]]) -> list[dict[str, Any]]:
    """Three rounds of four parallel jobs, told in some order."""
    for _ in range(3):
        for job in order([search.ask() for _ in range(4)]):
            search.tell(job.job_id, error=error_of(job.params))
    return [trial.params for trial in search.history]


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_telling_does_not_matter(method: str) -> None:
    forward = play(make(method=method), lambda jobs: jobs)
    assert play(make(method=method), lambda jobs: jobs[::-1]) == forward
    assert play(make(method=method, seed=1), lambda jobs: jobs) != forward


@pytest.mark.parametrize("method", METHODS)
def test_a_search_begun_with_a_history_goes_on_like_the_one_that_made_it(method: str) -> None:
    search = make(method=method)
    for _ in range(6):
        again = Search(search.config, history=search.history)
        reordered = Search(search.config, history=History(search.history.trials[::-1]))
        job = search.ask()
        assert again.ask() == reordered.ask() == job
        search.tell(job.job_id, error=error_of(job.params))


def test_proposing_changes_nothing_and_asks_for_the_same() -> None:
    search = make()
    job, rejection = search.propose()
    assert search.propose() == (job, rejection)
    assert len(search.history) == 0
    assert search.ask() == job


def test_what_is_told_decides_the_next_suggestion() -> None:
    asked = []
    for error in (0.0, 0.9):
        search = make(method="rand-walk")
        search.tell(search.ask().job_id, error=0.5)
        search.observe(POINT, error=error)
        asked.append(search.ask().params)
    assert asked[0] != asked[1]


def test_how_the_gaussian_process_was_fitted_is_on_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    search = make()
    fitted = {"observations": 3, "converged": False}
    monkeypatch.setattr(search.method, "suggest", lambda history, rng: Suggestion(POINT, surrogate=fitted))
    assert search.ask().surrogate == fitted
    assert search.pending[0].surrogate == fitted


# --- directories


@pytest.mark.parametrize("method", METHODS)
def test_a_search_asks_for_what_the_driver_runs(tmp_path: Path, method: str) -> None:
    changes: dict[str, Any] = {
        "method": method,
        "seed": 5,
        "constraints": {"power_w": 30},
        "budget": {"evaluations": 6},
    }
    experiment = make_experiment(tmp_path, **changes)
    write_models(experiment, power_w={"form": "paper", "weights": {"n": 1.0}})
    search = Search(tmp_path)
    drive(experiment)
    for job_id, params in all_params(experiment).items():
        job = search.ask()
        assert (job.job_id, job.params) == (job_id, params)
        search.tell(job_id, error=params["x"])
    jobs = [trial.job for trial in experiment.read_history()]
    assert [trial.job.seed for trial in search.history] == [job.seed for job in jobs]
    assert [trial.job.predictions for trial in search.history] == [job.predictions for job in jobs]


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(root.rglob("*"))}


@pytest.mark.parametrize(
    "path", [lambda root: root, str, lambda root: root / "config.json"], ids=["dir", "str", "file"]
)
def test_a_directory_is_gone_on_with_and_not_written(tmp_path: Path, path: Callable[[Path], Any]) -> None:
    experiment = make_experiment(tmp_path, method="rand-walk", budget={"evaluations": 4})
    drive(experiment)
    experiment.job_files(4).result.unlink()
    before = snapshot(tmp_path)
    search = Search(path(tmp_path))
    assert [job.job_id for job in search.pending] == [4]
    best = search.best()
    assert best is not None
    assert best.metrics["error"] == min(result.metrics["error"] for result in results(experiment).values())  # type: ignore[type-var]
    search.tell(4, error=0.5)
    assert search.ask().job_id == 5
    assert snapshot(tmp_path) == before


def test_a_directory_goes_on_as_its_driver_would(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, method="rand-walk", budget={"evaluations": 3})
    drive(experiment)
    next_job = Search(tmp_path).ask()
    make_experiment(tmp_path, method="rand-walk", budget={"evaluations": 4})
    drive(experiment)
    assert all_params(experiment)[4] == next_job.params


def test_a_directory_for_asking_alone_needs_no_objective(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"variables": SPACE, "method": "rand"}))
    assert Search(tmp_path).ask() == make().ask()


def broken(root: Path, **changes: Any) -> Path:
    (root / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return root


CONFIGS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "an unknown key": (lambda root: {"variables": SPACE, "sead": 1}, ['config: unknown key "sead"', '"seed"?']),
    "no variables": (lambda root: {}, ['config: the key "variables" is missing']),
    "a number": (lambda root: 3, ["config is 3", "dict", "path"]),
    "nothing": (lambda root: None, ["config is None", "dict"]),
    "a directory that is not there": (lambda root: root / "none", ["none: is neither"]),
    "a directory without a config": (lambda root: root, ["holds no config.json", "hyperpower-runner init"]),
    "another file": (lambda root: broken(root) / "train.py", ["train.py: is neither"]),
    "a config.json that is not there": (lambda root: str(root / "config.json"), ["holds no config.json"]),
    "a broken config.json": (lambda root: broken(root, seed=-1), ["config.json: seed is -1"]),
}


@pytest.mark.parametrize(("config", "parts"), CONFIGS.values(), ids=CONFIGS.keys())
def test_a_config_that_is_none_is_refused_in_one_sentence(
    tmp_path: Path, config: Callable[[Path], Any], parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        Search(config(tmp_path))
    for part in parts:
        assert part in str(caught.value)


def test_jobs_of_another_search_are_refused(tmp_path: Path) -> None:
    drive(make_experiment(tmp_path, budget={"evaluations": 1}))
    broken(tmp_path, variables={"x": CONFIG["variables"]["x"]})
    with pytest.raises(ConfigError, match=f"{tmp_path}/config.json: job 1 does not fit its variables"):
        Search(tmp_path)
    with pytest.raises(ConfigError, match='config: job 1 was run for "error", but optimize is "loss"'):
        Search({**CONFIG, "optimize": "loss"}, history=Search(broken(tmp_path)).history)


def test_models_of_other_variables_are_refused(tmp_path: Path) -> None:
    write_models(make_experiment(tmp_path), power_w={"form": "paper", "weights": {"m": 1.0}})
    with pytest.raises(HyperPowerError, match=r'models\.json: power_w: weights name "m"'):
        Search(tmp_path)


# --- what the surrogate would choose


def test_a_recommendation_is_a_function_of_config_and_history(monkeypatch: pytest.MonkeyPatch) -> None:
    def recommend(
        config: ExperimentConfig, models: HardwareModels, history: History, rng: np.random.Generator
    ) -> Recommendation | None:
        draws.append(rng.random())
        return Recommendation(POINT, 0.1, 0.05, 0.2) if len(history) > 1 else None

    draws: list[float] = []
    monkeypatch.setattr(methods, "recommend", recommend, raising=False)
    search = make()
    assert search.recommend() is None
    for _ in range(2):
        search.tell(search.ask().job_id, error=0.1)
    preferred = search.recommend()
    assert preferred == Search(search.config, history=search.history).recommend()
    assert preferred == Recommendation(POINT, 0.1, 0.05, 0.2)
    assert draws[1] == draws[2]
    assert len(search.history) == 2


# --- the package


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    section = text.partition("### In Python\n")[2]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert example is not None
    code = example[1]
    assert len(code.strip().splitlines()) <= 12
    answer = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    found = re.fullmatch(
        r"\{'width': (\d+), 'rate': ([\d.]+)\} \{'error': ([\d.]+), 'power_w': ([\d.]+)\}\n", answer.stdout
    )
    assert found is not None, answer.stdout
    width, rate, error, power_w = map(float, found.groups())
    assert error == pytest.approx(0.02 + 1 / width + abs(rate - 0.03))
    assert power_w == 20 + 0.5 * width <= 60
    assert error < 0.1
    assert list(tmp_path.iterdir()) == []


def test_the_package_hands_out_the_search_and_nothing_else_unknown() -> None:
    assert hyperpower_runner.Search is Search
    with pytest.raises(AttributeError, match="Sarch"):
        hyperpower_runner.Sarch  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_is_light() -> None:
    """Wrapper scripts import hyperpower_runner.objective, and must not pay for numpy or pydantic."""
    code = "import sys, hyperpower_runner; print([m for m in ('numpy', 'pydantic', 'scipy') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_what_is_handed_out_may_be_changed_without_harm() -> None:
    search = Search(CONFIG)
    job = search.ask()
    search.tell(job.job_id, error=0.5, power_w=1.0)
    best = search.best()
    assert best is not None
    before = dict(best.params)
    for name in best.params:
        best.params[name] = "spoilt"
    search.ask()
    search.pending[0].params.clear()
    after = search.best()
    assert after is not None
    assert after.params == before
    assert search.pending[0].params


def test_a_boolean_is_no_job_id() -> None:
    search = Search(CONFIG)
    search.ask()
    with pytest.raises(SearchError, match="no job True"):
        search.tell(True, error=0.1)

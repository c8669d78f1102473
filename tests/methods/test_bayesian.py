"""What HW-IECI and HW-CWEI share, on histories that a hostile user, or an unlucky one, would have."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperpower_runner.config import parse
from hyperpower_runner.errors import InfeasibleError, SpaceExhaustedError
from hyperpower_runner.hardware.models import HardwareModels, LinearModel
from hyperpower_runner.history import History
from hyperpower_runner.search import Search
from hyperpower_runner.space import Array
from hyperpower_runner.trial import Params, Rejection, Trial

METHODS = ["hw-ieci", "hw-cwei"]
FLOAT: dict[str, Any] = {"type": "FLOAT", "min": 0, "max": 1, "structural": True}
LINE: dict[str, Any] = {"x": FLOAT}
SQUARE: dict[str, Any] = {"x": FLOAT, "y": FLOAT}
MIXED: dict[str, Any] = {
    "rate": {"type": "FLOAT", "min": 1e-4, "max": 1.0, "scale": "log"},
    "units": {"type": "INT", "min": 8, "max": 128, "scale": "log"},
    "kind": {"type": "ENUM", "options": ["a", "b", "c"]},
    "depth": {"type": "INT", "min": 1, "max": 6},
    "drop": {"type": "FLOAT", "min": 0, "max": 1},
}

pytestmark = pytest.mark.parametrize("method", METHODS)


def make(variables: dict[str, Any], /, *, models: dict[str, LinearModel] | None = None, **changes: Any) -> Search:
    keys = {name.replace("_", "-"): value for name, value in changes.items()}
    config = parse({"variables": variables, **keys}, runnable=False)
    return Search(config, models=HardwareModels(config.space, models or {}))


def bowl(params: Params) -> float:
    return float((params["x"] - 0.3) ** 2 + (params["y"] - 0.6) ** 2)


def mixed_error(params: Params) -> float:
    rate, units = np.log10(params["rate"]) + 2, np.log2(params["units"]) - 6.5
    kind = {"a": 0.3, "b": 0.0, "c": 0.2}[params["kind"]]
    return float(
        0.2 * rate**2 + 0.1 * units**2 + kind + 0.05 * (params["depth"] - 4) ** 2 + (params["drop"] - 0.7) ** 2
    )


def told(search: Search, count: int, error: Callable[[Params], float], **metrics: Callable[[Params], float]) -> Search:
    for _ in range(count):
        job = search.ask()
        measured: dict[str, Any] = {name: f(job.params) for name, f in metrics.items()}
        search.tell(job.job_id, error=error(job.params), **measured)
    return search


def all_params(search: Search) -> list[Params]:
    return [trial.params for trial in search.history]


def best_error(search: Search) -> float:
    best = search.best()
    assert best is not None
    error = best.metrics["error"]
    assert error is not None
    return error


# --- degenerate histories


def observe(search: Search, results: list[dict[str, Any]], points: int = 7) -> None:
    for place in range(points):
        search.observe({"x": place / points, "y": (place * 3 % points) / points}, **results[place % len(results)])


LATENCY: dict[str, Any] = {"constraints": {"latency_s": 1.0}}
DEGENERATE: dict[str, tuple[dict[str, Any], Callable[[Search], object]]] = {
    "nothing": ({"method_args": {"initial-points": 1}}, lambda search: None),
    "one point": ({"method_args": {"initial-points": 1}}, lambda search: observe(search, [{"error": 0.5}], 1)),
    "two points": ({"method_args": {"initial-points": 2}}, lambda search: observe(search, [{"error": 0.5}], 2)),
    "all equal": ({}, lambda search: observe(search, [{"error": 0.1}])),
    "all zero": ({}, lambda search: observe(search, [{"error": 0}])),
    "all but one equal": ({}, lambda search: observe(search, [{"error": 1}] * 6 + [{"error": 0.5}])),
    "one far away": ({}, lambda search: observe(search, [{"error": 0.5}] * 6 + [{"error": 1e12}])),
    "only failures": ({}, lambda search: observe(search, [{"status": "failed"}, {"status": "timed-out"}])),
    "one success": ({}, lambda search: observe(search, [{"status": "failed"}] * 6 + [{"error": 0.3}])),
    "only lost": ({}, lambda search: observe(search, [{"status": "lost"}])),
    "only cancelled": ({}, lambda search: observe(search, [{"status": "cancelled"}])),
    "only infinite": ({}, lambda search: observe(search, [{"error": math.inf}, {"error": math.nan}])),
    "some infinite": ({}, lambda search: observe(search, [{"error": math.inf}, {"error": 0.1}, {"error": -math.inf}])),
    "only infeasible": (LATENCY, lambda search: observe(search, [{"error": 0.1, "latency_s": 2.0}])),
    "only not measured": (LATENCY, lambda search: observe(search, [{"error": 0.1}, {"error": 0.2, "latency_s": None}])),
    "measured infinite": (LATENCY, lambda search: observe(search, [{"error": 0.1, "latency_s": math.inf}])),
    "half measured": (LATENCY, lambda search: observe(search, [{"error": 0.1}, {"error": 0.2, "latency_s": 0.5}])),
    "failed and infeasible": (
        LATENCY,
        lambda search: observe(search, [{"status": "failed", "latency_s": 3.0}, {"error": 0.1, "latency_s": 2.0}]),
    ),
    "only pending": ({}, lambda search: [search.ask() for _ in range(7)]),
    "only pending, with a constraint": (LATENCY, lambda search: [search.ask() for _ in range(7)]),
    "one point, ten times": (
        {},
        lambda search: [search.observe({"x": 0.5, "y": 0.2}, error=0.1 * place) for place in range(10)],
    ),
    "one point, ten times, without noise": (
        {"likelihood": "NOISELESS"},
        lambda search: [search.observe({"x": 0.5, "y": 0.2}, error=0.1 * place) for place in range(10)],
    ),
    "points that are almost the same": (
        {"likelihood": "NOISELESS"},
        lambda search: [search.observe({"x": 0.5 + 1e-12 * k, "y": 0.5}, error=k % 2) for k in range(10)],
    ),
    "measured the same each time": (
        {"constraints": {"latency_s": 0.05}},  # the mean of 0.1, 0.1 and 0.1 is not 0.1
        lambda search: observe(search, [{"error": 0.1, "latency_s": 0.1}, {"error": 0.2, "latency_s": 0.1}], 3),
    ),
    "measured the same but for rounding": (
        {"constraints": {"latency_s": 0.05}},
        lambda search: observe(search, [{"error": 0.1, "latency_s": 0.3}, {"error": 0.2, "latency_s": 0.1 + 0.2}]),
    ),
    "a loss that overflowed": ({}, lambda search: observe(search, [{"error": 0.1}, {"error": 1e308}])),
    "a latency that overflowed": (
        LATENCY,
        lambda search: observe(search, [{"error": 0.1, "latency_s": 0.5}, {"error": 0.2, "latency_s": 1e308}]),
    ),
}


@pytest.mark.parametrize(("changes", "fill"), DEGENERATE.values(), ids=DEGENERATE.keys())
def test_a_degenerate_history_is_gone_on_from(
    method: str, changes: dict[str, Any], fill: Callable[[Search], object]
) -> None:
    """Without a warning (those are errors here), without repeating a point, and with a JSON of what was fitted."""
    search = make(SQUARE, method=method, **{"method_args": {"initial-points": 3}, **changes})
    fill(search)
    seen = set(search.history.seen)
    for place in range(3):
        job = search.ask()
        assert search.config.space.from_params(job.params) is not None
        assert search.history.trials[-1].key not in seen
        seen.add(search.history.trials[-1].key)
        assert math.isfinite(json.loads(json.dumps(job.surrogate)).get("log_acquisition", 0.0))
        if place != 1:  # and one stays pending
            search.tell(job.job_id, error=0.2, latency_s=0.7)
    search.recommend()


@pytest.mark.parametrize("exponent", [-40, 40])
def test_the_unit_of_a_metric_changes_nothing(method: str, exponent: int) -> None:
    """A scale that is a power of two, about 1e-12 and 1e12, is exact: so are the suggestions."""
    runs = []
    for scale in (1.0, 2.0**exponent):
        search = make(SQUARE, method=method, constraints={"latency_s": 0.7 * scale})
        told(search, 12, lambda p, s=scale: s * bowl(p), latency_s=lambda p, s=scale: s * p["x"])  # type: ignore[misc]
        runs.append(search)
    assert all_params(runs[0]) == all_params(runs[1])
    assert best_error(runs[1]) == best_error(runs[0]) * 2.0**exponent
    assert best_error(runs[0]) < 0.02


@pytest.mark.parametrize(("scale", "offset"), [(1e-12, 0.0), (1.0, 1e9), (1e12, -1e15), (1e-300, 0.0)])
def test_the_bottom_is_found_on_every_scale(method: str, scale: float, offset: float) -> None:
    search = told(make(SQUARE, method=method), 12, lambda params: scale * bowl(params) + offset)
    assert best_error(search) - offset < 0.01 * scale


def test_values_that_differ_at_the_same_point_are_averaged(method: str) -> None:
    """A lucky 0.0 beside four of 1.0 does not draw the search away from an honest 0.3."""
    search = make(LINE, method=method)
    for error in (1.0, 1.0, 0.0, 1.0, 1.0):
        search.observe({"x": 0.9}, error=error)
    for x, error in ((0.1, 0.32), (0.2, 0.3), (0.3, 0.34), (0.5, 0.55), (0.7, 0.8)):
        search.observe({"x": x}, error=error)
    asked = [search.ask().params["x"] for _ in range(3)]
    assert max(asked) < 0.6


# --- what is tried, and what is pending


EXHAUSTIBLE: dict[str, dict[str, Any]] = {
    "INT about zero": {
        "n": {"type": "INT", "min": -4, "max": 4},
        "m": {"type": "INT", "min": -1, "max": 1},
    },
    "ENUM only": {
        "k": {"type": "ENUM", "options": ["a", "b", "c"], "size": 2},
        "f": {"type": "ENUM", "options": [True, False]},
    },
    "ENUM of numbers": {"k": {"type": "ENUM", "options": [64, 8, 16, 0.5, -2]}},
    "INT on a log scale": {"n": {"type": "INT", "min": 1, "max": 20, "scale": "log"}},
    "with constants": {
        "c": {"type": "FLOAT", "min": 2, "max": 2},
        "n": {"type": "INT", "min": 1, "max": 7},
        "one": {"type": "ENUM", "options": ["only"]},
        "i": {"type": "INT", "min": 3, "max": 3},
    },
}


def exhaust(search: Search, pending: bool, error: Callable[[Params], float]) -> None:
    """Ask until there is no more."""

    def forever() -> None:
        while True:
            job = search.ask()
            if not pending or job.job_id % 3:
                search.tell(job.job_id, error=error(job.params))

    with pytest.raises(SpaceExhaustedError, match="every feasible point"):
        forever()


@pytest.mark.parametrize("pending", [False, True], ids=["all told", "every third pending"])
@pytest.mark.parametrize("variables", EXHAUSTIBLE.values(), ids=EXHAUSTIBLE.keys())
def test_a_finite_space_is_used_up_point_by_point(method: str, variables: dict[str, Any], pending: bool) -> None:
    search = make(variables, method=method)
    exhaust(search, pending, lambda params: float(sum(map(ord, str(params))) % 13))
    assert search.config.space.cardinality == len(search.history) == len(search.history.seen)


def test_the_feasible_part_of_a_finite_space_is_used_up_and_no_other_point(method: str) -> None:
    variables = {"n": {"type": "INT", "min": -5, "max": 5}, "m": {"type": "INT", "min": 0, "max": 5}}
    search = make(
        variables, method=method, constraints={"power_w": 6}, known_constraints=["n + m >= 2"],
        models={"power_w": LinearModel({"n": 1.0, "m": 2.0}, 0.5)},
    )  # fmt: skip
    exhaust(search, False, lambda params: float(params["n"] ** 2 - params["m"]))
    expected = {(n, m) for n, m in itertools.product(range(-5, 6), range(6)) if n + m >= 2 and n + 2 * m + 0.5 <= 6}
    assert sorted((params["n"], params["m"]) for params in all_params(search)) == sorted(expected)


def test_a_point_at_zero_is_recognised_among_integers_below_zero(method: str) -> None:
    """Rounding gives -0.0, whose bytes are not those of 0.0."""
    variables = {name: {"type": "INT", "min": -30, "max": 30} for name in "nm"}
    search = told(make(variables, method=method), 25, lambda params: float(params["n"] ** 2 + params["m"] ** 2))
    assert len(search.history.seen) == 25
    assert {"n": 0, "m": 0} in all_params(search)


@pytest.mark.parametrize("initial_points", [1, 4])
@pytest.mark.parametrize("observed", [0, 1, 6])
def test_a_space_of_one_point_is_used_up_at_once(method: str, initial_points: int, observed: int) -> None:
    variables = {"c": {"type": "FLOAT", "min": 2, "max": 2}, "k": {"type": "ENUM", "options": ["a"]}}
    search = make(variables, method=method, method_args={"initial-points": initial_points})
    for place in range(observed):
        search.observe({"c": 2.0, "k": "a"}, error=place)
    if not observed:
        assert search.ask().params == {"c": 2.0, "k": "a"}
    with pytest.raises(SpaceExhaustedError, match="every feasible point"):
        search.ask()
    search.recommend()


def test_the_last_point_is_proposed_wherever_it_lies(method: str) -> None:
    variables = {"n": {"type": "INT", "min": 1, "max": 1000}, "m": {"type": "INT", "min": 1, "max": 1000}}
    search = make(variables, method=method, known_constraints=["n == 777", "m > 554", "m < 560"])
    for m in (555, 556, 558, 559):
        search.observe({"n": 777, "m": m}, error=float(m))
    assert search.ask().params == {"n": 777, "m": 557}


def test_a_cancelled_point_may_come_again_and_a_lost_one_may_not(method: str) -> None:
    variables = {"n": {"type": "INT", "min": 1, "max": 8}}
    search = make(variables, method=method)
    for n in range(1, 7):
        search.observe({"n": n}, error=float(n))
    search.observe({"n": 7}, status="lost")
    search.observe({"n": 8}, status="cancelled")
    assert search.ask().params == {"n": 8}
    with pytest.raises(SpaceExhaustedError):
        search.ask()


def test_a_lost_trial_says_nothing_about_its_params(method: str) -> None:
    """The suggestion is the one that would have been made without it."""
    search = told(make(SQUARE, method=method), 8, bowl)
    without = search.history
    for x in (0.02, 0.98):
        search.observe({"x": x, "y": 0.02}, status="lost")
    suggestions = [search.method.suggest(history, np.random.default_rng(5)) for history in (without, search.history)]
    assert suggestions[0] == suggestions[1]


def test_a_cancelled_trial_says_nothing_at_all(method: str) -> None:
    search = told(make(SQUARE, method=method), 8, bowl)
    without = search.history
    search.observe({"x": 0.02, "y": 0.02}, status="cancelled")
    suggestions = [search.method.suggest(history, np.random.default_rng(5)) for history in (without, search.history)]
    assert suggestions[0] == suggestions[1]


# --- parallel slots


def distances(points: Array) -> Array:
    """Between each two different points."""
    rows, columns = np.triu_indices(len(points), 1)
    return np.asarray(np.linalg.norm(points[rows] - points[columns], axis=1))


def test_slots_get_different_good_points(method: str) -> None:
    apart, ignoring, errors = [], [], []
    for seed in range(4):
        search = told(make(SQUARE, method=method, seed=seed), 10, bowl)
        told_only = search.history
        jobs = [search.ask() for _ in range(4)]
        assert len({json.dumps(job.params) for job in jobs}) == 4
        apart.append(distances(np.array([[*job.params.values()] for job in jobs])).min())
        errors += [bowl(job.params) for job in jobs]
        blind = [search.method.suggest(told_only, np.random.default_rng([seed, job.job_id])).params for job in jobs]
        ignoring.append(distances(np.array([[*params.values()] for params in blind])).min())
    assert min(apart) > 0.02
    assert np.median(apart) > 3 * np.median(ignoring)
    assert np.median(errors) < 0.05  # of uniform points: about 0.2


def test_many_slots_of_a_small_space_hold_different_points(method: str) -> None:
    variables = {"n": {"type": "INT", "min": 1, "max": 4}, "k": {"type": "ENUM", "options": ["a", "b", "c"]}}
    search = make(variables, method=method)
    for n in range(1, 5):
        search.observe({"n": n, "k": "a"}, error=float(n))
    asked = [search.ask().params for _ in range(8)]
    assert len({json.dumps(params) for params in asked}) == 8
    with pytest.raises(SpaceExhaustedError):
        search.ask()


def test_slots_that_seek_feasibility_do_not_pile_up(method: str) -> None:
    search = make(SQUARE, method=method, constraints={"latency_s": 0.3})
    for x, y in ((0.9, 0.1), (0.8, 0.6), (0.95, 0.9), (0.7, 0.3), (0.85, 0.5)):
        search.observe({"x": x, "y": y}, error=1 - x, latency_s=x)
    points = np.array([[*search.ask().params.values()] for _ in range(4)])
    assert (points[:, 0] < 0.7).sum() >= 3
    assert distances(points).min() > 0.02


# --- diverged trainings


def diverging(search: Search, count: int, **how: Any) -> list[Params]:
    """The least error is close to where trainings begin to diverge: beyond x = 0.5, all do."""
    for _ in range(count):
        job = search.ask()
        if job.params["x"] > 0.5:
            search.tell(job.job_id, **how)
        else:
            search.tell(job.job_id, error=(job.params["x"] - 0.45) ** 2 + (job.params["y"] - 0.4) ** 2)
    return all_params(search)


def test_a_region_where_all_trainings_diverged_is_avoided(method: str) -> None:
    """Beside a search that is told nothing of them: lost trials."""
    beyond: dict[str, list[float]] = {"terminated": [], "lost": []}
    for status, seed in itertools.product(beyond, range(3)):
        search = make(SQUARE, method=method, seed=seed)
        params = diverging(search, 15, status=status)
        beyond[status].append(float(np.mean([each["x"] > 0.5 for each in params[6:]])))
        assert status == "lost" or best_error(search) < 0.01
    assert np.mean(beyond["terminated"]) < 0.6
    assert np.mean(beyond["lost"]) > np.mean(beyond["terminated"]) + 0.3


HOW: dict[str, dict[str, Any]] = {
    "failed": {"status": "failed"},
    "timed out": {"status": "timed-out"},
    "terminated with an error": {"status": "terminated", "error": 0.0},
    "not a number": {"error": math.nan},
    "infinite": {"error": math.inf},
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW.keys())
def test_it_does_not_matter_how_a_training_diverged(method: str, how: dict[str, Any]) -> None:
    runs = [diverging(make(SQUARE, method=method), 8, **each) for each in ({"status": "terminated"}, how)]
    assert runs[0] == runs[1]


def test_where_everything_diverged_the_search_goes_elsewhere(method: str) -> None:
    search = make(LINE, method=method)
    for x in (0.6, 0.7, 0.8, 0.9, 0.95, 1.0):
        search.observe({"x": x}, status="failed")
    assert search.ask().params["x"] < 0.35


# --- feasible sets that are rare, or empty


RARE: dict[str, tuple[dict[str, Any], dict[str, LinearModel], Callable[[list[float]], bool]]] = {
    # The volume of a simplex of five dimensions: 0.26^5 / 120 = 1e-5.
    "by a model": (
        {"constraints": {"power_w": 26.0}},
        {"power_w": LinearModel(dict.fromkeys("abcde", 100.0))},
        lambda values: sum(100 * value for value in values) <= 26.0 + 1e-9,
    ),
    "by a known constraint": (
        {"known_constraints": ["max(a, b, c, d, e) < 0.1"]},
        {},
        lambda values: max(values) < 0.1,
    ),
    "by both": (
        {"constraints": {"power_w": 30.0}, "known_constraints": ["max(a, b, c) < 0.05"]},
        {"power_w": LinearModel({"d": 100.0, "e": 100.0})},
        lambda values: max(values[:3]) < 0.05 and 100 * sum(values[3:]) <= 30.0 + 1e-9,
    ),
}


@pytest.mark.parametrize(("changes", "models", "allowed"), RARE.values(), ids=RARE.keys())
def test_a_feasible_set_of_one_in_100_000_is_searched_and_never_left(
    method: str, changes: dict[str, Any], models: dict[str, LinearModel], allowed: Callable[[list[float]], bool]
) -> None:
    variables = dict.fromkeys("abcde", FLOAT)
    search = told(make(variables, method=method, models=models, **changes), 9, lambda params: 1 - sum(params.values()))
    assert all(allowed([*params.values()]) for params in all_params(search))
    assert len(search.history.seen) == 9
    errors = [trial.metrics["error"] or 0.0 for trial in search.history]
    assert min(errors[4:]) < min(errors[:4])  # it improves on what was drawn
    assert len({job["converged"] for trial in search.history if (job := trial.job.surrogate)}) >= 1


EMPTY: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a known constraint": (
        {"known_constraints": ["x + y > 2.5"]},
        ["known-constraints", '"x + y > 2.5" holds at none'],
    ),
    "a budget": ({"constraints": {"power_w": 0.5}}, ["constraints.power_w", "at most 0.5", "raise the budget"]),
}


@pytest.mark.parametrize("observed", [0, 6])
@pytest.mark.parametrize(("changes", "parts"), EMPTY.values(), ids=EMPTY.keys())
def test_an_empty_feasible_set_is_said_in_a_sentence(
    method: str, changes: dict[str, Any], parts: list[str], observed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperpower_runner.methods.bayesian.MOST_DRAWN", 50_000)
    models = {"power_w": LinearModel({"x": 1.0}, 1.0)}
    search = make(SQUARE, method=method, models=models)
    for place in range(observed):
        search.observe({"x": place / 7, "y": 0.5}, error=place, power_w=0.1)
    with pytest.raises(InfeasibleError) as caught:
        make_with(search.history, changes, method, models).ask()
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def make_with(history: History, changes: dict[str, Any], method: str, models: dict[str, LinearModel]) -> Search:
    search = make(SQUARE, method=method, models=models, **changes)
    return Search(search.config, models=search.models, history=history)


# --- a suggestion is a function of config, history and job id


SCRIPT = """
import json, sys
from hyperpower_runner import Search
search = Search(json.loads(sys.argv[1]))
for params, metrics in json.loads(sys.argv[2]):
    search.observe(params, **metrics)
search.ask()
print(json.dumps([search.ask().params, search.pending[0].params]))
"""


def test_a_suggestion_is_the_same_in_a_fresh_process(method: str) -> None:
    config = {"variables": MIXED, "method": method, "constraints": {"latency_s": 0.8}, "seed": 11}
    search = Search(config)
    for _ in range(9):
        job = search.ask()
        if job.job_id == 5:
            search.tell(5, status="failed")
        else:
            search.tell(job.job_id, error=mixed_error(job.params), latency_s=job.params["drop"])
    told_json = [
        [trial.params, {**trial.metrics, "status": trial.result.status.value}]
        for trial in search.history if trial.result is not None
    ]  # fmt: skip
    first, second = search.ask(), search.ask()
    environment = {**os.environ, "PYTHONHASHSEED": "77", "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, json.dumps(config), json.dumps(told_json)],
        capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == [second.params, first.params]


def test_a_suggestion_depends_on_config_history_and_job_id_only(method: str) -> None:
    models = {"power_w": LinearModel({"units": 1.0, "depth": 5.0})}
    search = make(MIXED, method=method, models=models, constraints={"power_w": 90})
    told(search, 7, mixed_error)
    search.ask()
    job, rejection = search.propose()
    assert search.propose() == (job, rejection)
    np.random.seed(3)
    search.recommend()  # draws from another generator, and keeps nothing
    again = Search(search.config, models=search.models, history=History(search.history.trials[::-1]))
    assert again.propose() == (job, rejection)
    without_times = [
        replace(trial, job=replace(trial.job, surrogate={}, created_s=1.0, seed=3)) for trial in search.history
    ]
    assert Search(search.config, models=search.models, history=History(tuple(without_times))).propose()[0].params == (
        job.params
    )
    other_seed = replace(search.config, seed=1)
    assert Search(other_seed, models=search.models, history=search.history).propose()[0].params != job.params
    later = Search(search.config, models=search.models, history=search.history)
    later.observe(job.params, status="cancelled")  # which says nothing, but takes a job id
    assert later.propose()[0].params != job.params


def test_parallel_jobs_may_be_told_in_any_order(method: str) -> None:
    runs = []
    for order in (1, -1):
        search = make(SQUARE, method=method, seed=2)
        for _ in range(3):
            for job in [search.ask() for _ in range(3)][::order]:
                search.tell(job.job_id, error=bowl(job.params))
        runs.append(all_params(search))
    assert runs[0] == runs[1]


def test_the_first_points_are_drawn_and_the_next_are_fitted_and_say_so(method: str) -> None:
    search = told(make(SQUARE, method=method, method_args={"initial-points": 6}), 8, bowl)
    drawn = told(make(SQUARE, method="rand"), 6, bowl)
    assert all_params(search)[:6] == all_params(drawn)
    fitted = [trial.job.surrogate for trial in search.history]
    assert fitted[:6] == [{}] * 6
    for place in (6, 7):
        assert fitted[place]["observations"] == place
        assert isinstance(fitted[place]["converged"], bool)
        process = fitted[place]["processes"]["error"]
        assert 0.0 < process["acceptance"] < 1.0
        assert process["autocorrelation_steps"] > 0.0
    _, rejection = search.propose()
    assert rejection == Rejection()


def test_a_pending_point_that_will_hardly_be_feasible_does_not_set_y_plus(method: str) -> None:
    """Its promise would hide what can be gained where the learned constraint holds."""
    for seed in range(4):
        search = make(SQUARE, method=method, constraints={"load": 0.5}, seed=seed)
        rng = np.random.default_rng(seed)
        for x, y in rng.random((10, 2)):
            search.observe({"x": x, "y": y}, error=x + (y - 0.5) ** 2, load=1.0 - x)
        pending = search.observe({"x": 0.02, "y": 0.5}, status="cancelled")
        history = History((*search.history.trials[:-1], Trial(pending)))
        suggestion = search.method.suggest(history, np.random.default_rng(seed))
        assert 0.4 < suggestion.params["x"] < 0.8
        assert 0.3 < suggestion.params["y"] < 0.7

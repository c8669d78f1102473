"""What the posterior mean prefers: not luck, nothing infeasible, nothing while little is known; its unit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hyperpower_runner.config import parse
from hyperpower_runner.hardware.models import HardwareModels, LinearModel
from hyperpower_runner.methods import recommendation
from hyperpower_runner.methods.fits import Fits
from hyperpower_runner.search import Search
from hyperpower_runner.trial import Recommendation

LINE: dict[str, Any] = {"x": {"type": "FLOAT", "min": 0, "max": 1, "structural": True}}
INTEGERS: dict[str, Any] = {"n": {"type": "INT", "min": 1, "max": 9}}


def make(variables: dict[str, Any], /, *, models: dict[str, LinearModel] | None = None, **changes: Any) -> Search:
    keys = {name.replace("_", "-"): value for name, value in changes.items()}
    config = parse({"variables": variables, **keys}, runnable=False)
    return Search(config, models=HardwareModels(config.space, models or {}))


def recommended(search: Search) -> Recommendation:
    found = search.recommend()
    assert found is not None
    assert found.low <= found.expected <= found.high
    assert search.recommend() == found
    return found


@pytest.mark.parametrize("method", ["rand", "rand-walk", "hw-cwei", "hw-ieci"])
@pytest.mark.parametrize("seed", range(3))
def test_a_point_with_good_neighbours_is_preferred_to_a_lucky_one(method: str, seed: int) -> None:
    search, rng = make(LINE, method=method, seed=seed), np.random.default_rng(seed)
    for x in np.linspace(0.0, 1.0, 21):
        search.observe({"x": float(x)}, error=float((x - 0.3) ** 2 + 0.02 * rng.standard_normal()))
    lucky = search.observe({"x": 0.875}, error=-0.05)
    best = search.best()
    assert best is not None
    assert best.job_id == lucky.job_id
    found = recommended(search)
    assert found.params["x"] == pytest.approx(0.3, abs=0.12)
    assert found.low < 0.01
    assert found.high > 0.0
    assert found.expected == pytest.approx(0.0, abs=0.04)


def test_repeated_values_at_a_point_are_averaged() -> None:
    search = make(INTEGERS)
    for error in (0.0, 0.5, 0.6, 0.4, 0.5):
        search.observe({"n": 8}, error=error)
    for n, error in ((1, 0.35), (2, 0.3), (3, 0.2), (4, 0.3), (5, 0.35)):
        for noise in (-0.02, 0.02):
            search.observe({"n": n}, error=error + noise)
    found = recommended(search)
    assert 2 <= found.params["n"] <= 4
    assert 0.1 < found.expected < 0.35


def test_of_precise_values_the_tried_best_one_is_named() -> None:
    search = make(INTEGERS)
    jobs = {n: search.observe({"n": n}, error=(n - 6) ** 2 / 10).job_id for n in range(1, 10)}
    found = recommended(search)
    assert (found.params, found.job_id) == ({"n": 6}, jobs[6])
    assert found.expected == pytest.approx(0.0, abs=0.1)


def test_of_params_that_were_tried_twice_the_first_job_is_named() -> None:
    search = make(INTEGERS)
    for n in (6, 6, 1, 2, 8):
        search.observe({"n": n}, error=(n - 6) ** 2 / 10)
    assert recommended(search).job_id in (1, None)


def test_a_point_that_was_not_tried_has_no_job() -> None:
    search = make(LINE)
    for x in (0.0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0):
        search.observe({"x": x}, error=(x - 0.3) ** 2)
    found = recommended(search)
    assert found.params["x"] == pytest.approx(0.3, abs=0.03)
    assert found.job_id is None


FEW: dict[str, Callable[[Search], object]] = {
    "nothing": lambda search: None,
    "two": lambda search: [search.observe({"n": n}, error=0.1) for n in (1, 2)],
    "two and failures": lambda search: [
        search.observe({"n": n}, **({"error": 0.1} if n < 3 else {"status": "failed"})) for n in range(1, 9)
    ],
    "only failures": lambda search: [search.observe({"n": n}, status="failed") for n in range(1, 9)],
    "only infinite": lambda search: [search.observe({"n": n}, error=math.inf) for n in range(1, 9)],
    "only pending": lambda search: [search.ask() for _ in range(8)],
    "only cancelled": lambda search: [search.observe({"n": n}, status="cancelled", error=0.1) for n in range(1, 9)],
}


@pytest.mark.parametrize("fill", FEW.values(), ids=FEW.keys())
def test_before_three_observations_nothing_is_preferred(fill: Callable[[Search], object]) -> None:
    search = make(INTEGERS, method="rand")
    fill(search)
    assert search.recommend() is None


@pytest.mark.parametrize("exponent", [-40, 0, 40])
def test_expectations_are_in_the_unit_of_the_metric(exponent: int) -> None:
    """A scale that is a power of two, about 1e-12 and 1e12, is exact."""
    found = []
    for scale in (1.0, 2.0**exponent):
        search = make(LINE, optimize="latency_s")
        for x in np.linspace(0.0, 1.0, 9):
            search.observe({"x": float(x)}, latency_s=scale * (3 + (float(x) - 0.3) ** 2))
        found.append(recommended(search))
    assert found[0].params == found[1].params
    for name in ("low", "expected", "high"):
        assert getattr(found[1], name) == pytest.approx(2.0**exponent * getattr(found[0], name), rel=1e-9)
    assert found[0].expected == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize(("scale", "offset"), [(1e-12, 0.0), (1e12, 0.0), (1.0, 1e9), (1e-300, 0.0), (1e290, 0.0)])
def test_expectations_are_right_on_every_scale(scale: float, offset: float) -> None:
    search = make(LINE)
    for x in np.linspace(0.0, 1.0, 9):
        search.observe({"x": float(x)}, error=scale * (float(x) - 0.3) ** 2 + offset)
    found = recommended(search)
    assert found.params["x"] == pytest.approx(0.3, abs=0.03)
    assert (found.expected - offset) / scale == pytest.approx(0.0, abs=0.01)
    assert found.low - offset < 0.001 * scale
    assert 0.0 < (found.high - found.low) / scale < 0.1


def test_nine_of_ten_values_lie_within_the_borders() -> None:
    """Of functions drawn from a process like the prior, at the recommended point."""
    within = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        weights, phases = rng.standard_normal(6), rng.uniform(0, 2 * np.pi, 6)

        def f(x: float, weights: Any = weights, phases: Any = phases) -> float:
            return float(np.sum(weights * np.sin(np.arange(1, 7) * 1.5 * x + phases)))

        search = make(LINE)
        for x in rng.random(9):
            search.observe({"x": float(x)}, error=f(float(x)) + 0.1 * float(rng.standard_normal()))
        found = recommended(search)
        within.append(found.low <= f(found.params["x"]) <= found.high)
    assert sum(within) >= 22


# --- constraints


@pytest.mark.parametrize("aware", [True, False])
def test_what_a_model_predicts_to_violate_is_never_preferred(aware: bool) -> None:
    """With the unaware counterpart too, which may have tried it."""
    search = make(LINE, models={"power_w": LinearModel({"x": 100.0})}, constraints={"power_w": 50},
                  hardware_aware=aware)  # fmt: skip
    for x in np.linspace(0.0, 1.0, 9):
        search.observe({"x": float(x)}, error=1 - float(x))
    found = recommended(search)
    assert 0.45 < found.params["x"] <= 0.5
    assert found.predictions == {"power_w": pytest.approx(100 * found.params["x"])}


def test_known_constraints_hold_for_what_is_preferred() -> None:
    search = make({**INTEGERS, **LINE}, known_constraints=["n <= 5", "n != 5 or x < 0.5"])
    for n in range(1, 6):
        search.observe({"n": n, "x": 0.4}, error=1 - n / 10)
        search.observe({"n": min(n, 4), "x": 0.9}, error=0.8 - n / 10)
    params = recommended(search).params
    assert params["n"] <= 5
    assert params["n"] != 5 or params["x"] < 0.5


def test_a_constraint_without_a_model_is_learned() -> None:
    search = make(LINE, constraints={"latency_s": 4.0})
    for x in np.linspace(0.0, 1.0, 11):
        search.observe({"x": float(x)}, error=1 - float(x), latency_s=10 * float(x) + 0.25)
    assert 0.25 < recommended(search).params["x"] < 0.45


def test_a_tried_point_that_measured_feasible_is_not_passed_over_for_a_worse_one() -> None:
    """Five is at its bound, which it may be, and was measured there."""
    search = make(INTEGERS, constraints={"latency_s": 5})
    for n in range(1, 10):
        search.observe({"n": n}, error=float((n - 9) ** 2), latency_s=float(n))
    assert recommended(search).params == {"n": 5}


@pytest.mark.parametrize("modelled", [False, True], ids=["without a model", "although a model allows it"])
def test_a_tried_point_that_measured_infeasible_is_not_preferred(modelled: bool) -> None:
    models = {"latency_s": LinearModel({"n": 0.9})} if modelled else {}
    search = make(INTEGERS, constraints={"latency_s": 6.5}, models=models)
    for n in range(1, 10):
        search.observe({"n": n}, error=float((n - 9) ** 2), latency_s=float(n))  # the model says 6.3 of seven
    assert recommended(search).params == {"n": 6}


def test_measurements_count_more_than_a_model_that_they_contradict() -> None:
    """The model allows up to 0.7; measured was at most 0.5."""
    models = {"power_w": LinearModel({"x": 100.0}, -20.0)}
    search = make(LINE, models=models, constraints={"power_w": 50})
    for x in np.linspace(0.0, 1.0, 11):
        search.observe({"x": float(x)}, error=1 - float(x), power_w=100 * float(x))
    assert 0.4 < recommended(search).params["x"] < 0.55


def test_where_trainings_diverge_is_not_preferred() -> None:
    search = make(LINE)
    for x in np.linspace(0.0, 1.0, 21):
        search.observe({"x": float(x)}, **({"error": 1 - float(x)} if x < 0.52 else {"status": "terminated"}))
    assert 0.4 < recommended(search).params["x"] < 0.55


def test_where_nothing_is_feasible_nothing_is_preferred() -> None:
    search = make(INTEGERS, constraints={"latency_s": 0.5})
    for n in range(1, 10):
        search.observe({"n": n}, error=float(n), latency_s=10.0 + n)
    assert search.recommend() is None


def test_a_bound_on_the_optimised_metric_is_no_reason_to_prefer_nothing() -> None:
    search = make(INTEGERS, constraints={"error": 0.5})
    for n in range(1, 10):
        search.observe({"n": n}, error=(n - 4) ** 2 / 10)
    assert recommended(search).params == {"n": 4}


def test_a_point_of_a_used_up_space_is_preferred() -> None:
    search = make({"k": {"type": "ENUM", "options": ["a", "b", "c"]}})
    for k, error in (("a", 0.5), ("b", 0.1), ("c", 0.4), ("a", 0.6), ("b", 0.2), ("c", 0.5)):
        search.observe({"k": k}, error=error)
    found = recommended(search)
    assert found.params == {"k": "b"}
    assert found.job_id == 2


def test_what_is_preferred_depends_on_config_and_history_only() -> None:
    search = make({**INTEGERS, **LINE}, seed=4)
    for _ in range(7):
        job = search.ask()
        search.tell(job.job_id, error=job.params["x"] + job.params["n"])
    found = recommended(search)
    assert Search(search.config, history=search.history).recommend() == found
    search.observe({"n": 9, "x": 1.0}, error=30.0)
    assert recommended(search) != found


def test_of_very_many_trials_those_that_tell_most_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a posterior of all would take hours; what was measured of the others counts all the same."""
    asked: list[int] = []

    class Counted(Fits):
        def __post_init__(self) -> None:
            super().__post_init__()
            asked.append(len(self.observations.trials))

    monkeypatch.setattr(recommendation, "MOST", 60)
    monkeypatch.setattr(recommendation, "Fits", Counted)
    search = make(INTEGERS | LINE, constraints={"power_w": 10.0})
    rng = np.random.default_rng(0)
    for x in rng.random(400):
        n = int(rng.integers(1, 10))
        search.observe({"x": float(x), "n": n}, error=float((x - 0.3) ** 2 + 0.01 * n), power_w=20.0 if n < 3 else 5.0)
    found = recommended(search)
    assert found.params["x"] == pytest.approx(0.3, abs=0.1)
    assert found.params["n"] in (3, 4)
    assert set(asked) == {60}


def test_of_very_many_trials_the_first_job_is_named_also_where_it_was_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recommendation, "MOST", 60)
    search, rng = make(INTEGERS), np.random.default_rng(1)
    for n in (4, 3, 2):
        search.observe({"n": n}, error=2.0)  # neither among the best, nor the worst
    for n in rng.integers(1, 10, 400):
        search.observe({"n": int(n)}, error=float((n - 3) ** 2 + 0.1 * rng.standard_normal()))
    found = recommended(search)
    assert (found.params, found.job_id) == ({"n": 3}, 2)

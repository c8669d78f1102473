"""Budgets with a confidence: which margins a search keeps, what measured jobs teach it, and who has the last word."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hyperpower_runner.config import parse, parse_text
from hyperpower_runner.errors import ConfigError, HyperPowerError, InfeasibleError, ModelsError
from hyperpower_runner.hardware.models import HardwareModels, LinearModel
from hyperpower_runner.hardware.validation import Score, Validation
from hyperpower_runner.history import History
from hyperpower_runner.methods.bayesian import Bayesian
from hyperpower_runner.methods.observations import Observations
from hyperpower_runner.search import Search
from hyperpower_runner.summary import Summary
from hyperpower_runner.trial import Job
from hyperpower_runner.view import describe_constraint

METHODS = ["rand", "rand-walk", "hw-cwei", "hw-ieci"]
VARIABLES: dict[str, Any] = {
    "n": {"type": "INT", "min": 1, "max": 100},
    "x": {"type": "FLOAT", "min": 0, "max": 1},
}
UNAWARE: dict[str, Any] = {"hardware-aware": False}
BOUND = 85
RATIOS = (1 + 0.1 * np.sin(np.arange(40.0))).tolist()  # between 0.9 and 1.1, in no order


def model(ratios: Sequence[float] | None = RATIOS, **fields: Any) -> LinearModel:
    """Predicts n watts; ratios: what was measured / predicted of structures left out, None for an unknown error."""
    if ratios is None:
        return LinearModel({"n": 1.0}, form="paper", **fields)
    count = len(ratios)
    found = Validation(Score(0.05, 0.01), 0.3, count, count, 10, 5, {}, tuple(sorted(ratios)))
    return LinearModel({"n": 1.0}, form="paper", validation=found, **fields)


def make(
    constraint: Any, ratios: Sequence[float] | None = RATIOS, *, history: History | None = None, **changes: Any
) -> Search:
    config = parse(
        {"variables": VARIABLES, "method": "rand", "constraints": {"power_w": constraint}, **changes}, runnable=False
    )
    return Search(config, models=HardwareModels(config.space, {"power_w": model(ratios)}), history=history)


def by_hand(ratios: Sequence[float], confidence: float) -> float:
    """The least ratio that at least (n + 1) * confidence of them do not exceed."""
    wanted = (len(ratios) + 1) * confidence - 1e-9
    return min(ratio for ratio in ratios if sum(other <= ratio for other in ratios) >= wanted)


def at(n: int, x: float = 0.5) -> dict[str, Any]:
    return {"n": n, "x": x}


def margin_of(search: Search) -> float | None:
    return search.calibrated_models.margins.get("power_w")


# --- the margin before anything was measured


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9, 0.95])
def test_predictions_times_the_margin_keep_within_the_budget(confidence: float) -> None:
    search = make({"max": BOUND, "confidence": confidence})
    q = by_hand(RATIOS, confidence)
    assert margin_of(search) == pytest.approx(q)
    asked = [search.ask().params["n"] for _ in range(600)]
    assert max(asked) == math.floor(BOUND / q)  # none above, and none is refused without need
    assert min(asked) == 1


def test_the_margin_is_what_the_ratios_say_and_not_their_largest() -> None:
    assert by_hand(RATIOS, 0.9) < max(RATIOS)
    lower = [0.8] * 40  # a model that always predicts too much lets more in
    search = make({"max": 60, "confidence": 0.9}, lower)
    assert margin_of(search) == 0.8
    assert max(search.ask().params["n"] for _ in range(600)) == 75


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_margin(method: str) -> None:
    search = make({"max": BOUND, "confidence": 0.9}, method=method)
    q = by_hand(RATIOS, 0.9)
    for _ in range(8):
        job = search.ask()
        assert job.predictions["power_w"] == job.params["n"]  # it is the prediction that is written down
        assert job.params["n"] * q <= BOUND
        search.tell(job.job_id, error=1 - job.params["n"] / 100)  # the best lies beyond the border


def test_what_only_the_margin_excludes_is_counted_among_the_discarded() -> None:
    search = make({"max": BOUND, "confidence": 0.9})
    discarded: list[float] = []
    for _ in range(100):
        job, rejection = search.propose()
        search.add(job)
        discarded += [each["predictions"]["power_w"] for each in rejection.first]
    assert any(value <= BOUND for value in discarded)
    assert all(value * by_hand(RATIOS, 0.9) > BOUND for value in discarded)


def test_a_plain_bound_has_no_margin() -> None:
    for constraint in (BOUND, {"max": BOUND}, {"max": "85 W"}, {"max": BOUND, "recalibrate": False}):
        search = make(constraint)
        assert search.calibrated_models.margins == {}
        assert max(search.ask().params["n"] for _ in range(600)) == BOUND


def test_recalibrating_begins_with_a_confidence_of_95_percent() -> None:
    assert margin_of(make({"max": BOUND, "recalibrate": True})) == pytest.approx(by_hand(RATIOS, 0.95))


@pytest.mark.parametrize("ratios", [None, [], [1.0], [1.0] * 8])
@pytest.mark.parametrize("recalibrate", [False, True])
def test_too_few_ratios_are_one_sentence(ratios: list[float] | None, recalibrate: bool) -> None:
    search = make({"max": BOUND, "confidence": 0.9, "recalibrate": recalibrate}, ratios)
    with pytest.raises(ModelsError) as caught:
        search.ask()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "power_w" in sentence
    assert "confidence 0.9 needs 9 measured samples" in sentence
    assert f"has {len(ratios or [])};" in sentence
    assert "profile more" in sentence
    assert len(search.history) == 0


def test_nine_ratios_are_enough_for_a_confidence_of_90_percent() -> None:
    assert margin_of(make({"max": BOUND, "confidence": 0.9}, [1.0] * 8 + [1.25])) == 1.25


def test_too_many_predictions_that_are_not_positive_are_one_sentence() -> None:
    search = make({"max": BOUND, "confidence": 0.9}, [1.0] * 15 + [math.inf] * 5)
    with pytest.raises(ModelsError, match="not positive"):
        search.ask()


def test_a_confidence_without_a_model_asks_for_none() -> None:
    config = {"variables": VARIABLES, "method": "rand", "constraints": {"power_w": {"max": BOUND, "confidence": 0.9}}}
    search = Search(config)
    assert search.calibrated_models.margins == {}
    assert search.ask().predictions == {}


def test_margins_are_those_of_each_metric() -> None:
    constraints = {"power_w": {"max": BOUND, "confidence": 0.9}, "memory_bytes": {"max": 300, "confidence": 0.5}}
    config = parse({"variables": VARIABLES, "method": "rand", "constraints": constraints}, runnable=False)
    memory = replace(model([1.5] * 9), weights={"n": 4.0})
    search = Search(config, models=HardwareModels(config.space, {"power_w": model(), "memory_bytes": memory}))
    margins = search.calibrated_models.margins
    assert margins == {"power_w": pytest.approx(by_hand(RATIOS, 0.9)), "memory_bytes": 1.5}
    assert max(search.ask().params["n"] for _ in range(400)) == 50  # 4 * 50 * 1.5 = 300


@pytest.mark.parametrize("method", METHODS)
def test_a_search_that_is_unaware_of_the_hardware_ignores_margins(method: str) -> None:
    for ratios in (RATIOS, None):  # and what they would need
        search = make({"max": BOUND, "confidence": 0.9, "recalibrate": True}, ratios, method=method, **UNAWARE)
        assert search.calibrated_models.margins == {}
        for _ in range(3):
            job = search.ask()
            search.tell(job.job_id, error=0.5, power_w=100.0)
        assert search.calibrated_models.margins == {}
    search = make({"max": 2, "confidence": 0.9}, None, **UNAWARE)
    assert max(search.ask().params["n"] for _ in range(30)) > 2


def test_a_budget_that_only_the_margin_makes_unreachable_says_so() -> None:
    q = by_hand(RATIOS, 0.9)
    search = make({"max": 1.01, "confidence": 0.9})
    with pytest.raises(InfeasibleError) as caught:
        search.ask()
    sentence = str(caught.value)
    assert "constraints.power_w: at most 1.01 is allowed" in sentence
    assert f"with a margin of {100 * (q - 1):.2g} %" in sentence
    assert f"{q:.6g}" in sentence
    with pytest.raises(InfeasibleError) as caught:
        make({"max": 0.5}).ask()
    assert "margin" not in str(caught.value)


def test_what_is_said_of_a_budget_names_its_margin() -> None:
    search = make({"max": BOUND, "confidence": 0.9})
    clause = describe_constraint(search.config, search.calibrated_models, "power_w")
    assert f"with a margin of {100 * (by_hand(RATIOS, 0.9) - 1):.2g} %" in clause
    plain = make(BOUND)
    assert "margin" not in describe_constraint(plain.config, plain.calibrated_models, "power_w")


# --- what measured jobs teach


def recalibrated_by_hand(
    outcomes: Sequence[tuple[float, float]], confidence: float, ratios: Sequence[float] = RATIOS
) -> float:
    """Adaptive conformal inference, read literally: the level moves by a twentieth of each surprise near the budget.

    Near are the jobs whose prediction, with the margin that was in force, lay in the last fifth below the budget.
    """
    level, known = confidence, list(ratios)
    margin = by_hand(known, level)
    for predicted, measured in outcomes:
        if predicted > BOUND or predicted * margin < 0.8 * BOUND:
            continue
        level += 0.05 * confidence if measured > BOUND else -0.05 * (1 - confidence)
        level = max(level, 0.5)
        known.append(measured / predicted)
        enough = len(known) >= (len(known) + 1) * level - 1e-9
        largest, middle = max(known), sorted(known)[len(known) // 2]
        margin = by_hand(known, level) if enough else largest * (largest / middle) ** max(0, (level - 1) / 0.05)
    return margin


RECALIBRATED = {"max": BOUND, "confidence": 0.9, "recalibrate": True}


def test_a_violation_near_the_budget_widens_the_margin_for_the_next_job() -> None:
    search = make(RECALIBRATED)
    before = margin_of(search)
    assert before == pytest.approx(by_hand(RATIOS, 0.9))
    search.observe(at(78), error=0.5, power_w=88.0)
    after = margin_of(search)
    assert before is not None
    assert after is not None
    assert after > before
    assert after == pytest.approx(recalibrated_by_hand([(78, 88.0)], 0.9))
    assert max(search.ask().params["n"] for _ in range(400)) == math.floor(BOUND / after)


def test_jobs_that_keep_within_let_the_margin_shrink_and_jobs_far_below_say_nothing() -> None:
    search = make(RECALIBRATED)
    before = margin_of(search)
    for x in np.linspace(0, 1, 20):
        search.observe(at(30, float(x)), error=0.5, power_w=60.0)  # twice as much as predicted, and far below
    assert margin_of(search) == before
    for x in np.linspace(0, 1, 20):
        search.observe(at(80, float(x)), error=0.5, power_w=76.0)
    assert margin_of(search) == pytest.approx(recalibrated_by_hand([(80, 76.0)] * 20, 0.9))
    assert (margin_of(search) or 0) < (before or 0)


def test_what_was_predicted_above_the_budget_teaches_nothing_of_its_border() -> None:
    """An unaware search, or a user, may have run it; no margin could have kept it from being run."""
    search = make(RECALIBRATED)
    before = margin_of(search)
    search.observe(at(90), error=0.5, power_w=120.0)
    assert margin_of(search) == before


def test_without_recalibrate_measurements_leave_the_margin_alone() -> None:
    search = make({"max": BOUND, "confidence": 0.9})
    before = margin_of(search)
    for x in np.linspace(0, 1, 10):
        search.observe(at(80, float(x)), error=0.5, power_w=120.0)
    assert margin_of(search) == before


def test_jobs_without_a_usable_measurement_teach_no_margin() -> None:
    search = make(RECALIBRATED)
    before = margin_of(search)
    for x, power_w in enumerate((None, math.nan, math.inf)):
        search.observe(at(80, x / 4), error=0.5, power_w=power_w)
    search.observe(at(80, 0.9), error=0.5)
    search.ask()
    assert margin_of(search) == before


def told_of_violations(method: str) -> Search:
    search = make(RECALIBRATED, method=method, seed=4)
    rng = np.random.default_rng(7)
    for _ in range(10):
        job = search.ask()
        measured = job.params["n"] * rng.lognormal(0.06, 0.04)
        search.tell(job.job_id, error=1 - job.params["n"] / 100 + 0.1 * job.params["x"], power_w=measured)
    search.observe(at(79), error=0.3, power_w=99.0)
    return search


@pytest.mark.parametrize("method", METHODS)
def test_a_fresh_search_on_the_same_history_has_the_same_margin_and_proposes_the_same(method: str) -> None:
    search = told_of_violations(method)
    fresh = make(RECALIBRATED, method=method, seed=4, history=search.history)
    outcomes = [(trial.params["n"], trial.metrics["power_w"] or 0.0) for trial in search.history]
    assert margin_of(fresh) == margin_of(search) == pytest.approx(recalibrated_by_hand(outcomes, 0.9))
    assert margin_of(fresh) != pytest.approx(by_hand(RATIOS, 0.9))
    one, other = search.propose(), fresh.propose()
    assert one == other
    assert one[0].params["n"] * (margin_of(search) or 0) <= BOUND


def test_jobs_teach_in_the_order_of_their_ids_whoever_is_told_first() -> None:
    first, second = make(RECALIBRATED), make(RECALIBRATED)
    jobs = [first.ask() for _ in range(12)]
    assert [second.ask() for _ in range(12)] == jobs
    for order, search in ((jobs, first), (jobs[::-1], second)):
        for job in order:
            search.tell(job.job_id, error=0.5, power_w=1.2 * job.params["n"])
    assert margin_of(first) == margin_of(second)
    assert first.propose() == second.propose()


def test_a_margin_is_finite_whatever_the_jobs_measure() -> None:
    """Some predictions of structures left out were not positive: they say nothing of how far to keep off a budget."""
    ratios = [*RATIOS, math.inf]
    search = make(RECALIBRATED, ratios)
    assert margin_of(search) == pytest.approx(by_hand(ratios, 0.9))
    for x in np.linspace(0, 1, 5):
        search.observe(at(80, float(x)), error=0.5, power_w=90.0)
    margin = margin_of(search)
    assert margin is not None
    assert math.isfinite(margin)
    assert margin >= 90 / 80
    assert search.ask().params["n"] * margin <= BOUND


# --- jobs that ran before there were models


def ran(n: int, error: float, x: float = 0.5, **measured: float) -> dict[str, Any]:
    return {"params": at(n, x), "error": error, **measured}


def without_models(*jobs: dict[str, Any]) -> History:
    search = Search({"variables": VARIABLES, "method": "rand", "constraints": {"power_w": BOUND}})
    for job in jobs:
        search.observe(job.pop("params"), **job)
    return search.history


def test_jobs_from_before_the_models_are_judged_by_them_in_hindsight() -> None:
    history = without_models(ran(90, 0.1), ran(70, 0.2), ran(20, 0.3))
    assert history.best({"power_w": BOUND}) is None
    search = make(BOUND, history=history)
    best = search.best()
    assert best is not None
    assert (best.job_id, best.params["n"]) == (2, 70)
    assert best.job.predictions == {}  # what job.json says is what was known then
    assert best.hindsight == {"power_w": 70.0}


def test_measured_values_win_over_hindsight() -> None:
    history = without_models(ran(90, 0.2, power_w=80.0), ran(70, 0.1, power_w=88.0), ran(20, 0.3))
    best = make(BOUND, history=history).best()
    assert best is not None
    assert best.job_id == 1


def test_hindsight_changes_no_prediction_that_a_job_was_chosen_by() -> None:
    before = make(BOUND)
    before.observe(at(60), error=0.1)
    job = before.history.trials[0].job
    assert job.predictions == {"power_w": 60.0}
    config = before.config
    doubled = HardwareModels(config.space, {"power_w": LinearModel({"n": 2.0})})
    assert Search(config, models=doubled, history=before.history).best() is None  # the models at hand judge
    after = Search(
        {"variables": VARIABLES, "constraints": {"power_w": 2 * BOUND}}, models=doubled, history=before.history
    )
    best = after.best()
    assert best is not None
    assert best.job.predictions == {"power_w": 60.0}
    assert best.hindsight == {"power_w": 120.0}


def test_only_what_was_predicted_before_a_job_ran_counts_as_a_predicted_violation() -> None:
    history = without_models(ran(90, 0.1), ran(95, 0.2, power_w=97.0), ran(20, 0.3))
    search = make(BOUND, history=history, **UNAWARE)
    search.observe(at(99), error=0.1)
    violations = Summary(search.config, search.history, {}, 0, 0.0).violations
    assert violations == {"predicted": 1, "measured": 1}  # the last one, and the second


def test_a_search_goes_on_from_jobs_in_hindsight_as_from_its_own() -> None:
    """The surrogate's feasible set has the models' word on jobs that they were not asked about."""
    history = without_models(*(ran(n, 1 - n / 100, n / 100) for n in (10, 30, 50, 70, 90)))
    search = make(BOUND, history=history, method="hw-ieci")
    assert search.ask().params["n"] <= BOUND
    recommended = search.recommend()
    assert recommended is not None
    assert recommended.params["n"] <= BOUND


# --- when a model was proved wrong


def learned(search: Search) -> dict[str, float]:
    method = search.method
    assert isinstance(method, Bayesian)
    return method.learned(Observations.of(search.history, search.config.space))


@pytest.mark.parametrize(
    ("predicted", "measured", "expected"),
    [
        (80, 84.9, False),  # within
        (80, 90.0, False),  # above, by a ratio that structures left out had as well
        (80, 96.0, False),  # just as much
        (80, 96.1, True),
        (60, 84.0, False),  # by a ratio that none had, but within
        (60, 85.1, True),
        (90, 200.0, False),  # the model had said so
        (85, 102.1, True),  # right at the budget
    ],
)
@pytest.mark.parametrize("constraint", [BOUND, {"max": BOUND, "confidence": 0.5}])
def test_a_modelled_constraint_is_learned_where_no_ratio_explains_a_violation(
    constraint: Any, predicted: int, measured: float, expected: bool
) -> None:
    ratios = [1.0] * 20 + [1.2, math.inf]  # one prediction that was not positive explains nothing
    search = make(constraint, ratios, method="hw-ieci")
    search.observe(at(20, 0.1), error=0.3, power_w=20.0)
    assert learned(search) == {}
    search.observe(at(predicted), error=0.2, power_w=measured)
    assert learned(search) == ({"power_w": BOUND} if expected else {})


def test_a_model_of_unknown_error_is_learned_from_the_first_violation_on() -> None:
    search = make(BOUND, None, method="hw-ieci")
    search.observe(at(84), error=0.2, power_w=85.0)
    assert learned(search) == {}
    search.observe(at(80), error=0.2, power_w=85.1)
    assert learned(search) == {"power_w": BOUND}


@pytest.mark.parametrize("wrong", [False, True])
def test_the_search_has_a_surrogate_of_what_it_learns_and_only_of_that(wrong: bool) -> None:
    search = make(BOUND, [1.0] * 20 + [1.2], method="hw-ieci")
    for n, x in ((10, 0.1), (30, 0.9), (50, 0.4), (70, 0.7), (80, 0.2)):
        search.observe(at(n, x), error=1 - n / 100, power_w=n * (1.3 if wrong and n >= 70 else 1.1))
    fitted = json.dumps(search.ask().surrogate)
    assert ("power_w" in fitted) is wrong


# --- predictions that rest on nothing


def extrapolating(**changes: Any) -> Search:
    config = parse({"variables": VARIABLES, "method": "rand", **changes}, runnable=False)
    known = {"power_w": model(ranges={"n": (20.0, 60.0)}), "memory_bytes": model(ranges={"n": (1.0, 100.0)})}
    return Search(config, models=HardwareModels(config.space, known))


def test_a_job_names_the_metrics_whose_prediction_is_extrapolated() -> None:
    search = extrapolating()
    for _ in range(200):
        job = search.ask()
        n = job.params["n"]
        assert job.extrapolated == ([] if 18 <= n <= 62 else ["power_w"])  # a twentieth of the range is no step beyond
        assert Job.from_json(json.loads(json.dumps(job.to_json()))).extrapolated == job.extrapolated
    assert {bool(trial.job.extrapolated) for trial in search.history} == {True, False}


def test_models_without_ranges_extrapolate_nowhere() -> None:
    assert make(BOUND).ask().extrapolated == []
    assert Search({"variables": VARIABLES, "method": "rand"}).ask().extrapolated == []


# --- who has the last word


def test_the_best_is_judged_by_what_was_measured_and_else_by_what_was_predicted() -> None:
    search = make({"max": BOUND, "confidence": 0.9})
    search.observe(at(70, 0.1), error=0.1, power_w=85.1)  # predicted within, measured above
    assert search.best() is None
    search.observe(at(90, 0.2), error=0.4, power_w=85.0)  # the other way round
    search.observe(at(90, 0.3), error=0.2)  # predicted above
    search.observe(at(70, 0.4), error=0.3, power_w=None)  # predicted within
    search.observe(at(70, 0.5), error=0.05, power_w=math.nan)  # measured, but as what is no number
    best = search.best()
    assert best is not None
    assert (best.job_id, best.params["x"]) == (4, 0.4)


# --- the object form in config.json


def constraint_of(constraint: Any, metric: str = "power_w") -> dict[str, Any]:
    return {"objective": {"command": ["true"]}, "variables": VARIABLES, "constraints": {metric: constraint}}


def refusal(constraint: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_text(json.dumps(constraint_of(constraint)), "my/config.json")
    return str(caught.value)


def test_the_object_form_arrives() -> None:
    config = parse(constraint_of({"max": "0.085 kW", "confidence": 0.9, "recalibrate": True}))
    assert config.constraints == {"power_w": pytest.approx(85)}
    assert config.confidence == {"power_w": 0.9}
    assert config.recalibrated == {"power_w"}
    config = parse(constraint_of({"max": "1.2 GB", "recalibrate": True}, "memory_bytes"))
    assert config.constraints == {"memory_bytes": 1.2e9}
    assert config.confidence == {"memory_bytes": 0.95}
    for plain in (85, {"max": 85}, {"max": 85.0, "recalibrate": False}):
        config = parse(constraint_of(plain))
        assert (config.constraints, config.confidence, config.recalibrated) == ({"power_w": 85}, {}, frozenset())


WRONG: dict[str, tuple[Any, list[str]]] = {
    "a misspelt key": ({"max": 85, "confidense": 0.9}, ['"confidense"', "constraints.power_w", '"confidence"']),
    "an unknown key": ({"max": 85, "frobnicate": 1}, ['"frobnicate"', "constraints.power_w", "recalibrate"]),
    "certainty": ({"max": 85, "confidence": 1.0}, ["constraints.power_w.confidence is 1.0", "less than 1"]),
    "too little confidence": ({"max": 85, "confidence": 0.2}, ["constraints.power_w.confidence is 0.2", "0.5"]),
    "confidence in percent": ({"max": 85, "confidence": 90}, ["constraints.power_w.confidence is 90", "less than 1"]),
    "confidence as a text": ({"max": 85, "confidence": "90 %"}, ['constraints.power_w.confidence is "90 %"', "number"]),
    "no max": ({"confidence": 0.9}, ['"max"', "missing", "constraints.power_w"]),
    "nothing": ({}, ['"max"', "missing", "constraints.power_w"]),
    "a min": ({"max": 85, "min": 3}, ['"min"', "constraints.power_w", "max"]),
    "an unknown unit": ({"max": "85 horses"}, ["constraints.power_w", '"85 horses"', "mW, W, kW"]),
    "a unit of another metric": ({"max": "1.2 GB"}, ["constraints.power_w", '"1.2 GB"', "mW, W, kW"]),
    "a max below 0": ({"max": -1, "confidence": 0.9}, ["constraints.power_w", "-1", "below 0"]),
    "no max at all": ({"max": None}, ["constraints.power_w.max is null", "number"]),
    "recalibrate as a text": ({"max": 85, "recalibrate": "yes"}, ['constraints.power_w.recalibrate is "yes"', "bool"]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_object_is_one_sentence_that_names_the_constraint_and_the_key(kind: str) -> None:
    constraint, parts = WRONG[kind]
    sentence = refusal(constraint)
    assert sentence.startswith("my/config.json: ")
    assert "\n" not in sentence
    for part in parts:
        assert part in sentence


def test_of_two_mistakes_in_one_object_one_is_named() -> None:
    assert "confidence" in refusal({"max": 85, "confidence": 2, "recalibrate": "no"})


def test_a_bound_is_neither_a_list_nor_a_truth() -> None:
    for wrong in ([85], True, None):
        assert "constraints.power_w is" in refusal(wrong)


def test_a_search_of_a_dict_takes_the_object_form_too() -> None:
    with pytest.raises(HyperPowerError, match=r"confidence"):
        Search({"variables": VARIABLES, "constraints": {"power_w": {"max": 85, "confidence": 1.5}}})
    search = Search({"variables": VARIABLES, "constraints": {"power_w": {"max": np.float64(85), "confidence": 0.9}}})
    assert search.config.confidence == {"power_w": 0.9}

"""The stopping rule: what it stops and what it leaves alone, and that a decision once taken never changes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpower_runner.stopping import CONTINUE, CurvePoint, StoppingRule, WatchedCurve, decide

TEN = StoppingRule(classes=10)
CHANCE_LOSS = math.log(10)


def curve(errors: list[float | None], losses: list[float | None]) -> list[CurvePoint]:
    return [CurvePoint(epoch, *point) for epoch, point in enumerate(zip(errors, losses, strict=True), start=1)]


def losses(*values: float | None) -> list[CurvePoint]:
    return curve([None] * len(values), list(values))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("epoch", [1, 2, 7])
@pytest.mark.parametrize("rule", [TEN, StoppingRule(), StoppingRule(after_epochs=100)])
def test_a_loss_that_is_not_finite_stops_at_its_epoch(bad: float, epoch: int, rule: StoppingRule) -> None:
    decision = decide(losses(*[1 / (n + 1) for n in range(epoch - 1)], bad, 0.1), rule)
    assert decision.stop
    assert decision.epoch == epoch
    assert f"the loss became {bad:g}" in str(decision.reason)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("loss", [None, 0.5])
def test_an_error_that_is_not_finite_stops_with_or_without_a_loss(bad: float, loss: float | None) -> None:
    decision = decide(curve([0.5, bad], [loss, loss]), StoppingRule())
    assert decision.stop
    assert decision.epoch == 2
    assert f"the error became {bad:g}" in str(decision.reason)


def test_a_loss_far_above_its_start_stops_at_once_and_one_just_below_does_not() -> None:
    assert decide(losses(2.0, 10.0), StoppingRule()) == CONTINUE
    decision = decide(losses(2.0, 10.01), StoppingRule())
    assert decision.stop
    assert decision.epoch == 2
    assert "10.01 is far above its start, 2" in str(decision.reason)


def test_how_far_is_set_by_the_loss_factor() -> None:
    assert decide(losses(2.0, 5.0), StoppingRule(loss_factor=2)).stop
    assert not decide(losses(2.0, 5.0), StoppingRule(loss_factor=3)).stop


def test_the_start_is_at_least_the_loss_of_guessing_so_a_bump_after_a_tiny_loss_is_no_explosion() -> None:
    assert decide(losses(0.01, 0.2), StoppingRule()).stop
    assert not decide(losses(0.01, 0.2), TEN).stop
    assert decide(losses(0.01, 5 * CHANCE_LOSS + 0.1), TEN).stop


def test_the_first_loss_may_already_be_an_explosion_where_the_classes_are_known() -> None:
    assert not decide(losses(1e6), StoppingRule()).stop
    assert decide(losses(1e6), TEN) == CONTINUE  # its own start is the larger one


def test_a_negative_start_has_no_far_above() -> None:
    assert decide(losses(-3.0, -1.0, 50.0), StoppingRule()) == CONTINUE


def test_chance_level_with_a_flat_loss_stops_after_the_given_epochs() -> None:
    flat = curve([0.9, 0.9, 0.9, 0.9], [CHANCE_LOSS] * 4)
    for after in (2, 3, 4):
        decision = decide(flat, replace(TEN, after_epochs=after))
        assert decision.stop
        assert decision.epoch == after
        assert "0.9 is at chance level and the loss 2.303 is not falling" in str(decision.reason)
    assert decide(flat, replace(TEN, after_epochs=5)) == CONTINUE


def test_the_first_epoch_alone_says_nothing_about_a_fall() -> None:
    assert decide(curve([0.9], [CHANCE_LOSS]), replace(TEN, after_epochs=1)) == CONTINUE


@pytest.mark.parametrize(
    ("classes", "error", "stops"), [(10, 0.856, True), (10, 0.854, False), (2, 0.476, True), (2, 0.474, False)]
)
def test_chance_level_comes_from_the_number_of_classes(classes: int, error: float, stops: bool) -> None:
    rule = StoppingRule(classes=classes)
    assert decide(curve([error] * 3, [math.log(classes)] * 3), rule).stop is stops


def test_a_slow_starter_whose_loss_falls_is_left_alone() -> None:
    falling: list[float | None] = [CHANCE_LOSS * 0.99**epoch for epoch in range(30)]
    assert decide(curve([0.9] * 30, falling), TEN) == CONTINUE


def test_a_fall_below_the_threshold_is_none() -> None:
    assert decide(curve([0.9] * 3, [2.0, 1.991, 1.983]), TEN).stop  # less than 0.5 %
    assert not decide(curve([0.9] * 3, [2.0, 1.989, 1.978]), TEN).stop
    assert not decide(curve([0.9] * 3, [2.0, 1.991, 1.983]), replace(TEN, loss_fall=0.004)).stop


def test_a_loss_is_compared_with_the_lowest_before_it_and_not_with_the_last() -> None:
    decision = decide(curve([0.9] * 4, [2.0, 1.5, 1.45, 1.49]), TEN)
    assert decision.epoch == 4
    recovering = curve([0.9, 0.9, 0.5, 0.9], [2.0, 1.5, 1.6, 1.52])
    assert decide(recovering, TEN).epoch == 4


def test_a_training_that_learned_is_not_stopped_when_its_loss_stays() -> None:
    assert decide(curve([0.9, 0.5, 0.4, 0.4, 0.4], [2.3, 1.0, 0.8, 0.8, 0.8]), TEN) == CONTINUE


def test_nothing_is_predicted_a_poor_but_learning_training_goes_on() -> None:
    poor: list[float | None] = [0.85, 0.84, 0.83, 0.83, 0.83, 0.83]
    assert decide(curve(poor, [2.2] * 6), TEN) == CONTINUE


def test_without_classes_the_chance_rule_is_off() -> None:
    assert decide(curve([0.9] * 20, [CHANCE_LOSS] * 20), StoppingRule()) == CONTINUE


def test_without_a_loss_nothing_is_said_to_be_not_falling() -> None:
    assert decide(curve([0.9] * 20, [None] * 20), TEN) == CONTINUE


def test_without_an_error_there_is_no_chance_level() -> None:
    assert decide(losses(*[CHANCE_LOSS] * 20), TEN) == CONTINUE


def test_no_points_no_decision() -> None:
    assert decide([], TEN) == CONTINUE
    assert decide(iter([]), TEN) == CONTINUE
    assert (CONTINUE.stop, CONTINUE.epoch, CONTINUE.reason) == (False, None, None)


def test_the_epoch_of_a_decision_is_the_one_that_was_reported() -> None:
    points = [CurvePoint(0.5, 0.9, 2.3), CurvePoint(1.5, 0.9, 2.3)]
    assert decide(points, TEN).epoch == 1.5


def test_a_script_that_reports_ten_times_an_epoch_is_not_judged_sooner() -> None:
    slow = [CurvePoint(step / 10, 0.9, 2.3 - 0.002 * step) for step in range(1, 41)]  # falls by 0.9 % an epoch
    assert decide(slow, TEN) == CONTINUE
    flat = [CurvePoint(step / 10, 0.9, 2.3) for step in range(1, 41)]
    assert decide(flat, TEN).epoch == pytest.approx(1.1)


def test_a_rule_survives_json_and_lets_unknown_keys_pass() -> None:
    rule = StoppingRule(3, 7, 0.1, 0.02, 4.0)
    assert StoppingRule.from_json(json.loads(json.dumps(rule.to_json()))) == rule
    assert StoppingRule.from_json({"classes": 3, "later": 1}) == StoppingRule(classes=3)


NUMBERS = st.one_of(st.none(), st.floats(0, 12), st.sampled_from([math.nan, math.inf, -1.0, 2.0, 2.3]))
ERRORS = st.one_of(st.none(), st.floats(0, 1), st.sampled_from([0.9, math.nan]))
CURVES = st.lists(st.tuples(ERRORS, NUMBERS), max_size=8).map(
    lambda points: [CurvePoint(epoch, *point) for epoch, point in enumerate(points)]
)
RULES = st.builds(
    StoppingRule,
    after_epochs=st.integers(1, 5),
    classes=st.sampled_from([None, 2, 10]),
    loss_factor=st.floats(1.1, 6),
    loss_fall=st.floats(0, 0.3),
)


@given(CURVES, CURVES, RULES)
def test_a_decision_to_stop_stands_whatever_is_reported_later(
    begin: list[CurvePoint], more: list[CurvePoint], rule: StoppingRule
) -> None:
    decision = decide(begin, rule)
    if decision.stop:
        assert decide(begin + more, rule) == decision
    whole = decide(begin + more, rule)
    if whole.stop:
        first = next(k for k in range(len(begin + more) + 1) if decide((begin + more)[:k], rule).stop)
        assert decide((begin + more)[:first], rule) == whole


@given(CURVES, CURVES, RULES)
def test_a_decision_depends_on_nothing_but_the_curve(
    mine: list[CurvePoint], other: list[CurvePoint], rule: StoppingRule
) -> None:
    before = decide(mine, rule)
    decide(other, rule)
    assert decide(iter(mine), rule) == before == decide(tuple(mine), rule)


@given(CURVES, RULES)
def test_every_stop_has_an_epoch_of_the_curve_and_a_reason(points: list[CurvePoint], rule: StoppingRule) -> None:
    decision = decide(points, rule)
    if decision.stop:
        assert decision.epoch in [point.epoch for point in points]
        assert decision.reason
    else:
        assert decision == CONTINUE


EPOCHS = st.one_of(st.integers(-3, 9), st.sampled_from([-1e308, 0.5, 1e12, 1e308]))
ODD_CURVES = st.lists(st.tuples(EPOCHS, ERRORS, NUMBERS), max_size=8).map(
    lambda points: [CurvePoint(*point) for point in points]
)


@given(ODD_CURVES, RULES)
def test_epochs_in_any_order_and_of_any_size_give_a_decision(points: list[CurvePoint], rule: StoppingRule) -> None:
    decision = decide(points, rule)
    assert decision == CONTINUE or decision.epoch in [point.epoch for point in points]


@given(ODD_CURVES, RULES)
def test_a_curve_that_is_watched_as_it_grows_is_decided_as_a_whole_one(
    points: list[CurvePoint], rule: StoppingRule
) -> None:
    watched = WatchedCurve(rule)
    for count, point in enumerate(points, start=1):
        assert watched.add(point) == watched.decision == decide(points[:count], rule)


@pytest.mark.parametrize("rule", [{"classes": "ten"}, {"loss_fall": None}, {"after_epochs": [2]}, {"classes": -1}])
def test_what_is_no_rule_is_refused(rule: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(rule))):
        StoppingRule.from_json(rule)

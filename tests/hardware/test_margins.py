"""Margins against brute force, against the coverage they promise, and against an adversary at the border."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpower_runner.hardware.margins import needed, quantile, recalibrated

RATIOS = st.lists(st.floats(0.5, 2.0), min_size=1, max_size=60)


@given(RATIOS, st.floats(0.5, 0.99))
def test_the_quantile_is_the_least_ratio_that_enough_do_not_exceed(ratios: list[float], confidence: float) -> None:
    wanted = (len(ratios) + 1) * confidence
    enough = [r for r in ratios if sum(other <= r for other in ratios) >= wanted - 1e-9]
    assert quantile(sorted(ratios), confidence) == (min(enough) if enough else math.inf)


@pytest.mark.parametrize(("confidence", "count"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_as_many_ratios_are_needed_as_make_it_finite(confidence: float, count: int) -> None:
    assert needed(confidence) == count
    assert math.isfinite(quantile([1.0] * count, confidence))
    assert math.isinf(quantile([1.0] * (count - 1), confidence))


def test_what_is_drawn_like_the_ratios_keeps_within_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    kept = [rng.lognormal(0, 0.1) <= quantile(sorted(rng.lognormal(0, 0.1, 99)), 0.9) for _ in range(4000)]
    assert np.mean(kept) == pytest.approx(0.9, abs=0.015)  # three standard deviations


def test_without_outcomes_the_recalibrated_margin_is_the_quantile() -> None:
    ratios = np.linspace(0.9, 1.1, 99).tolist()
    assert recalibrated(ratios, 0.9, [], 85.0) == quantile(ratios, 0.9)


def test_a_violation_near_the_budget_widens_the_margin_and_one_far_below_does_not() -> None:
    ratios = np.linspace(0.9, 1.1, 99).tolist()
    before = quantile(ratios, 0.9)
    assert recalibrated(ratios, 0.9, [(84.0, 86.0)], 85.0) > before
    assert recalibrated(ratios, 0.9, [(40.0, 86.0)], 85.0) == before


def test_jobs_that_keep_within_let_the_margin_shrink() -> None:
    ratios = np.linspace(0.9, 1.1, 99).tolist()
    assert recalibrated(ratios, 0.9, [(80.0, 75.0)] * 30, 85.0) < quantile(ratios, 0.9)


def test_jobs_that_were_not_accepted_do_not_count() -> None:
    ratios = np.linspace(0.9, 1.1, 99).tolist()
    assert recalibrated(ratios, 0.9, [(170.0, 170.0)] * 5, 85.0) == quantile(ratios, 0.9)


def test_a_wide_margin_learns_from_the_jobs_at_its_own_border() -> None:
    ratios = [*np.linspace(0.9, 1.0, 80), *np.linspace(1.5, 1.6, 19)]
    bound, margin = 85.0, quantile(ratios, 0.9)
    assert recalibrated(ratios, 0.9, [(bound / margin, 0.5 * bound)] * 40, bound) < margin


def test_infinite_ratios_do_not_make_everything_infeasible() -> None:
    margin = recalibrated([1.0, 1.1, math.inf, math.inf], 0.9, [(84.0, 90.0)] * 3, 85.0)
    assert 1.1 <= margin < 1.5


def test_the_margin_is_finite_whatever_is_asked() -> None:
    margin = recalibrated([1.0, 1.02], 0.95, [(84.0, 90.0)] * 20, 85.0)
    assert 90 / 84 <= margin < math.inf


def test_a_device_that_drifts_is_followed() -> None:
    rng = np.random.default_rng(3)
    ratios, bound = rng.lognormal(0, 0.03, 100).tolist(), 85.0
    outcomes: list[tuple[float, float]] = []
    for job in range(200):  # each draws 0.2 % more than the one before
        predicted = bound / recalibrated(ratios, 0.95, outcomes, bound)
        outcomes.append((predicted, predicted * rng.lognormal(0.002 * job, 0.03)))
    assert np.mean([measured > bound for _, measured in outcomes[100:]]) < 0.1


def test_where_every_chosen_point_is_worse_than_predicted_violations_end_near_the_promise() -> None:
    """An optimiser that finds only points that draw more than predicted: the plain margin fails, this one learns."""
    rng = np.random.default_rng(1)
    ratios, bound = rng.lognormal(0, 0.03, 100).tolist(), 85.0
    outcomes: list[tuple[float, float]] = []
    for _ in range(400):
        predicted = bound / recalibrated(ratios, 0.9, outcomes, bound)  # right at the border
        outcomes.append((predicted, predicted * rng.lognormal(0.05, 0.03)))
    plain = bound / quantile(sorted(ratios), 0.9)
    assert np.mean([plain * rng.lognormal(0.05, 0.03) > bound for _ in range(400)]) > 0.4
    assert np.mean([measured > bound for _, measured in outcomes]) == pytest.approx(0.1, abs=0.04)

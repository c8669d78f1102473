"""Outputs: a strictly increasing scale and its inverse, for values of any size and for none that differ."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hyperpower_runner.space import Array
from hyperpower_runner.surrogate.outputs import Outputs

SCALES = [1e-60, 1e-12, 1.0, 1e12, 1e60]
MODERATE = st.floats(-1e3, 1e3).map(lambda value: round(value, 6))
LISTS = st.lists(MODERATE, min_size=1, max_size=20)
ANY = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=12)


def of(values: list[float], **options: float) -> tuple[Outputs, Array]:
    array = np.array(values)
    outputs = Outputs.of(array, **options)
    return outputs, outputs.transform(array)


@given(LISTS)
def test_outputs_have_mean_zero_and_deviation_one_or_are_all_zero(values: list[float]) -> None:
    _, transformed = of(values)
    assert abs(transformed.mean()) < 1e-7
    if len(set(values)) > 1:
        assert transformed.std() == pytest.approx(1, rel=1e-6)
    else:
        np.testing.assert_array_equal(transformed, 0.0)


@given(LISTS)
def test_larger_values_have_larger_outputs(values: list[float]) -> None:
    outputs, _ = of(values)
    distinct = np.unique(values)
    width = outputs.width
    # What lies closer than rounding can tell may become equal, never inverted.
    steps = np.diff(outputs.transform(distinct))
    assert np.all(steps >= 0)
    telling = np.diff(distinct) > 1e-9 * (width + np.abs(distinct - outputs.median)[1:])
    assert np.all(steps[telling] > 0)


@given(LISTS, st.lists(MODERATE, min_size=1, max_size=5))
def test_the_inverse_gives_values_back(values: list[float], others: list[float]) -> None:
    outputs, _ = of(values)
    array = np.array(values + others)
    found = outputs.inverse(outputs.transform(array))
    np.testing.assert_allclose(found, array, rtol=1e-6, atol=1e-6 * (outputs.width + abs(outputs.median)))


@given(LISTS, st.floats(-4, 4))
def test_the_inverse_is_inverted_by_the_transform(values: list[float], output: float) -> None:
    outputs, _ = of(values)
    found = outputs.transform(outputs.inverse(np.array([output])))
    np.testing.assert_allclose(found, output, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("offset", [0.0, 1.0, -1000.0])
def test_outputs_do_not_depend_on_unit_and_zero(scale: float, offset: float) -> None:
    values = np.random.default_rng(0).gamma(2.0, size=30)
    _, expected = of(values.tolist())
    outputs, found = of((scale * (values + offset)).tolist())
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(outputs.inverse(found), scale * (values + offset), rtol=1e-7, atol=1e-7 * scale)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-12, 1e12, -1e60, 5e-324])
@pytest.mark.parametrize("count", [1, 2, 30])
def test_equal_values_are_zero_and_come_back(value: float, count: int) -> None:
    outputs, found = of([value] * count)
    np.testing.assert_array_equal(found, 0.0)
    np.testing.assert_allclose(outputs.inverse(found), value, rtol=1e-12)
    assert outputs.transform(np.array([value + abs(value) + 1.0]))[0] > 0


@pytest.mark.parametrize("scale", SCALES)
def test_two_values_are_one_apart_in_opposite_directions(scale: float) -> None:
    _, found = of([3 * scale, 1 * scale])
    np.testing.assert_allclose(found, [1, -1], rtol=1e-9)


@pytest.mark.parametrize("outlier", [1e3, 1e6, 1e12, 1e30, 1e60])
@pytest.mark.parametrize("count", [1, 5])
def test_outliers_leave_the_good_values_distinguishable(outlier: float, count: int) -> None:
    good = np.linspace(0.1, 0.4, 20)
    outputs, found = of([*good.tolist(), *[outlier] * count])
    assert np.all(np.diff(found[:20]) > 0)
    # Linear, the smallest of these outliers would leave less than a thousandth of a deviation to the others.
    assert found[19] - found[0] > 0.005
    np.testing.assert_allclose(outputs.inverse(found), [*good, *[outlier] * count], rtol=1e-6)


@pytest.mark.parametrize("outlier", [-1e6, -1e60])
def test_one_value_far_below_stays_finite(outlier: float) -> None:
    outputs, found = of([0.1, 0.2, 0.3, outlier])
    assert np.all(np.isfinite(found))
    assert found[3] == found.min()
    assert outputs.inverse(found)[3] == pytest.approx(outlier, rel=1e-6)


@pytest.mark.parametrize("most", [1, 2, 3, 10])
def test_where_most_values_equal_the_best_one_the_others_are_told_apart(most: int) -> None:
    _, found = of([0.5] * most + [0.6, 0.7, 0.9])
    assert len(set(found.tolist())) == 4
    assert np.all(np.diff(found) >= 0)


@pytest.mark.parametrize("linear_up_to", [2.0, np.inf])
@pytest.mark.parametrize(
    "values",
    [
        [0.5, 0.4, 0.3, 1e200],
        [0.5, 0.4, 0.3, 1e308],
        [0.5, 0.4, 1e308, 1.7e308],
        [-1.7e308, 0.0, 1.7e308],
        [1.7e308, 1.7e308],
        [1e308, 1.1e308, 1.2e308, 1.3e308],
        [1.0, 1.0 + 2e-16, 1e300],
        [0.0, 5e-324, 1.0],
        [5e-324, 1e-323, 1.5e-323, 1e10],
    ],
)
def test_the_largest_and_the_smallest_numbers_overflow_nowhere(values: list[float], linear_up_to: float) -> None:
    outputs, found = of(values, linear_up_to=linear_up_to)
    assert np.all(np.isfinite(found))
    assert np.all(np.diff(found[np.argsort(values)]) >= 0)
    assert np.all(np.isfinite(outputs.inverse(found)))


@given(LISTS)
def test_without_logarithms_outputs_are_a_straight_line(values: list[float]) -> None:
    outputs, found = of(values, linear_up_to=np.inf)
    array = np.array(values)
    deviation = float(np.std(array)) or 1.0
    np.testing.assert_allclose(found, (array - array.mean()) / deviation, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(outputs.inverse(found), array, rtol=1e-6, atol=1e-6 * (1 + np.abs(array).max()))


@pytest.mark.parametrize("base", [1.0, -300.0, 1e-9, 1e9])
def test_values_that_differ_by_rounding_alone_are_equal(base: float) -> None:
    values = base * (1 + np.array([0.0, 2e-16, -2e-16, 4e-16, 0.0]))
    _, found = of(values.tolist())
    assert np.abs(found).max() < 1e-6


@given(ANY)
def test_no_finite_values_give_outputs_that_are_not_finite_or_out_of_order(values: list[float]) -> None:
    assume(len(values) > 1)
    _, found = of(values)
    assert np.all(np.isfinite(found))
    assert np.all(np.diff(found[np.argsort(values)]) >= 0)


def test_the_best_half_is_a_straight_line() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 5.0])
    _, found = of(values.tolist())
    steps = np.diff(found[:5])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)


def test_far_above_the_median_it_is_the_logarithm_that_counts() -> None:
    values = np.linspace(0.1, 0.5, 41)
    outputs, _ = of(values.tolist())
    far = outputs.transform(np.array([1e3, 1e6, 1e9]))
    assert far[2] - far[1] == pytest.approx(far[1] - far[0], rel=0.02)

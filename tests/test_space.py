"""The space: exact round trips over every kind of variable, uniform points, and what is not a point of it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hyperpower_runner.errors import ExpressionError, ParamsError
from hyperpower_runner.space import Space, Variable, parse_constraints

OPTIONS = st.one_of(st.text("abc \u00e9", max_size=4), st.integers(-9, 9), st.booleans(), st.floats(-9, 9))


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, allow_subnormal=False)


@st.composite
def ends(draw: st.DrawFn, numbers: st.SearchStrategy[Any]) -> tuple[float, float]:
    low, high = sorted([draw(numbers), draw(numbers)])
    return float(low), float(high)


FLOAT_RANGES = st.one_of(
    ends(floats(-10, 10)),
    ends(floats(-1e300, 1e300)),
    ends(floats(-1e-280, 1e-280)),
    ends(st.integers(-5, 5)),
    floats(-1e9, 1e9).map(lambda value: (value, value)),
    floats(1, 1e9).map(lambda value: (value, value * (1 + 1e-13))),
    floats(1, 1e9).map(lambda value: (value, math.nextafter(value, math.inf))),
)
LOG_RANGES = st.one_of(
    ends(floats(1e-6, 10)),
    ends(floats(1e-20, 1e20)),
    ends(floats(1e-300, 1e-250)),
    ends(floats(1e250, 1e300)),
    floats(1e-9, 1e9).map(lambda value: (value, value)),
)
INT_RANGES = st.one_of(ends(st.integers(-100, 100)), ends(st.integers(-(2**31), 2**31 - 1)))
INT_LOG_RANGES = st.one_of(ends(st.integers(1, 100)), ends(st.integers(1, 2**31 - 1)))
SIZES = st.sampled_from([1, 1, 2, 3])
VARIABLES = st.one_of(
    st.builds(lambda r, n: Variable("v", "FLOAT", r[0], r[1], size=n), FLOAT_RANGES, SIZES),
    st.builds(lambda r, n: Variable("v", "FLOAT", r[0], r[1], size=n, scale="log"), LOG_RANGES, SIZES),
    st.builds(lambda r, n: Variable("v", "INT", r[0], r[1], size=n), INT_RANGES, SIZES),
    st.builds(lambda r, n: Variable("v", "INT", r[0], r[1], size=n, scale="log"), INT_LOG_RANGES, SIZES),
    st.builds(
        lambda o, n: Variable("v", "ENUM", options=tuple(o), size=n),
        st.lists(OPTIONS, min_size=1, max_size=6, unique_by=lambda option: (isinstance(option, bool), option)),
        SIZES,
    ),
)
SPACES = st.lists(VARIABLES, min_size=1, max_size=4).map(
    lambda variables: Space(
        tuple(
            Variable(f"v{i}", v.kind, v.low, v.high, v.options, v.size, v.scale, v.structural)
            for i, v in enumerate(variables)
        )
    )
)
SEEDS = st.integers(0, 2**32 - 1)


def some_points(space: Space, seed: int, count: int = 40) -> Any:
    """Values at random places, at the corners, and next to them."""
    x = np.random.default_rng(seed).random((count, space.dimensions))
    corners = [np.full((1, space.dimensions), at) for at in (0.0, 1.0, 0.5, 1e-17, 1 - 2**-53)]
    return space.decode(np.concatenate([x, *corners]))


def is_value(variable: Variable, value: float) -> bool:
    if variable.kind == "ENUM":
        return value in range(len(variable.options))
    return variable.low <= value <= variable.high and (variable.kind == "FLOAT" or value == int(value))


@given(SPACES, SEEDS)
def test_every_decoded_point_lies_in_the_space(space: Space, seed: int) -> None:
    for point in some_points(space, seed).tolist():
        assert all(map(is_value, space.by_dimension, point))


@given(VARIABLES)
def test_the_ends_of_the_unit_interval_are_the_ends_of_the_range(variable: Variable) -> None:
    low, high = (0, len(variable.options) - 1) if variable.kind == "ENUM" else (variable.low, variable.high)
    assume(variable.scale == "linear" or math.log(low) < math.log(high) or low == high)
    assert variable.decode(np.array([0.0, 1.0])).tolist() == [low, high]


@given(SPACES, SEEDS)
def test_values_to_x_to_values_is_exact(space: Space, seed: int) -> None:
    values = some_points(space, seed)
    x = space.encode(values)
    assert x.min() >= 0
    assert x.max() <= 1
    np.testing.assert_array_equal(space.decode(x), values)


@given(SPACES, SEEDS)
def test_params_to_values_to_params_is_exact_through_json(space: Space, seed: int) -> None:
    for values in some_points(space, seed, count=5):
        params = space.to_params(values)
        read = json.loads(json.dumps(params))
        assert read == params
        np.testing.assert_array_equal(space.from_params(read), values)
        again = space.to_params(space.decode(space.encode(space.from_params(read)[np.newaxis]))[0])
        assert repr(again) == repr(params)  # the types too


@given(st.integers(1, 9_999_999), st.integers(-12, 0), st.sampled_from(["linear", "log"]))
def test_decimals_that_people_type_come_back_exactly(digits: int, exponent: int, scale: Any) -> None:
    typed = float(f"{digits}e{exponent}")
    decade = 10.0 ** math.floor(math.log10(typed))
    assume(decade <= typed < 10 * decade)
    space = Space((Variable("v", "FLOAT", 0.7 * decade, 31 * decade, scale=scale),))
    assert space.to_params(space.decode(space.encode(np.array([[typed]])))[0]) == {"v": typed}


@pytest.mark.parametrize(("low", "high"), [(1e-12, 1e-3), (1e-30, 1e-20), (1e-300, 1e-290), (1e20, 1e30)])
def test_decimals_of_any_size_come_back_exactly_on_a_log_scale(low: float, high: float) -> None:
    exponent = round(math.log10(low))
    typed = np.array([[float(f"{digits}e{exponent}")] for digits in range(100, 1000)])
    space = Space((Variable("v", "FLOAT", low, high, scale="log"),))
    np.testing.assert_array_equal(space.decode(space.encode(typed)), typed)


@pytest.mark.parametrize(
    "variable",
    [
        Variable("v", "FLOAT", 0.8, 0.95),
        Variable("v", "FLOAT", -3e-7, 2e-3),
        Variable("v", "FLOAT", 1e-25, 1e-24),
        Variable("v", "FLOAT", 1e-4, 1e-2, scale="log"),
        Variable("v", "FLOAT", 1e-25, 1e-2, scale="log"),
    ],
)
def test_floats_are_written_with_at_most_twelve_or_so_digits(variable: Variable) -> None:
    values = Space((variable,)).sample(np.random.default_rng(0), 500)[1:, 0].tolist()
    digits = [len(f"{value!r}".lower().partition("e")[0].replace(".", "").lstrip("-0").rstrip("0")) for value in values]
    assert max(digits) <= 12


def test_zero_has_no_sign() -> None:
    values = Space((Variable("v", "FLOAT", -1.0, 1.0),)).decode(np.array([[0.5 - 1e-15], [0.5]]))
    assert [math.copysign(1, value) for value in values[:, 0]] == [1, 1]


def test_encode_gives_the_middle_of_a_cell_and_cells_are_equal() -> None:
    space = Space((Variable("n", "INT", -1, 2), Variable("k", "ENUM", options=("a", "b", "c", "d"))))
    middles = np.array([[0.125] * 2, [0.375] * 2, [0.625] * 2, [0.875] * 2])
    values = np.array([[-1.0, 0], [0, 1], [1, 2], [2, 3]])
    np.testing.assert_array_equal(space.encode(values), middles)
    for shift in (-0.1249, 0.1249):
        np.testing.assert_array_equal(space.decode(middles + shift), values)


def chi_square(counts: Any, expected: Any) -> float:
    return float(np.sum((counts - expected) ** 2 / expected))


@pytest.mark.parametrize(
    "variable",
    [
        Variable("v", "INT", -3, 6),
        Variable("v", "ENUM", options=tuple("abcdefghij")),
        Variable("v", "ENUM", options=(16, 32, 64, 128, 0.5, 1, 2, 3, 4, 5)),
    ],
)
def test_choices_are_uniform(variable: Variable) -> None:
    draws = Space((variable,)).sample(np.random.default_rng(1), 100_000)[:, 0]
    counts = np.unique(draws, return_counts=True)[1]
    assert len(counts) == 10
    assert chi_square(counts, 10_000) < 27.9  # exceeded once in 1,000 by a uniform choice (9 degrees of freedom)


def test_integers_on_a_log_scale_are_as_likely_as_their_cells_are_wide_in_the_logarithm() -> None:
    draws = Space((Variable("v", "INT", 1, 10, scale="log"),)).sample(np.random.default_rng(1), 100_000)[:, 0]
    counts = np.bincount(draws.astype(int), minlength=11)[1:]
    borders = np.log(np.arange(11) + 0.5)
    assert chi_square(counts, 100_000 * np.diff(borders) / (borders[-1] - borders[0])) < 27.9


def test_floats_are_uniform_over_their_range() -> None:
    draws = np.sort(Space((Variable("v", "FLOAT", -2, 8),)).sample(np.random.default_rng(1), 100_000)[:, 0])
    expected = -2 + 10 * (np.arange(100_000) + 0.5) / 100_000
    assert np.abs(draws - expected).max() / 10 < 1.95 / math.sqrt(100_000)  # Kolmogorov-Smirnov, once in 1,000


@pytest.mark.parametrize(("kind", "low", "high"), [("FLOAT", 1e-4, 1e-2), ("INT", 10, 100_000)])
def test_half_of_a_log_scale_lies_below_the_geometric_mean(kind: Any, low: float, high: float) -> None:
    draws = Space((Variable("v", kind, low, high, scale="log"),)).sample(np.random.default_rng(1), 100_000)
    assert np.mean(draws < math.sqrt(low * high)) == pytest.approx(0.5, abs=0.006)  # four standard deviations


def test_dimensions_are_drawn_independently() -> None:
    draws = Space((Variable("a", "FLOAT", size=3), Variable("b", "INT", 0, 1000))).sample(
        np.random.default_rng(1), 50_000
    )
    off_diagonal = np.corrcoef(draws.T) - np.eye(4)
    assert np.abs(off_diagonal).max() < 4.5 / math.sqrt(50_000)


FINITE = [
    Variable("n", "INT", -1, 1),
    Variable("m", "INT", 1, 4, size=2, scale="log"),
    Variable("k", "ENUM", options=("x", True, 3)),
    Variable("c", "FLOAT", 0.25, 0.25),
]


@pytest.mark.parametrize("chunk", [1, 7, 144, 1000])
def test_enumerate_lists_each_point_once(chunk: int) -> None:
    space = Space(tuple(FINITE))
    rows = np.concatenate(list(space.enumerate(chunk)))
    expected = itertools.product([-1, 0, 1], [1, 2, 3, 4], [1, 2, 3, 4], [0, 1, 2], [0.25])
    assert [tuple(row) for row in rows.tolist()] == list(expected)
    assert all(len(part) <= chunk for part in space.enumerate(chunk))
    assert space.cardinality == len(rows) == 144


def test_drawing_reaches_every_point_that_is_listed_and_no_other() -> None:
    space = Space(tuple(FINITE))
    drawn = {tuple(row) for row in space.sample(np.random.default_rng(1), 20_000).tolist()}
    assert drawn == {tuple(row) for part in space.enumerate() for row in part.tolist()}


def test_a_float_makes_the_points_countless() -> None:
    space = Space((*FINITE, Variable("f", "FLOAT", 0, 1)))
    assert space.cardinality is None
    with pytest.raises(ValueError, match="not finite"):
        next(iter(space.enumerate()))


def test_cardinality_does_not_overflow() -> None:
    assert Space((Variable("n", "INT", 0, 2**31 - 1, size=5),)).cardinality == 2**155


def test_dimensions_are_named_by_their_elements() -> None:
    space = Space((Variable("a", "INT", 0, 1), Variable("b", "FLOAT", size=2), Variable("c", "ENUM", options=("x",))))
    assert space.names == ["a", "b[0]", "b[1]", "c"]
    assert space.dimensions == 4
    assert [variable.name for variable in space.by_dimension] == ["a", "b", "b", "c"]


def test_params_are_plain_python_in_natural_units() -> None:
    space = Space(
        (Variable("n", "INT", 0, 9), Variable("f", "FLOAT", size=2), Variable("k", "ENUM", options=("x", 8), size=2))
    )
    assert repr(space.to_params(np.array([3.0, 0.25, 1.0, 1.0, 0.0]))) == "{'n': 3, 'f': [0.25, 1.0], 'k': [8, 'x']}"


def test_options_that_are_equal_only_to_python_are_told_apart() -> None:
    space = Space((Variable("k", "ENUM", options=(True, 1, "1", False, 0)),))
    for index, option in enumerate((True, 1, "1", False, 0)):
        assert space.from_params({"k": option}).tolist() == [index]


def make_space(*constraints: str) -> Space:
    variables = (
        Variable("n", "INT", 1, 9),
        Variable("f", "FLOAT", 0.5, 2.5),
        Variable("w", "INT", 0, 5, size=2),
        Variable("k", "ENUM", options=("sgd", "adam")),
        Variable("batch", "ENUM", options=(16, 32)),
        Variable("flag", "ENUM", options=(True, False)),
        Variable("big", "INT", -(2**31), 2**31 - 1),
    )
    return Space(variables, parse_constraints(constraints, variables))


GOOD = {"n": 3, "f": 1.5, "w": [0, 5], "k": "adam", "batch": 32, "flag": True, "big": 7}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"n": 0}, ['"n" is 0', "an integer from 1 to 9"]),
        ({"n": 10}, ['"n" is 10']),
        ({"n": 3.5}, ['"n" is 3.5', "an integer"]),
        ({"n": "3"}, ["\"n\" is '3'"]),
        ({"n": True}, ['"n" is True']),
        ({"n": None}, ['"n" is None']),
        ({"n": [3, 4]}, ['"n" is [3, 4]', "1 elements"]),
        ({"n": {"a": 1}}, ['"n" is']),
        ({"n": 10**400}, ['"n" is 1000']),
        ({"n": math.nan}, ['"n" is nan']),
        ({"f": math.inf}, ['"f" is inf', "a number from 0.5 to 2.5"]),
        ({"f": 2.5000001}, ['"f" is 2.5000001']),
        ({"big": 2**31}, ["2147483648", "-2147483648 to 2147483647"]),
        ({"w": 3}, ['"w" is 3', "2 elements"]),
        ({"w": [3]}, ['"w" is [3]', "2 elements"]),
        ({"w": "34"}, ["\"w\" is '34'", "2 elements"]),
        ({"w": [1, 6]}, ['"w" is 6']),
        ({"k": "Adam"}, ["\"k\" is 'Adam'", "'adam'"]),
        ({"k": 1}, ['"k" is 1']),
        ({"k": ["sgd", "sgd"]}, ['"k" is']),
        ({"batch": 31}, ['"batch" is 31', "[16, 32]"]),
        ({"flag": 1}, ['"flag" is 1']),
        ({"nn": 3}, ['"nn" is not a variable', 'did you mean "n"?']),
    ],
)
def test_params_that_are_no_point_are_refused_in_one_sentence(change: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ParamsError) as caught:
        make_space().from_params({**GOOD, **change})
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 300
    for part in parts:
        assert part in message


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_param_is_named(name: str) -> None:
    with pytest.raises(ParamsError, match=f'"{name}" is missing'):
        make_space().from_params({other: value for other, value in GOOD.items() if other != name})


def test_bounds_belong_to_the_space() -> None:
    for params in ({"n": 1, "f": 0.5, "w": [0, 0]}, {"n": 9, "f": 2.5, "w": [5, 5]}, {"n": 9.0, "f": 1}):
        point = {**GOOD, **params}
        assert make_space().to_params(make_space().from_params(point)) == point


def test_constraints_hold_where_their_params_say_so() -> None:
    space = make_space(
        "n * f <= 6", "w[0] < w[1]", "k == 'sgd' or f < 1", "batch * n <= 100", "flag == 'True' or n > 2"
    )
    values = space.sample(np.random.default_rng(2), 500)
    found = space.holds(values)
    assert found.shape == (5, 500)
    for point, held in zip(values, found.T.tolist(), strict=True):
        p = space.to_params(point)
        assert held == [
            p["n"] * p["f"] <= 6,
            p["w"][0] < p["w"][1],
            p["k"] == "sgd" or p["f"] < 1,
            p["batch"] * p["n"] <= 100,
            p["flag"] or p["n"] > 2,
        ]


def test_a_space_without_constraints_and_no_points_have_well_formed_answers() -> None:
    assert make_space().holds(make_space().sample(np.random.default_rng(0), 4)).shape == (0, 4)
    assert make_space("n < 3", "f < 1").holds(np.zeros((0, 8))).shape == (2, 0)


@pytest.mark.parametrize("text", ["m < 3", "w < 3", "w[2] < 3", "k < 3", "flag < 3"])
def test_constraints_over_what_is_no_number_or_no_variable_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        make_space(text)


# --- many points at once

WRONG_ITEMS: list[Any] = [None, True, "x", math.nan, math.inf, 10**400, -1e300, [], [1], {}, 0.5]


@given(SPACES, SEEDS, st.data())
def test_many_params_are_read_as_each_of_them_is(space: Space, seed: int, data: st.DataObject) -> None:
    points = [space.to_params(values) for values in some_points(space, seed, count=3)]
    for _ in range(data.draw(st.integers(0, 2))):
        name = data.draw(st.sampled_from([*points[0], "other"]))
        point = data.draw(st.sampled_from(points))
        change = data.draw(st.sampled_from(["drop", "replace", "tuple"]))
        if change == "drop":
            point.pop(name, None)
        elif change == "replace":
            point[name] = data.draw(st.sampled_from([*WRONG_ITEMS, 1, 1.0]))
        elif isinstance(point.get(name), list):
            point[name] = tuple(point[name])
    expected, found = (outcome(read) for read in (lambda: one_by_one(space, points), lambda: space.from_many(points)))
    assert found == expected


def one_by_one(space: Space, points: list[dict[str, Any]]) -> Any:
    return np.array([space.from_params(point) for point in points])


def outcome(read: Callable[[], Any]) -> tuple[bytes, bool] | str:
    """The bytes of an array, which tell the signs of zeros and the layout, or the complaint."""
    try:
        values = read()
    except ParamsError as error:
        return str(error)
    return values.tobytes(), values.flags.c_contiguous


MANY = Space((
    Variable("n", "INT", -1, 3),
    Variable("m", "INT", 1, 9, size=2),
    Variable("k", "ENUM", options=("x", True, 3)),
    Variable("f", "FLOAT", 0.0, 1.0),
))  # fmt: skip
POINTS: list[dict[str, Any]] = [
    {"n": 1, "m": [2, 3], "k": "x", "f": 0.5},
    {"n": -1, "m": [9, 1], "k": True, "f": 1},
    {"n": 3.0, "m": [1, 2.0], "k": 3.0, "f": -0.0},
]


@pytest.mark.parametrize(
    "changes",
    [
        *({"n": wrong} for wrong in (True, 0.5, 4, -2, math.nan, math.inf, 10**400, "1", None, [1], [1, 2])),
        *({"m": wrong} for wrong in ([1], [1, 2, 3], (1, 2), "12", 5, [1, True], [1, 0], {1: 1, 2: 2})),
        *({"k": wrong} for wrong in (1, False, "y", None, ["x"], [])),
        *({"f": wrong} for wrong in (1.5, -1e-9, True, "0.5", math.nan)),
        {"other": 1},
    ],
    ids=repr,
)
def test_one_wrong_param_among_many_is_found(changes: dict[str, Any]) -> None:
    assert MANY.from_many(POINTS).tolist() == one_by_one(MANY, POINTS).tolist()
    points = [POINTS[0], {**POINTS[1], **changes}, POINTS[2]]
    expected, found = (outcome(read) for read in (lambda: one_by_one(MANY, points), lambda: MANY.from_many(points)))
    assert found == expected


def test_two_wrong_lengths_do_not_make_up_for_each_other() -> None:
    points = [{**POINTS[0], "m": [1, 2, 3]}, {**POINTS[1], "m": [4]}]
    with pytest.raises(ParamsError, match="2 elements"):
        MANY.from_many(points)


def test_no_params_are_no_rows() -> None:
    assert Space(tuple(FINITE)).from_many([]).shape == (0, 5)

"""Coordinates against a reading of the params one by one, and the way back from coordinates that moved."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpower_runner.space import Array, Option, Space, Variable
from hyperpower_runner.surrogate.embedding import Embedding

SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def variables(draw: st.DrawFn, name: str) -> Variable:
    kind = draw(st.sampled_from(["INT", "FLOAT", "ENUM"]))
    size = draw(st.sampled_from([1, 1, 1, 3]))
    if kind == "ENUM":
        numbers = st.lists(st.integers(-9, 9) | st.sampled_from([0.25, 1e-6, 1e6]), min_size=1, max_size=5, unique=True)
        texts = st.lists(st.sampled_from(["relu", "tanh", "elu", "silu"]), min_size=1, max_size=4, unique=True)
        either = st.permutations([False, True])
        return Variable(name, "ENUM", options=tuple(draw(st.one_of(numbers, texts, either))), size=size)
    scale = draw(st.sampled_from(["linear", "log"]))
    if kind == "INT":
        low = draw(st.integers(1 if scale == "log" else -20, 50))
        return Variable(name, "INT", low, low + draw(st.integers(0, 300)), size=size, scale=scale)  # type: ignore[arg-type]
    start = draw(st.sampled_from([1e-8, 0.5, 30.0] if scale == "log" else [-1e6, -0.5, 0.0, 7.0]))
    width = draw(st.sampled_from([0.0, 0.25, 1e5]))
    return Variable(name, "FLOAT", start, start + width, size=size, scale=scale)  # type: ignore[arg-type]


SPACES = st.integers(1, 4).flatmap(
    lambda count: st.tuples(*(variables(f"v{i}") for i in range(count))).map(lambda each: Space(tuple(each)))
)
EXAMPLE = Space(
    (
        Variable("width", "INT", 8, 512, scale="log"),
        Variable("constant", "INT", 3, 3),
        Variable("rate", "FLOAT", 1e-4, 1e-1, scale="log"),
        Variable("kind", "ENUM", options=("relu", "tanh", "elu")),
        Variable("batch", "ENUM", options=(256, 32, 128, 64)),
        Variable("depth", "INT", 1, 5, size=2),
        Variable("skip", "ENUM", options=(True, False)),
        Variable("only", "ENUM", options=("one",)),
        Variable("momentum", "FLOAT", 0.0, 0.9),
    )
)


def is_number(option: Option) -> bool:
    return isinstance(option, int | float) and not isinstance(option, bool)


def by_hand(space: Space, params: dict[str, Any]) -> tuple[list[float], list[int]]:
    """The coordinates of a point, read off its params, and the dimension of each."""
    u: list[float] = []
    groups: list[int] = []
    dimension = 0
    for variable in space.variables:
        elements = params[variable.name] if variable.size > 1 else [params[variable.name]]
        for element in elements:
            options = list(variable.options)
            if variable.kind == "ENUM" and len(options) == 1:
                continue
            if variable.kind != "ENUM" and variable.low == variable.high:
                continue
            if variable.kind == "ENUM" and all(is_number(option) for option in options):
                found = [sorted(map(float, options)).index(float(element)) / (len(options) - 1)]
            elif variable.kind == "ENUM" and len(options) == 2:
                found = [0.0 if element == options[0] else 1.0]
            elif variable.kind == "ENUM":
                found = [math.sqrt(0.5) if element == option else 0.0 for option in options]
            elif variable.scale == "log":
                found = [math.log(element / variable.low) / math.log(variable.high / variable.low)]
            else:
                found = [(element - variable.low) / (variable.high - variable.low)]
            u.extend(found)
            groups.extend([dimension] * len(found))
            dimension += 1
    return u, groups


@given(SPACES, SEEDS)
def test_coordinates_are_those_read_off_the_params(space: Space, seed: int) -> None:
    values = space.sample(np.random.default_rng(seed), 5)
    embedding = Embedding(space)
    u = embedding(values)
    for point, found in zip(values, u, strict=True):
        expected, groups = by_hand(space, space.to_params(point))
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(embedding.groups, groups)
    assert embedding.dimensions == (groups[-1] + 1 if groups else 0)
    assert np.all((u >= 0.0) & (u <= 1.0))


def test_each_kind_of_variable_has_its_coordinates() -> None:
    params = {"width": 64, "constant": 3, "rate": 0.01, "kind": "elu", "batch": 128, "depth": [1, 4]}
    point = EXAMPLE.from_params({**params, "skip": False, "only": "one", "momentum": 0.3})
    embedding = Embedding(EXAMPLE)
    expected = [0.5, 2 / 3, 0, 0, 0.5**0.5, 2 / 3, 0, 0.75, 1, 1 / 3]
    np.testing.assert_allclose(embedding(point[np.newaxis])[0], expected, rtol=1e-12)
    np.testing.assert_array_equal(embedding.groups, [0, 1, 2, 2, 2, 3, 4, 5, 6, 7])
    assert embedding.dimensions == 8
    # Columns of the values, constants among them, against columns of u.
    assert embedding.movable == [(0, 0), (2, 1), (5, 6), (6, 7), (9, 9)]


@given(SPACES, SEEDS)
def test_two_x_that_decode_to_the_same_params_are_one_point(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.random((10, space.dimensions))
    again = np.clip(x + 0.02 * rng.standard_normal(x.shape), 0, 1)
    values, others = space.decode(x), space.decode(again)
    for i, variable in enumerate(space.by_dimension):
        if variable.kind == "FLOAT":
            others[:, i] = values[:, i]
    embedding = Embedding(space)
    same = [space.to_params(a) == space.to_params(b) for a, b in zip(values, others, strict=True)]
    equal = np.all(embedding(values) == embedding(others), axis=1)
    np.testing.assert_array_equal(equal, same)


def test_any_two_of_several_options_are_as_far_apart_as_the_ends_of_a_range() -> None:
    space = Space((Variable("kind", "ENUM", options=("a", "b", "c", "d")),))
    u = Embedding(space)(np.arange(4.0)[:, np.newaxis])
    for i in range(4):
        for j in range(4):
            assert math.dist(u[i].tolist(), u[j].tolist()) == pytest.approx(float(i != j))


def test_numbers_are_ordered_whatever_the_order_of_the_list() -> None:
    space = Space((Variable("batch", "ENUM", options=(256, 0.5, 128, -64)),))
    np.testing.assert_allclose(Embedding(space)(np.arange(4.0)[:, np.newaxis])[:, 0], [1, 1 / 3, 2 / 3, 0])


def test_a_space_of_constants_has_no_coordinates() -> None:
    space = Space((Variable("a", "INT", 3, 3), Variable("b", "FLOAT", 2.5, 2.5), Variable("c", "ENUM", options=("x",))))
    embedding = Embedding(space)
    values = space.sample(np.random.default_rng(0), 4)
    assert embedding(values).shape == (4, 0)
    assert embedding.groups.shape == (0,)
    assert embedding.groups.dtype.kind == "i"
    assert embedding.dimensions == 0
    assert embedding.movable == []
    np.testing.assert_array_equal(embedding.moved(values, np.zeros((4, 0))), values)


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("low", [1.0, 1e9, 1e-9])
def test_a_range_of_two_neighbouring_numbers_has_finite_coordinates(scale: Any, low: float) -> None:
    space = Space((Variable("a", "FLOAT", low, math.nextafter(low, math.inf), scale=scale), Variable("b", "INT", 0, 4)))
    values = space.sample(np.random.default_rng(0), 20)
    u = Embedding(space)(values)
    assert np.all((u >= 0.0) & (u <= 1.0))


@given(SPACES, SEEDS)
def test_coordinates_that_did_not_move_give_exactly_the_values_back(space: Space, seed: int) -> None:
    values = space.sample(np.random.default_rng(seed), 20)
    embedding = Embedding(space)
    np.testing.assert_array_equal(embedding.moved(values, embedding(values)), values)


@given(SPACES, SEEDS)
def test_coordinates_that_moved_give_values_of_the_space_nearby(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = space.sample(rng, 20)
    embedding = Embedding(space)
    before = values.copy()
    target = rng.random((20, len(embedding.groups)))
    moved = embedding.moved(values, target)
    np.testing.assert_array_equal(values, before)
    np.testing.assert_array_equal(space.decode(space.encode(moved)), moved)
    for i, variable in enumerate(space.by_dimension):
        if variable.kind == "ENUM":
            np.testing.assert_array_equal(moved[:, i], values[:, i])
        else:
            assert np.all((moved[:, i] >= variable.low) & (moved[:, i] <= variable.high))
    for column, coordinate in embedding.movable:
        if space.by_dimension[column].kind == "FLOAT":
            np.testing.assert_allclose(embedding(moved)[:, coordinate], target[:, coordinate], atol=2e-8)
        else:
            assert_no_integer_lies_between(space.by_dimension[column], moved[:, column], target[:, coordinate])


def assert_no_integer_lies_between(variable: Variable, found: Array, target: Array) -> None:
    """The target, in natural units, is less than half an integer away."""
    for value, place in zip(found, target, strict=True):
        if variable.scale == "log":
            natural = variable.low * (variable.high / variable.low) ** place
        else:
            natural = variable.low + place * (variable.high - variable.low)
        assert abs(value - natural) <= 0.5 + 1e-9

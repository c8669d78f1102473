"""The maximum against brute force over small mixed spaces, feasible and exact to the last digit; and its moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hyperpower_runner.acquisition import ExpectedImprovement, LowMean, Product, Term
from hyperpower_runner.maximisation import SHORTLIST, Maximisation, mutated
from hyperpower_runner.space import Array, Space, Variable
from hyperpower_runner.surrogate.embedding import Embedding
from hyperpower_runner.surrogate.hyperparameters import Prior
from hyperpower_runner.surrogate.posterior import Posterior

SEEDS = st.integers(0, 2**32 - 1)
SMALL = Space(
    (
        Variable("width", "INT", 1, 12, scale="log"),
        Variable("depth", "INT", 2, 9),
        Variable("kind", "ENUM", options=("a", "b", "c", "d")),
        Variable("constant", "INT", 5, 5),
        Variable("batch", "ENUM", options=(64, 16, 32)),
        Variable("skip", "ENUM", options=(False, True)),
    )
)
MIXED = Space(
    (
        Variable("rate", "FLOAT", 1e-5, 1e-1, scale="log"),
        Variable("width", "INT", 1, 300, scale="log"),
        Variable("constant", "FLOAT", 0.5, 0.5),
        Variable("kind", "ENUM", options=("a", "b", "c")),
        Variable("share", "FLOAT", -1.0, 3.0, size=2),
        Variable("depth", "INT", -3, 4),
    )
)
FLOATS = Space(tuple(Variable(name, "FLOAT", 0.0, 1.0) for name in "abcd"))
EVERYTHING = np.concatenate(list(SMALL.enumerate()))
Feasible = Callable[[Array], NDArray[np.bool_]]


def anywhere(values: Array) -> NDArray[np.bool_]:
    return np.ones(len(values), dtype=bool)


def some(seed: int, share: float = 0.4) -> Feasible:
    """A feasible set without any shape: a share of all points, by their digits."""

    def feasible(values: Array) -> NDArray[np.bool_]:
        return np.array([hash((seed, *map(float, row))) % 1000 < 1000 * share for row in values], dtype=bool)

    return feasible


def random_improvement(space: Space, seed: int, samples: int = 3) -> Term:
    """The expected improvement of a process that saw twelve random outputs."""
    rng = np.random.default_rng(seed)
    embedding = Embedding(space)
    prior = Prior.of(embedding.dimensions, noiseless=False)
    thetas = prior.mean + 0.3 * prior.deviation * rng.standard_normal((samples, len(prior.mean)))
    u = embedding(space.sample(rng, 12))
    posterior = Posterior.given(thetas, u, embedding.groups, rng.standard_normal(12))
    return ExpectedImprovement(posterior, posterior.at_points.min(axis=1))


def feasible_pool(space: Space, feasible: Feasible, rng: np.random.Generator, count: int) -> Array:
    drawn = space.sample(rng, 40 * count)
    return drawn[feasible(drawn)][:count]


@dataclass
class Hill:
    """A smooth term whose maximum is known; where it is asked about points, it remembers them."""

    top: Array
    asked: list[Array] = field(default_factory=list)

    def __call__(self, u: Array) -> Array:
        self.asked.append(u)
        return np.asarray(-np.sum((u - self.top) ** 2, axis=1))

    def with_gradient(self, u: Array) -> tuple[Array, Array]:
        return self(u), -2.0 * (u - self.top)

    def rough(self) -> Hill:
        return self


def rank_found(seed: int) -> int:
    """How many of all feasible points are better than the one found, from a pool of a few."""
    rng = np.random.default_rng(seed)
    feasible = some(seed)
    maximisation = Maximisation(random_improvement(SMALL, seed), Embedding(SMALL), feasible)
    best, score = maximisation.best(feasible_pool(SMALL, feasible, rng, 100), rng)
    allowed = EVERYTHING[feasible(EVERYTHING)]
    scores = maximisation.term(maximisation.embedding(allowed))
    found = np.flatnonzero(np.all(allowed == best, axis=1))
    assert len(found) == 1
    assert score == pytest.approx(scores[found[0]], rel=1e-9)
    return int(np.sum(scores > score + 1e-9))


def test_on_a_finite_space_the_best_point_is_found_nearly_always_and_else_one_of_the_next() -> None:
    ranks = np.array([rank_found(seed) for seed in range(30)])
    assert np.mean(ranks == 0) >= 0.8
    assert ranks.max() <= 5


def test_on_a_mixed_space_nothing_much_better_is_found_by_very_many_points() -> None:
    shortfalls = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        maximisation = Maximisation(random_improvement(MIXED, seed), Embedding(MIXED), anywhere)
        _, score = maximisation.best(MIXED.sample(rng, 900), rng)
        shortfalls.append(maximisation.scores(MIXED.sample(rng, 20_000)).max() - score)
    assert np.mean(np.array(shortfalls) <= 0) >= 0.9
    assert max(shortfalls) < 1.0


@pytest.mark.parametrize("space", [SMALL, MIXED, FLOATS])
@pytest.mark.parametrize("samples", [1, 3, 12])
def test_the_result_is_feasible_decodable_and_no_worse_than_the_pool(space: Space, samples: int) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        feasible = some(seed, 0.2)
        term = random_improvement(space, seed, samples)
        pool = feasible_pool(space, feasible, rng, SHORTLIST)
        before = pool.copy()
        maximisation = Maximisation(term, Embedding(space), feasible)
        best, score = maximisation.best(pool, rng)
        np.testing.assert_array_equal(pool, before)
        assert best.shape == (space.dimensions,)
        assert feasible(best[np.newaxis]).all()
        np.testing.assert_array_equal(space.decode(space.encode(best[np.newaxis]))[0], best)
        np.testing.assert_array_equal(space.from_params(space.to_params(best)), best)
        assert score >= maximisation.scores(pool).max() - 1e-9
        assert score == pytest.approx(maximisation.scores(best[np.newaxis])[0], rel=1e-9)


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_where_only_a_few_points_are_feasible_the_best_of_them_is_found(kept: int) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        allowed = EVERYTHING[rng.permutation(len(EVERYTHING))[:kept]]
        keys = {tuple(row) for row in allowed.tolist()}

        def feasible(values: Array, keys: set[tuple[float, ...]] = keys) -> NDArray[np.bool_]:
            return np.array([tuple(row) in keys for row in values.tolist()], dtype=bool)

        maximisation = Maximisation(random_improvement(SMALL, seed), Embedding(SMALL), feasible)
        best, _ = maximisation.best(allowed, rng)
        scores = maximisation.term(maximisation.embedding(allowed))
        np.testing.assert_array_equal(best, allowed[np.argmax(scores)])


def test_only_feasible_points_are_scored_and_others_are_impossible() -> None:
    hill = Hill(np.zeros(4))
    values = FLOATS.sample(np.random.default_rng(0), 30)
    maximisation = Maximisation(hill, Embedding(FLOATS), lambda values: values[:, 0] < 0.5)
    scores = maximisation.scores(values)
    inside = values[:, 0] < 0.5
    assert np.all(np.isneginf(scores[~inside]))
    np.testing.assert_allclose(scores[inside], -np.sum(values[inside] ** 2, axis=1), rtol=1e-12)
    assert all(np.all(u[:, 0] < 0.5) for u in hill.asked)


def test_where_nothing_is_feasible_everything_is_impossible_and_no_term_is_asked() -> None:
    hill = Hill(np.zeros(4))
    maximisation = Maximisation(hill, Embedding(FLOATS), lambda values: np.zeros(len(values), dtype=bool))
    assert np.all(np.isneginf(maximisation.scores(FLOATS.sample(np.random.default_rng(0), 5))))
    assert hill.asked == []


# --- gradients


def distances_from_the_top(seeds: int = 10) -> Array:
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        hill = Hill(rng.uniform(0.1, 0.9, 4))
        best, _ = Maximisation(hill, Embedding(FLOATS), anywhere).best(FLOATS.sample(rng, 32), rng)
        found.append(float(np.linalg.norm(best - hill.top)))
    return np.array(found)


def assert_the_top_is_reached() -> None:
    assert distances_from_the_top().max() < 1e-5


def test_floats_follow_the_gradient_to_the_top() -> None:
    assert_the_top_is_reached()


def test_without_gradients_it_would_not_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def standing(self: Maximisation, points: Array, scores: Array) -> tuple[Array, Array]:
        return points, scores

    monkeypatch.setattr(Maximisation, "_follow_gradient", standing)
    with pytest.raises(AssertionError):
        assert_the_top_is_reached()
    # What moves to neighbours reach by themselves.
    assert np.median(distances_from_the_top()) < 0.1


def test_integers_follow_the_gradient_to_the_nearest_integer() -> None:
    space = Space(tuple(Variable(name, "INT", 1, 10**6) for name in "abc"))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        target = rng.integers(1, 10**6, 3)
        hill = Hill((target - 1) / (10**6 - 1))
        best, _ = Maximisation(hill, Embedding(space), anywhere).best(space.sample(rng, 32), rng)
        assert np.abs(best - target).max() <= 3


@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_a_top_beyond_the_borders_leads_exactly_to_the_corner(corner: float) -> None:
    rng = np.random.default_rng(0)
    hill = Hill(np.full(4, 3.0 * corner - 1.0))
    best, _ = Maximisation(hill, Embedding(FLOATS), anywhere).best(FLOATS.sample(rng, 32), rng)
    np.testing.assert_array_equal(best, corner)


def test_a_top_that_is_infeasible_leads_close_to_the_border_on_the_way() -> None:
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        hill = Hill(np.full(4, 0.9))

        def feasible(values: Array) -> NDArray[np.bool_]:
            return np.asarray(values.sum(axis=1) <= 2.0)

        pool = feasible_pool(FLOATS, feasible, rng, 64)
        best, score = Maximisation(hill, Embedding(FLOATS), feasible).best(pool, rng)
        assert best.sum() <= 2.0
        found.append(score)
        assert score >= hill(pool).max()
    # On the border, the best is at 0.5 each.
    assert np.median(found) > -4 * 0.4**2 - 0.15


def test_options_are_chosen_by_the_term_and_not_moved_between() -> None:
    embedding = Embedding(MIXED)
    for option in range(3):
        rng = np.random.default_rng(option)
        top = MIXED.sample(rng, 1)
        top[0, 3] = option
        hill = Hill(embedding(top)[0])
        best, _ = Maximisation(hill, embedding, anywhere).best(MIXED.sample(rng, 64), rng)
        assert best[3] == option
        assert best[0] == pytest.approx(top[0, 0], rel=0.05)
        assert best[6] == top[0, 6]


def test_a_pool_of_one_point_is_enough() -> None:
    rng = np.random.default_rng(0)
    hill = Hill(np.full(4, 0.3))
    best, _ = Maximisation(hill, Embedding(FLOATS), anywhere).best(FLOATS.sample(rng, 1), rng)
    np.testing.assert_allclose(best, 0.3, atol=1e-5)


def test_a_space_of_constants_has_one_maximum() -> None:
    space = Space((Variable("a", "INT", 3, 3), Variable("b", "FLOAT", 0.5, 0.5)))
    pool = space.sample(np.random.default_rng(0), 2)
    best, score = Maximisation(Hill(np.zeros(0)), Embedding(space), anywhere).best(pool, np.random.default_rng(0))
    np.testing.assert_array_equal(best, [3, 0.5])
    assert score == 0


def test_the_same_seed_finds_the_same_point() -> None:
    found = []
    for _ in range(2):
        rng = np.random.default_rng(8)
        maximisation = Maximisation(random_improvement(MIXED, 1, 12), Embedding(MIXED), some(1))
        found.append(maximisation.best(feasible_pool(MIXED, some(1), rng, 200), rng))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_a_product_of_terms_is_maximised_as_a_whole() -> None:
    # Two hills: the top of their product is halfway.
    rng = np.random.default_rng(0)
    product = Product([Hill(np.full(4, 0.2)), Hill(np.full(4, 0.6))])
    best, _ = Maximisation(product, Embedding(FLOATS), anywhere).best(FLOATS.sample(rng, 32), rng)
    np.testing.assert_allclose(best, 0.4, atol=1e-5)


def test_the_lowest_mean_lies_at_the_minimum_that_was_observed_from_all_sides() -> None:
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 7), np.linspace(0, 1, 7)), axis=-1).reshape(-1, 2)
    space = Space((Variable("a", "FLOAT", 0.0, 1.0), Variable("b", "FLOAT", 0.0, 1.0)))
    outputs = 4 * (grid[:, 0] - 0.4) ** 2 + (grid[:, 1] - 0.55) ** 2
    theta = np.array([[-0.5, 0.0, 0.0]])
    posterior = Posterior.given(theta, grid, np.array([0, 1]), outputs - outputs.mean())
    rng = np.random.default_rng(0)
    best, _ = Maximisation(LowMean(posterior), Embedding(space), anywhere).best(space.sample(rng, 64), rng)
    np.testing.assert_allclose(best, [0.4, 0.55], atol=0.02)


# --- moves to neighbours


def variables(draw: st.DrawFn, name: str) -> Variable:
    kind = draw(st.sampled_from(["INT", "INT", "FLOAT", "ENUM"]))
    if kind == "ENUM":
        return Variable(name, "ENUM", options=tuple("abcdef"[: draw(st.integers(1, 6))]))
    log = draw(st.booleans())
    low = draw(st.integers(1 if log else -5, 20))
    high = low + draw(st.sampled_from([0, 1, 2, 7, 1000]))
    scale: Literal["linear", "log"] = "log" if log else "linear"
    if kind == "INT":
        return Variable(name, "INT", low, high, scale=scale)
    return Variable(name, "FLOAT", low, high, scale=scale)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    return Space(tuple(variables(draw, f"v{i}") for i in range(draw(st.integers(1, 5)))))


@given(spaces(), SEEDS, st.sampled_from([0.3, 0.05, 0.005, 1e-4]))
@settings(max_examples=150)
def test_a_neighbour_differs_in_one_to_three_variables_and_is_a_point_of_the_space(
    space: Space, seed: int, step: float
) -> None:
    rng = np.random.default_rng(seed)
    values = space.sample(rng, 50)
    before = values.copy()
    near = mutated(space, values, step, rng)
    np.testing.assert_array_equal(values, before)
    differing = np.sum(near != values, axis=1)
    free = sum(variable.choices != 1 for variable in space.by_dimension)
    assert np.all(differing <= min(3, free))
    assert np.all(differing >= min(1, free))
    np.testing.assert_array_equal(space.decode(space.encode(near)), near)


@pytest.mark.parametrize("step", [0.2, 0.001])
def test_neighbours_reach_every_option_and_both_integers_beside(step: float) -> None:
    space = Space(
        (
            Variable("kind", "ENUM", options=tuple("abcde")),
            Variable("depth", "INT", 0, 10),
            Variable("width", "INT", 1, 64, scale="log"),
        )
    )
    begin = np.tile([2.0, 5.0, 8.0], (2000, 1))
    near = mutated(space, begin, step, np.random.default_rng(0))
    options, counts = np.unique(near[:, 0], return_counts=True)
    np.testing.assert_array_equal(options, np.arange(5))
    others = np.delete(counts, 2)
    assert others.max() - others.min() < 5 * others.mean() ** 0.5
    assert {4.0, 6.0} <= set(near[:, 1])
    assert {7.0, 9.0} <= set(near[:, 2])


def test_at_a_border_the_neighbour_lies_inside() -> None:
    space = Space((Variable("depth", "INT", 3, 4),))
    for value in (3.0, 4.0):
        near = mutated(space, np.full((50, 1), value), 0.01, np.random.default_rng(0))
        np.testing.assert_array_equal(near, 7.0 - value)


def test_one_two_and_three_variables_are_moved_equally_often() -> None:
    near = mutated(FLOATS, np.full((6000, 4), 0.5), 0.1, np.random.default_rng(0))
    moved = near != 0.5
    _, counts = np.unique(moved.sum(axis=1), return_counts=True)
    assert len(counts) == 3
    assert np.all(np.abs(counts - 2000) < 5 * (6000 * 2 / 9) ** 0.5)
    # No variable is preferred: each is moved in half of all cases.
    assert np.all(np.abs(moved.mean(axis=0) - 0.5) < 5 * 0.5 / 6000**0.5)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_a_float_moves_by_the_step_on_its_scale(scale: str) -> None:
    variable = Variable("a", "FLOAT", 1e-4, 1e4, scale="log") if scale == "log" else Variable("a", "FLOAT", -3, 5)
    space = Space((variable,))
    begin = space.decode(np.full((4000, 1), 0.5))
    steps = space.encode(mutated(space, begin, 0.03, np.random.default_rng(0))) - 0.5
    assert abs(steps.mean()) < 5 * 0.03 / 4000**0.5
    assert steps.std() == pytest.approx(0.03, rel=5 / 8000**0.5)

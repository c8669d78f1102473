"""From candidates to a suggestion, against a naive reading of the same stream, one candidate at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from hyperpower_runner.errors import InfeasibleError, SpaceExhaustedError
from hyperpower_runner.hardware.models import HardwareModels, LinearModel
from hyperpower_runner.methods import candidates as module
from hyperpower_runner.methods.candidates import FIRST_CHUNK, MOST_KEPT, Candidates
from hyperpower_runner.space import Array, Space, Variable, parse_constraints
from hyperpower_runner.trial import Rejection, Suggestion, params_key

SQUARE = (Variable("a", "INT", 1, 10), Variable("b", "INT", 1, 10))
POWER = {"power_w": LinearModel({"a": 2.0, "b": 1.0}), "memory_bytes": LinearModel({"b": 100.0}, 50.0)}


def make_space(*constraints: str, variables: tuple[Variable, ...] = SQUARE) -> Space:
    return Space(variables, parse_constraints(constraints, variables))


def make_candidates(space: Space, limits: Mapping[str, float] | None = None) -> Candidates:
    return Candidates(space, HardwareModels(space, POWER if limits is not None else {}), limits or {})


def first(candidates: Candidates, seed: int, seen: frozenset[bytes] = frozenset(), **most: int) -> Suggestion:
    rng = np.random.default_rng(seed)
    return candidates.first(lambda count: candidates.space.sample(rng, count), seen, rng, **most)


def stream(space: Space, seed: int) -> list[dict[str, Any]]:
    """The first few thousand candidates that `first` is given for a seed."""
    rng = np.random.default_rng(seed)
    chunks = [space.sample(rng, FIRST_CHUNK * 4**power) for power in range(4)]
    return [space.to_params(point) for point in np.concatenate(chunks)]


def naive(
    points: list[dict[str, Any]], known: Callable[..., bool], limits: Mapping[str, float], seen: frozenset[bytes]
) -> Suggestion:
    """One candidate after the other, as the paper's figure 2 draws it."""
    discarded = []
    for point in points:
        if not known(**point):
            continue
        predictions = {"power_w": 2.0 * point["a"] + point["b"], "memory_bytes": 100.0 * point["b"] + 50.0}
        if any(predictions[metric] > bound for metric, bound in limits.items() if metric in predictions):
            discarded.append({"params": point, "predictions": predictions})
        elif params_key(point) not in seen:
            return Suggestion(point, predictions, Rejection(len(discarded), tuple(discarded[:100])))
    raise AssertionError("the stream is too short for this test")


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize(
    "limits",
    [
        {"power_w": 4.0},
        {"power_w": 9.0, "memory_bytes": 250.0},
        {"memory_bytes": 150.0},
        {"error": 0.1},
        {"power_w": 99},
    ],
)
def test_a_suggestion_and_what_was_discarded_for_it_are_those_of_a_naive_reading(
    seed: int, limits: dict[str, float]
) -> None:
    space = make_space("a <= 3 * b", "a != 2")
    tried = frozenset(params_key({"a": 1, "b": b}) for b in range(1, 9, 2))

    def known(a: int, b: int) -> bool:
        return a <= 3 * b and a != 2

    expected = naive(stream(space, seed), known, limits, tried)
    assert first(make_candidates(space, limits), seed, tried) == expected


def test_the_first_hundred_discarded_are_written_down_and_all_are_counted() -> None:
    variables = (Variable("a", "INT", 1, 1000), Variable("b", "INT", 1, 10))
    space, limits = make_space(variables=variables), {"power_w": 6.0}
    found = [first(make_candidates(space, limits), seed) for seed in range(3)]
    for seed, suggestion in enumerate(found):
        expected = naive(stream(space, seed), lambda a, b: True, limits, frozenset())
        assert suggestion == expected
        assert len(suggestion.rejection.first) == min(suggestion.rejection.discarded, MOST_KEPT)
    assert max(suggestion.rejection.discarded for suggestion in found) > MOST_KEPT == 100


def test_a_loose_budget_discards_nothing() -> None:
    assert first(make_candidates(make_space(), {"power_w": 30.0}), 0).rejection == Rejection()


@pytest.mark.parametrize("seed", range(10))
def test_an_unaware_search_discards_nothing_and_carries_the_predictions(seed: int) -> None:
    space = make_space("a <= b")
    suggestion = first(make_candidates(space, {}), seed)
    a, b = suggestion.params["a"], suggestion.params["b"]
    assert suggestion.rejection == Rejection()
    assert suggestion.predictions == {"power_w": 2.0 * a + b, "memory_bytes": 100.0 * b + 50}
    assert suggestion == naive(stream(space, seed), lambda a, b: a <= b, {}, frozenset())


def test_a_limit_without_a_model_excludes_nothing_before_it_is_measured() -> None:
    space = make_space()
    unlimited = Candidates(space, HardwareModels(space), {"power_w": 0.0, "error": 0.0})
    assert first(unlimited, 0).rejection == Rejection()


def test_nothing_suggested_violates_a_constraint_or_a_predicted_budget() -> None:
    variables = (*SQUARE, Variable("f", "FLOAT", 0.0, 1.0), Variable("k", "ENUM", options=("x", "y")))
    space = make_space("a * b <= 30", "k == 'x' or f < a / 10", variables=variables)
    candidates = make_candidates(space, {"power_w": 15.0, "memory_bytes": 700.0})
    for seed in range(200):
        p = first(candidates, seed).params
        assert p["a"] * p["b"] <= 30
        assert p["k"] == "x" or p["f"] < p["a"] / 10
        assert 2 * p["a"] + p["b"] <= 15
        assert 100 * p["b"] + 50 <= 700


@pytest.mark.parametrize("limits", [None, {"power_w": 12.0}])
def test_a_finite_space_is_used_up_without_repeats_and_then_says_so(limits: dict[str, float] | None) -> None:
    space = make_space("a <= b")
    feasible = {
        params_key({"a": a, "b": b})
        for a, b in itertools.product(range(1, 11), repeat=2)
        if a <= b and (limits is None or 2 * a + b <= 12)
    }
    candidates, seen = make_candidates(space, limits), frozenset[bytes]()
    for seed in range(len(feasible)):
        key = params_key(first(candidates, seed, seen).params)
        assert key in feasible
        assert key not in seen
        seen |= {key}
    assert seen == feasible
    with pytest.raises(SpaceExhaustedError, match="every feasible point"):
        first(candidates, 0, seen)


def test_the_last_points_of_a_finite_space_are_listed_and_equally_likely() -> None:
    space = make_space("a <= b")
    points = [{"a": a, "b": b} for a, b in itertools.product(range(1, 11), repeat=2) if a <= b]
    seen = frozenset(params_key(point) for point in points[4:])
    counts: dict[bytes, int] = {}
    for seed in range(400):
        tried = make_candidates(space).first(lambda n: np.full((n, 2), 9.0), seen, np.random.default_rng(seed))
        key = params_key(tried.params)
        counts[key] = counts.get(key, 0) + 1
    assert counts.keys() == {params_key(point) for point in points[:4]}
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 16.3  # once in 1,000


def test_a_rare_point_that_drawing_missed_is_found_by_listing() -> None:
    variables = (Variable("a", "INT", 1, 1000), Variable("b", "INT", 1, 1000))
    space = make_space("a == 777", "b == 555 or b == 556", variables=variables)
    candidates = make_candidates(space)

    def unlucky(count: int) -> Array:
        return np.concatenate([[[777.0, 555.0]], np.ones((count - 1, 2))])

    seen = frozenset([params_key({"a": 777, "b": 555})])
    suggestion = candidates.first(unlucky, seen, np.random.default_rng(0), most=1_000_000)
    assert suggestion.params == {"a": 777, "b": 556}
    seen |= {params_key(suggestion.params)}
    with pytest.raises(SpaceExhaustedError, match="every feasible point"):
        candidates.first(unlucky, seen, np.random.default_rng(0), most=1_000_000)


def test_no_more_are_drawn_than_allowed_and_a_countless_space_says_how_many_were() -> None:
    variables = (Variable("f", "FLOAT", 0.0, 1.0),)
    space = make_space(variables=variables)
    drawn: list[int] = []

    def always_the_same(count: int) -> Array:
        drawn.append(count)
        return np.full((count, 1), 0.5)

    candidates = make_candidates(space)
    with pytest.raises(SpaceExhaustedError, match="5,000 draws"):
        candidates.first(always_the_same, frozenset([params_key({"f": 0.5})]), np.random.default_rng(0), most=5000)
    assert sum(drawn) == 5000


@pytest.mark.parametrize("seed", range(3))
def test_a_feasible_set_of_one_in_100_000_is_found(seed: int) -> None:
    variables = tuple(Variable(name, "FLOAT", 0.0, 1.0) for name in "abcde")
    space = make_space("max(a, b, c, d, e) < 0.1", variables=variables)
    assert max(first(make_candidates(space), seed).params.values()) < 0.1


def explanation(space: Space, limits: Mapping[str, float] | None = None) -> str:
    with pytest.raises(InfeasibleError) as caught:
        first(make_candidates(space, limits), 0, most=20_000)
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_a_constraint_that_nothing_meets_is_named() -> None:
    message = explanation(make_space("a <= b", "a + b > 20", "a < 9"))
    assert message.startswith("known-constraints: ")
    assert '"a + b > 20" holds at none of 20,000 points' in message
    assert '"a <= b"' not in message


def test_constraints_that_exclude_each_other_name_the_one_that_holds_least_often() -> None:
    message = explanation(make_space("a <= 5", "a > 9", "b <= 5"))
    assert message.startswith("known-constraints: none of 20,000 points")
    assert '"a > 9" holds least often, at 1,9' in message or '"a > 9" holds least often, at 2,0' in message


def test_a_budget_below_every_prediction_names_the_least_one() -> None:
    message = explanation(make_space("a > 2"), {"memory_bytes": 1e4, "power_w": 6.5})
    assert message.startswith("constraints.power_w: at most 6.5 is allowed")
    assert "predict 7 or more" in message
    assert "raise the budget" in message


def test_budgets_that_exclude_each_other_are_named_together() -> None:
    space = make_space("a + b >= 9")
    message = explanation(space, {"power_w": 12.0, "memory_bytes": 350.0})
    assert message.startswith("constraints: ")
    assert "power_w <= 12 and memory_bytes <= 350" in message
    assert "raise one of the budgets" in message


def test_a_countless_infeasible_space_is_explained_too() -> None:
    variables = (Variable("f", "FLOAT", 0.0, 1.0),)
    assert '"f > 2" holds at none' in explanation(make_space("f > 2", variables=variables))


def test_a_space_whose_only_feasible_points_were_tried_is_exhausted_and_not_infeasible() -> None:
    candidates, seen = make_candidates(make_space("a == 7 and b == 3")), frozenset([params_key({"a": 7, "b": 3})])
    with pytest.raises(SpaceExhaustedError):
        candidates.first(lambda count: np.ones((count, 2)), seen, np.random.default_rng(0), most=100)


def test_a_single_point_is_a_space() -> None:
    space = make_space(variables=(Variable("f", "FLOAT", 0.5, 0.5), Variable("k", "ENUM", options=("x",))))
    assert first(make_candidates(space), 0).params == {"f": 0.5, "k": "x"}


# --- many at once


def drawn(
    candidates: Candidates, seed: int, wanted: int, most: int = 1_000_000
) -> tuple[list[dict[str, Any]], Rejection, int]:
    """What `draw` finds, what it discards, and how many candidates it asked for."""
    rng, sizes = np.random.default_rng(seed), [0]

    def propose(count: int) -> Array:
        sizes.append(count)
        return candidates.space.sample(rng, count)

    values, rejection = candidates.draw(propose, wanted, most)
    assert values.shape == (len(values), candidates.space.dimensions)
    return [candidates.space.to_params(row) for row in values], rejection, sum(sizes)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limits", [None, {"power_w": 9.0, "memory_bytes": 250.0}, {"error": 0.1}])
def test_the_first_acceptable_candidates_are_drawn(seed: int, limits: dict[str, float] | None) -> None:
    space = make_space("a <= 3 * b", "a != 2")
    found, _, _ = drawn(make_candidates(space, limits), seed, 50)
    rng = np.random.default_rng(seed)
    points = [space.to_params(row) for _ in range(40) for row in space.sample(rng, 50)]
    hard = {} if limits is None else {name: bound for name, bound in limits.items() if name in POWER}
    expected = [
        point
        for point in points
        if point["a"] <= 3 * point["b"]
        and point["a"] != 2
        and 2.0 * point["a"] + point["b"] <= hard.get("power_w", np.inf)
        and 100.0 * point["b"] + 50 <= hard.get("memory_bytes", np.inf)
    ]
    assert len(found) == 50
    # A space's columns are drawn together, so that a stream depends on the sizes of its chunks: the first is of 50.
    first_chunk = [point for point in points[:50] if point in expected]
    assert found[: len(first_chunk)] == first_chunk
    assert all(point in expected for point in found)


def test_as_many_as_wanted_are_drawn_and_what_was_discarded_is_counted() -> None:
    candidates = make_candidates(make_space(), {"power_w": 15.0})
    found, rejection, proposed = drawn(candidates, 3, 700)
    assert len(found) == 700
    assert max(2 * point["a"] + point["b"] for point in found) == 15
    accepted = len([1 for a, b in itertools.product(range(1, 11), repeat=2) if 2 * a + b <= 15]) / 100
    assert rejection.discarded == pytest.approx(proposed * (1 - accepted), rel=0.1)
    assert len(rejection.first) == MOST_KEPT
    for one in rejection.first:
        a, b = one["params"]["a"], one["params"]["b"]
        assert one["predictions"] == {"power_w": 2.0 * a + b, "memory_bytes": 100.0 * b + 50.0}
        assert 2 * a + b > 15


def test_what_a_known_constraint_excludes_is_not_counted_as_discarded() -> None:
    found, rejection, _ = drawn(make_candidates(make_space("a > b"), {"power_w": 99.0}), 0, 100)
    assert all(point["a"] > point["b"] for point in found)
    assert rejection == Rejection()


def test_drawing_ends_where_the_most_are_drawn() -> None:
    found, rejection, proposed = drawn(make_candidates(make_space("a == 1", "b == 1")), 0, 1000, most=4321)
    assert 0 < len(found) < 200
    assert proposed == 4321
    assert rejection == Rejection()


def test_where_nothing_is_acceptable_nothing_is_drawn() -> None:
    found, rejection, proposed = drawn(make_candidates(make_space(), {"power_w": 2.5}), 0, 10, most=5000)
    assert found == []
    assert (rejection.discarded, len(rejection.first), proposed) == (5000, MOST_KEPT, 5000)
    found, rejection, _ = drawn(make_candidates(make_space("a > 10"), {"power_w": 2.5}), 0, 10, most=5000)
    assert (found, rejection) == ([], Rejection())


@pytest.mark.parametrize("limits", [None, {"power_w": 15.0}, {"power_w": 15.0, "memory_bytes": 650.0, "error": 0.0}])
def test_acceptable_is_what_meets_every_constraint_and_every_predicted_budget(limits: dict[str, float] | None) -> None:
    candidates = make_candidates(make_space("a * b <= 30", "a != 4"), limits)
    everything = np.array([*itertools.product(range(1, 11), repeat=2)], dtype=float)
    expected = [
        a * b <= 30 and a != 4
        and (limits is None or 2 * a + b <= 15)
        and (limits is None or "memory_bytes" not in limits or 100 * b + 50 <= 650)
        for a, b in itertools.product(range(1, 11), repeat=2)
    ]  # fmt: skip
    found = candidates.acceptable(everything)
    assert found.dtype == np.bool_
    assert found.tolist() == expected
    assert candidates.acceptable(everything[:0]).shape == (0,)
    assert candidates.acceptable(everything[expected.index(True)][np.newaxis]).tolist() == [True]


def test_asking_what_is_acceptable_changes_nothing() -> None:
    candidates = make_candidates(make_space("a <= b"), {"power_w": 12.0})
    before = first(candidates, 5)
    values = np.array([[1.0, 2.0], [9.0, 2.0]])
    kept = values.copy()
    assert candidates.acceptable(values).tolist() == [True, False]
    assert (values == kept).all()
    assert first(candidates, 5) == before


def test_the_chunks_of_this_test_are_those_of_the_module() -> None:
    assert (FIRST_CHUNK, module.LARGEST_CHUNK >= FIRST_CHUNK * 4**3) == (32, True)

"""Fitting: known truths come back, cross-validation is what it says, and nothing leaks between folds."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from hyperpower_runner.errors import ModelsError
from hyperpower_runner.hardware import fitting, regression
from hyperpower_runner.hardware.features import with_intensity
from hyperpower_runner.hardware.fitting import fit_metric
from hyperpower_runner.hardware.models import FORMS, HardwareModels, LinearModel, from_json
from hyperpower_runner.hardware.validation import Score, Validation
from hyperpower_runner.space import Array, Space, Variable

SPACE = Space(
    (
        *(Variable(name, "INT", 10, 100) for name in "abcd"),
        Variable("rate", "FLOAT", 0.1, 1.0, structural=False),
        Variable("kind", "ENUM", options=("relu", "tanh", "elu")),
    )
)


def drawn(count: int, seed: int = 0, space: Space = SPACE) -> Array:
    return space.sample(np.random.default_rng(seed), count)


def noisy(outcomes: Array, deviation: float, seed: int = 1) -> Array:
    noise: Array = np.exp(deviation * np.random.default_rng(seed).standard_normal(len(outcomes)))
    return outcomes * noise


def fit(values: Array, outcomes: Array, features: dict[str, Array] | None = None, **options: Any) -> LinearModel:
    return fit_metric(options.pop("space", SPACE), values, features, outcomes, np.random.default_rng(2), **options)


def validation(model: LinearModel) -> Validation:
    assert model.validation is not None
    return model.validation


def rmspe(model: LinearModel, form: str) -> float:
    score = validation(model).by_form[form]
    assert isinstance(score, Score)
    return score.rmspe


def linear(values: Array) -> Array:
    return np.asarray(40 + values[:, 0] * 0.5 + values[:, 1] * 0.2 + 10 * (values[:, 5] == 1))


def log_quadratic(values: Array) -> Array:
    logs = np.log(values[:, :4])
    return np.asarray(np.exp(0.3 * logs[:, 0] ** 2 - 0.2 * logs[:, 1] * logs[:, 2] + logs[:, 3]))


# --- exact least squares


def test_the_paper_form_solves_the_normal_equations() -> None:
    values = drawn(60)
    outcomes = noisy(values[:, :4] @ [1.0, 0.5, 0.1, 2.0], 0.1)
    model = fit(values, outcomes, forms=["paper"])
    z, weight = values[:, :4], 1 / outcomes**2
    expected = np.linalg.solve(z.T @ (weight[:, None] * z), z.T @ (weight * outcomes))
    assert list(model.weights) == ["a", "b", "c", "d"]
    np.testing.assert_allclose(list(model.weights.values()), expected, rtol=1e-8)
    assert model.intercept == 0
    assert model.form == "paper"


def test_the_linear_forms_are_scikit_learns_with_weights() -> None:
    from sklearn.linear_model import LinearRegression

    values = drawn(80)
    features = with_intensity(
        {"parameters": values[:, 0] * 100, "macs": values[:, 1] ** 2, "activations": values[:, 2]}
    )
    outcomes = noisy(linear(values), 0.1)
    one_hot = [values[:, 5] == 1, values[:, 5] == 2]
    for form, columns in [("linear", [*values[:, :4].T, *one_hot]), ("computed", list(features.values()))]:
        model = fit(values, outcomes, features, forms=[form])
        inputs = np.array(columns, dtype=float).T
        expected = LinearRegression().fit(inputs, outcomes, sample_weight=1 / outcomes**2)
        np.testing.assert_allclose(list(model.weights.values()), expected.coef_, rtol=1e-6)
        assert model.intercept == pytest.approx(expected.intercept_, rel=1e-6)
        np.testing.assert_allclose(model.predict(SPACE, values, features), expected.predict(inputs), rtol=1e-9)
    assert list(fit(values, outcomes, forms=["linear"]).weights)[4:] == ["kind=tanh", "kind=elu"]


def test_it_is_relative_errors_that_are_least() -> None:
    values = drawn(50)
    outcomes = noisy(values[:, 0] ** 2 + 0.0, 0.3)
    model = fit(values, outcomes, forms=["linear"])
    inputs = np.column_stack([np.ones(50), values[:, :4], values[:, 5] == 1, values[:, 5] == 2])
    plain = inputs @ np.linalg.lstsq(inputs, outcomes, rcond=None)[0]
    ours = model.predict(SPACE, values)
    assert np.mean((ours / outcomes - 1) ** 2) < 0.8 * np.mean((plain / outcomes - 1) ** 2)
    assert np.mean((ours - outcomes) ** 2) > np.mean((plain - outcomes) ** 2)
    shifted = ours * 1.001
    assert np.mean((ours / outcomes - 1) ** 2) <= np.mean((shifted / outcomes - 1) ** 2)


# --- cross-validation


def test_the_score_is_that_of_folds_by_brute_force() -> None:
    values = np.repeat(drawn(23), 2, axis=0)
    outcomes = noisy(linear(values), 0.1)
    model = fit(values, outcomes, forms=["paper"], repeats=3, folds=5)
    rng = np.random.default_rng(2)
    names = {row.tobytes(): None for row in values[:, [0, 1, 2, 3, 5]]}
    ranked = sorted(names, key=lambda name: np.frombuffer(name).tolist())
    squares: list[float] = []
    constants: list[float] = []
    by_fold: list[float] = []
    ratios: list[float] = []
    for repeat in range(3):
        place = rng.permutation(23)
        fold = np.array([place[ranked.index(row.tobytes())] % 5 for row in values[:, [0, 1, 2, 3, 5]]])
        for number in range(5):
            train, test = fold != number, fold == number
            z, y = values[train, :4], outcomes[train]
            weights = np.linalg.lstsq(z / y[:, None], np.ones(len(y)), rcond=None)[0]
            constant = np.sum(1 / y) / np.sum(1 / y**2)
            predicted = values[test, :4] @ weights
            by_fold.append(np.sqrt(np.mean((predicted / outcomes[test] - 1) ** 2)))
            squares.extend((predicted / outcomes[test] - 1) ** 2)
            constants.extend((constant / outcomes[test] - 1) ** 2)
            ratios.extend(outcomes[test] / predicted if repeat == 0 else [])
    found = validation(model)
    assert found.score.rmspe == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-9)
    assert found.score.spread == pytest.approx(np.std(by_fold), rel=1e-9)
    assert found.constant == pytest.approx(np.sqrt(np.mean(constants)), rel=1e-9)
    np.testing.assert_allclose(np.array(found.ratios), sorted(ratios), rtol=1e-9)
    assert (found.samples, found.structures, found.folds, found.repeats) == (46, 23, 5, 3)


@pytest.mark.parametrize("form", FORMS)
def test_repeats_of_a_structure_are_never_on_both_sides(form: str) -> None:
    """Each structure has an outcome of its own, from no pattern: who saw a repeat of it would know it."""
    values = np.repeat(drawn(40), 6, axis=0)
    values[:, 4] = np.linspace(0.1, 1, len(values))  # not structural
    outcomes = np.repeat(noisy(np.full(40, 50.0), 0.3), 6)
    label = np.repeat(np.random.default_rng(5).random(40), 6)
    model = fit(values, outcomes, {f"label_{power}": label**power for power in range(1, 5)}, forms=[form], repeats=2)
    assert validation(model).score.rmspe > 0.8 * validation(model).constant
    assert validation(model).structures == 40


def test_no_fold_trains_on_a_structure_that_it_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.repeat(drawn(30), 3, axis=0)
    seen: list[tuple[set[int], set[int]]] = []
    folds = regression.folds_of

    def watched(order: Any, count: int) -> Any:
        for test in folds(order, count):
            seen.append((set(order[test].tolist()), set(order[~test].tolist())))
            yield test

    for module in (fitting, regression):
        monkeypatch.setattr(module, "folds_of", watched)
    fit(values, noisy(linear(values), 0.1), forms=["polynomial"], repeats=1)
    assert len(seen) > 60  # outer and inner ones
    assert all(not tested & trained for tested, trained in seen)


def test_noise_alone_is_predicted_no_better_than_by_the_constant() -> None:
    values = drawn(60)
    model = fit(values, noisy(np.full(60, 100.0), 0.1), repeats=2)
    for form in FORMS:
        if form != "computed":
            assert rmspe(model, form) > 0.95 * validation(model).constant


def test_the_same_generator_gives_the_same_model() -> None:
    values = drawn(60)
    outcomes = noisy(log_quadratic(values), 0.1)
    assert fit(values, outcomes, repeats=1) == fit(values, outcomes, repeats=1)


@pytest.mark.parametrize("form", ["paper", "linear", "log-quadratic", "polynomial"])
def test_the_unit_of_the_outcomes_does_not_matter(form: str) -> None:
    values = drawn(60)
    outcomes = noisy(linear(values), 0.1)
    watts, bytes_ = (fit(values, outcomes * unit, forms=[form], repeats=1) for unit in (1.0, 1e9))
    assert rmspe(watts, form) == pytest.approx(rmspe(bytes_, form), rel=1e-6)
    np.testing.assert_allclose(bytes_.predict(SPACE, values), 1e9 * watts.predict(SPACE, values), rtol=1e-6)


# --- the choice of a form


def test_a_linear_truth_gives_a_linear_model() -> None:
    values = drawn(100)
    model = fit(values, noisy(linear(values), 0.03), repeats=3)
    assert model.form == "linear"
    assert rmspe(model, "linear") == pytest.approx(0.03, rel=0.25)
    assert rmspe(model, "linear") < 1.02 * min(rmspe(model, form) for form in ("polynomial", "log-quadratic"))
    assert model.weights["a"] == pytest.approx(0.5, abs=0.05)
    assert model.weights["kind=tanh"] == pytest.approx(10, abs=3)
    assert validation(model).by_form["computed"] == "there are no computed features"


def test_a_truth_of_the_paper_gives_the_form_of_the_paper() -> None:
    values = drawn(100)
    model = fit(values, noisy(values[:, :4] @ [1.0, 0.5, 0.1, 2.0], 0.03))
    assert model.form == "paper"
    np.testing.assert_allclose(list(model.weights.values()), [1.0, 0.5, 0.1, 2.0], atol=0.05)


def test_a_logarithmic_truth_gives_a_logarithmic_model() -> None:
    values = drawn(150)
    model = fit(values, noisy(log_quadratic(values), 0.05), repeats=3)
    assert model.form == "log-quadratic"
    assert rmspe(model, "log-quadratic") < 0.08 < 0.3 < rmspe(model, "linear")
    fresh = drawn(500, seed=9)
    errors = model.predict(SPACE, fresh) / log_quadratic(fresh) - 1
    assert np.sqrt(np.mean(errors**2)) < 0.06


def test_products_are_found_by_the_polynomial() -> None:
    values = drawn(120)
    model = fit(values, noisy(30 + 0.02 * values[:, 0] * values[:, 1] + 3 * np.log(values[:, 2]), 0.02), repeats=3)
    assert model.form == "polynomial"
    assert "a * b" in model.weights
    assert rmspe(model, "polynomial") < 0.03


def test_computed_features_are_used_where_they_say_more() -> None:
    values = drawn(80)
    macs = values[:, 0] * values[:, 1] * values[:, 2]
    model = fit(values, noisy(1e6 + 40.0 * macs, 0.02), {"macs": macs, "unused": values[:, 3]}, forms=FORMS[:3])
    assert model.form == "computed"
    assert model.weights["macs"] == pytest.approx(40, rel=0.02)
    assert rmspe(model, "computed") < 0.025 < 0.1 < rmspe(model, "linear")
    assert model.features == ("macs", "unused")
    assert model.ranges["macs"] == (macs.min(), macs.max())
    assert model.ranges["kind=relu"] == (0, 1)
    assert "rate" not in model.ranges


def test_a_fitted_model_comes_back_from_its_json() -> None:
    values = drawn(60)
    for form in FORMS[:2] + FORMS[3:]:
        model = fit(values, noisy(linear(values), 0.05), forms=[form], repeats=1)
        written = json.loads(json.dumps(HardwareModels(SPACE, {"power_w": model}).to_json(), allow_nan=False))
        assert from_json(written, SPACE, {}, "models.json").models == {"power_w": model}
        assert not model.extrapolates(SPACE, values).any()


def test_out_of_fold_ratios_give_margins_that_hold() -> None:
    """Over seeds, fresh structures lie within the margin about as often as asked; nominal is 0.9."""
    held = []
    for seed in range(40):
        values = drawn(60, seed)
        model = fit(values, noisy(linear(values), 0.1, seed + 100), forms=["linear"], repeats=1)
        fresh = drawn(400, seed + 200)
        q = model.margin(0.9)
        held.append(np.mean(noisy(linear(fresh), 0.1, seed + 300) <= q * model.predict(SPACE, fresh)))
    assert np.mean(held) == pytest.approx(0.9, abs=0.025)


def test_predictions_that_are_not_positive_have_no_ratio() -> None:
    space = Space((Variable("n", "INT", 1, 100),))
    values = np.arange(1.0, 13)[:, np.newaxis]
    model = fit(
        values, values[:, 0] ** 3, space=space, forms=["linear"], repeats=1, folds=12
    )  # at 1, the line is below 0
    assert validation(model).ratios[-1] == math.inf
    assert "null" in json.dumps(model.to_json())


# --- what cannot be fitted, and what is degenerate


@pytest.mark.parametrize(
    ("outcome", "part"), [(0.0, "0.0"), (-1.0, "-1.0"), (math.nan, "nan"), (math.inf, "inf")], ids=str
)
def test_outcomes_must_be_positive_numbers(outcome: float, part: str) -> None:
    outcomes = np.full(30, 50.0)
    outcomes[7] = outcome
    with pytest.raises(ModelsError, match=f"^profile: a sample measured {part}, but models need positive numbers"):
        fit(drawn(30), outcomes, where="profile")


def test_one_structure_is_not_enough() -> None:
    values = np.repeat(drawn(1), 30, axis=0)
    values[:, 4] = np.linspace(0.1, 1, 30)
    with pytest.raises(ModelsError, match="all 30 samples have the same structure; profile different ones"):
        fit(values, noisy(np.full(30, 50.0), 0.1))
    with pytest.raises(ModelsError, match="no samples"):
        fit(values[:0], np.zeros(0))


def test_without_structural_variables_there_is_one_structure() -> None:
    space = Space((Variable("rate", "FLOAT", 0.1, 1.0, structural=False),))
    with pytest.raises(ModelsError, match="same structure"):
        fit(drawn(9, space=space), np.full(9, 5.0), space=space)


@pytest.mark.parametrize("count", [2, 3, 5, 8, 11, 12])
def test_forms_with_more_weights_than_structures_are_left_out(count: int) -> None:
    values = drawn(count)
    outcomes = noisy(linear(values), 0.05)
    if count - 1 < 4:
        with pytest.raises(ModelsError, match=r"no hardware model can be fitted to \d structures \(paper: it needs 4"):
            fit(values, outcomes)
        return
    model = fit(values, outcomes)
    left_out = {form for form, score in validation(model).by_form.items() if isinstance(score, str)}
    assert ("linear" in left_out) == (count - 1 < 7)
    assert ("polynomial" in left_out) == (count - 2 < 10 if count > 10 else True)
    assert validation(model).folds == min(count, 10)
    assert np.isfinite(model.predict(SPACE, values)).all()


def test_a_form_that_is_named_and_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ModelsError, match=r"computed: there are no computed features"):
        fit(drawn(30), np.full(30, 50.0), forms=["computed"])
    texts = Space((Variable("kind", "ENUM", options=("relu", "tanh")),))
    with pytest.raises(ModelsError, match=r"paper: there are no numeric structural variables"):
        fit(drawn(30, space=texts), np.full(30, 50.0), space=texts, forms=["paper"])


def test_texts_alone_are_fitted() -> None:
    texts = Space((Variable("kind", "ENUM", options=("relu", "tanh", "elu"), size=2),))
    values = drawn(60, space=texts)
    model = fit(values, noisy(50 + 10 * (values[:, 0] == 2), 0.01), space=texts)
    assert model.weights["kind[0]=elu"] == pytest.approx(10, abs=1)


def test_an_option_that_looks_like_a_product_is_refused() -> None:
    space = Space((Variable("kind", "ENUM", options=("a * b", "c")),))
    with pytest.raises(ModelsError, match=r'the option "kind=a \* b"'):
        fit(drawn(30, space=space), np.full(30, 50.0), space=space)


def test_constant_outcomes_are_predicted_exactly() -> None:
    values = drawn(40)
    model = fit(values, np.full(40, 50.0))
    np.testing.assert_allclose(model.predict(SPACE, values), 50, rtol=1e-9)
    assert validation(model).constant == pytest.approx(0, abs=1e-12)
    for form in ("polynomial", "log-quadratic"):
        alone = fit(values, np.full(40, 50.0), forms=[form])
        assert alone.weights == {}
        np.testing.assert_allclose(alone.predict(SPACE, values), 50, rtol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_collinear_and_constant_columns_do_no_harm(form: str) -> None:
    values = drawn(60)
    values[:, 1], values[:, 2], values[:, 5] = values[:, 0], 50, 0
    features = {"twice": 2 * values[:, 0], "same": np.full(60, 7.0), "nothing": np.zeros(60), "d": values[:, 3] * 1e12}
    features = {f"f_{name}": column for name, column in features.items()}
    outcomes = noisy(20 + values[:, 0] + 0.5 * values[:, 3], 0.02)
    model = fit(values, outcomes, features, forms=[form], repeats=1)
    assert validation(model).score.rmspe < (0.15 if form == "paper" else 0.04)
    predicted = model.predict(SPACE, values, features)
    assert np.abs(predicted / outcomes - 1).max() < (0.6 if form == "paper" else 0.1)


def test_a_number_that_may_be_0_has_no_logarithm() -> None:
    space = Space((Variable("n", "INT", 0, 50), Variable("m", "INT", 1, 50), Variable("e", "ENUM", options=(0, 4))))
    values = np.maximum(drawn(80, space=space), 1)
    model = fit(values, noisy(5 + values[:, 0] + values[:, 1], 0.01), {"f": values[:, 0] - 1}, space=space,
                forms=["log-quadratic"], repeats=1)  # fmt: skip
    assert not any("log(n)" in term or "log(e)" in term or "log(f)" in term for term in model.weights)
    assert any("log(m)" in term for term in model.weights)


def test_many_variables_leave_the_columns_that_matter() -> None:
    space = Space(tuple(Variable(f"v{place}", "INT", 1, 100) for place in range(30)))
    values = drawn(120, space=space)
    model = fit(values, noisy(50 + 0.01 * values[:, 3] * values[:, 17], 0.01), space=space,
                forms=["polynomial"], repeats=1)  # fmt: skip
    assert validation(model).score.rmspe < 0.03
    assert "v3 * v17" in model.weights

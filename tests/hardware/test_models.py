"""Hardware models from files: the predictions of Eq. 1-2 and of richer forms, margins, and files that do not fit."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpower_runner.errors import ModelsError
from hyperpower_runner.hardware.features import Features, load_features
from hyperpower_runner.hardware.models import (
    FORMS,
    HardwareModels,
    LinearModel,
    from_json,
)
from hyperpower_runner.hardware.validation import Score, Validation
from hyperpower_runner.space import Space, Variable

SPACE = Space(
    (
        Variable("conv_features", "INT", 20, 80, size=2),
        Variable("learning_rate", "FLOAT", 0.001, 0.1, structural=False),
        Variable("fc_units", "INT", 200, 700),
        Variable("batch", "ENUM", options=(16, 64, 32)),
        Variable("kind", "ENUM", options=("relu", "tanh")),
        Variable("width", "FLOAT", 0.5, 2.0),
    )
)
FILE = """
{"schema": 1,
 "platform": {"meter": "nvml", "batch-size": 128},
 "models": {"power_w": {"form": "paper",
                        "weights": {"conv_features[0]": 0.25, "conv_features[1]": 0.5, "fc_units": 0.0625,
                                    "batch": 0.125}},
            "memory_bytes": {"form": "linear", "weights": {"fc_units": 1.5e6, "width": -2e6}, "intercept": 3e8}}}
"""


def read(content: dict[str, Any] | str, platform: dict[str, Any] | None = None) -> HardwareModels:
    loaded = json.loads(content) if isinstance(content, str) else content
    return from_json(loaded, SPACE, platform or {}, "hardware/models.json")


def one_model(**model: Any) -> dict[str, Any]:
    return {"models": {"power_w": {"form": "paper", "weights": {"fc_units": 1.0}, **model}}}


def test_the_form_of_the_paper_is_a_dot_product_with_the_structural_variables() -> None:
    values = SPACE.sample(np.random.default_rng(0), 200)
    params = [SPACE.to_params(point) for point in values]
    z = np.array([[*p["conv_features"], p["fc_units"], p["batch"]] for p in params])
    predicted = read(FILE).predict(values)["power_w"]
    assert predicted.shape == (200,)
    np.testing.assert_allclose(predicted, z @ [0.25, 0.5, 0.0625, 0.125], rtol=1e-14)


def test_the_linear_form_adds_an_intercept() -> None:
    values = SPACE.sample(np.random.default_rng(0), 200)
    expected = [3e8 + 1.5e6 * p["fc_units"] - 2e6 * p["width"] for p in map(SPACE.to_params, values)]
    np.testing.assert_allclose(read(FILE).predict(values)["memory_bytes"], expected, rtol=1e-14)


def test_a_linear_model_without_an_intercept_is_the_one_of_the_paper() -> None:
    values = SPACE.sample(np.random.default_rng(0), 20)
    paper, linear = (read(one_model(form=form)).predict(values)["power_w"] for form in ("paper", "linear"))
    np.testing.assert_array_equal(paper, linear)


def test_no_models_predict_nothing_and_exclude_nothing() -> None:
    models = HardwareModels(SPACE)
    values = SPACE.sample(np.random.default_rng(0), 3)
    assert models.predict(values) == {}
    assert np.all(models.within(models.predict(values), {"power_w": 1.0}))


def test_no_points_have_no_predictions() -> None:
    assert read(FILE).predict(np.zeros((0, SPACE.dimensions)))["power_w"].shape == (0,)


def test_a_point_is_within_when_every_constrained_metric_with_a_model_is() -> None:
    models = read(FILE)
    predictions = {"power_w": np.array([80.0, 85.0, 86.0, 80.0]), "memory_bytes": np.array([1.0, 2.0, 1.0, 3.0])}
    both = {"power_w": 85.0, "memory_bytes": 2.0, "error": 0.1}
    assert np.broadcast_to(models.within(predictions, both), 4).tolist() == [True, True, False, False]
    assert np.broadcast_to(models.within(predictions, {"power_w": 85.0}), 4).tolist() == [True, True, False, True]
    assert np.broadcast_to(models.within(predictions, {"error": 0.1}), 4).tolist() == [True] * 4


def test_a_prediction_that_is_not_a_number_is_not_within() -> None:
    within = read(FILE).within({"power_w": np.array([math.nan, math.inf, -1.0])}, {"power_w": 85.0})
    assert np.broadcast_to(within, 3).tolist() == [False, False, True]


def test_the_platform_of_the_file_is_kept() -> None:
    assert read(FILE).platform == {"meter": "nvml", "batch-size": 128}


@pytest.mark.parametrize("platform", [{}, {"meter": "nvml"}, {"meter": "nvml", "batch-size": 128, "device": 1}])
def test_models_of_the_same_platform_are_accepted(platform: dict[str, Any]) -> None:
    assert read(FILE, platform).models.keys() == {"power_w", "memory_bytes"}


@pytest.mark.parametrize("platform", [{"meter": "rapl"}, {"meter": "nvml", "batch-size": 64}])
def test_models_of_another_platform_are_refused(platform: dict[str, Any]) -> None:
    with pytest.raises(ModelsError) as caught:
        read(FILE, platform)
    key, value = list(platform.items())[-1]
    for part in (key, repr(value), "profile and fit"):
        assert part in str(caught.value)


REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no models": ({}, ['"models" is missing']),
    "models as a list": ({"models": []}, ['"models" is missing']),
    "a platform as a text": ({"models": {}, "platform": "nvml"}, ["platform", "'nvml'"]),
    "a model as a number": ({"models": {"power_w": 3}}, ["power_w", '"form" and "weights"']),
    "a model without weights": ({"models": {"power_w": {"form": "paper"}}}, ["power_w", '"weights"']),
    "weights as a list": (one_model(weights=[1.0]), ["power_w", '"weights"']),
    "an unknown form": (one_model(form="quadratic"), ["power_w", "'quadratic'", "paper, linear"]),
    "no form": (one_model(form=None), ["form is None", "paper, linear"]),
    "a form that is a list": (one_model(form=["paper"]), ["form is ['paper']"]),
    "an unknown variable": (one_model(weights={"fc_unit": 1.0}), ['"fc_unit"', 'did you mean "fc_units"?']),
    "a variable with a size as a whole": (
        one_model(weights={"conv_features": 1.0}),
        ['"conv_features"', 'did you mean "conv_features['],
    ),
    "an element beyond the last": (
        one_model(weights={"conv_features[2]": 1.0}),
        ['"conv_features[2]"', "did you mean"],
    ),
    "a variable that is not structural": (one_model(weights={"learning_rate": 1.0}), ['"learning_rate"', "structural"]),
    "a variable of texts": (one_model(weights={"kind": 1.0}), ['"kind"', "numeric"]),
    "a weight of nan": (one_model(weights={"fc_units": math.nan}), ["fc_units", "nan", "finite"]),
    "an infinite weight": (one_model(weights={"fc_units": math.inf}), ["fc_units", "inf", "finite"]),
    "a weight beyond a float": (one_model(weights={"fc_units": 10**400}), ["fc_units", "finite"]),
    "a weight as a text": (one_model(weights={"fc_units": "1"}), ["fc_units", "'1'", "finite"]),
    "a weight as a boolean": (one_model(weights={"fc_units": True}), ["fc_units", "True", "finite"]),
    "a weight of nothing": (one_model(weights={"fc_units": None}), ["fc_units", "None", "finite"]),
    "an intercept in the form of the paper": (one_model(intercept=3.0), ['"paper"', "3.0", '"linear"']),
    "an intercept of nan": (one_model(form="linear", intercept=math.nan), ["intercept", "nan", "finite"]),
}


@pytest.mark.parametrize(("content", "parts"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_that_does_not_fit_is_refused_in_one_sentence(content: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ModelsError) as caught:
        read(content)
    message = str(caught.value)
    assert message.startswith("hardware/models.json: ")
    assert message.isprintable()
    assert len(message) < 300
    for part in parts:
        assert part in message


def test_an_intercept_of_zero_is_none() -> None:
    assert read(one_model(intercept=0)).predict(np.array([SPACE.sample(np.random.default_rng(0), 1)[0]]))


# --- terms, features, ranges and margins

HOOK = """
def features(params):
    return {"macs": params["fc_units"] * params["conv_features"][0], "parameters": params["fc_units"] + 1,
            "activations": params["conv_features"][1]}
"""


@pytest.fixture
def hook(tmp_path: Path) -> Features:
    script = tmp_path / "train.py"
    script.write_text(HOOK)
    loaded = load_features(script)
    assert loaded is not None
    return loaded


def test_each_kind_of_term_is_what_it_says(hook: Features) -> None:
    weights = {
        "fc_units": 2.0,
        "kind=tanh": 30.0,
        "conv_features[0] * width": 0.5,
        "fc_units^2": 1e-3,
        "log(fc_units)^2 * width^-0.5": 0.1,
        "log(macs) * batch": 0.25,
        "intensity": 3.0,
    }
    content = one_model(form="polynomial", weights=weights, intercept=7, features=["macs", "intensity"])
    values = SPACE.sample(np.random.default_rng(0), 100)
    predicted = from_json(content, SPACE, {}, "models.json", hook).predict(values)["power_w"]
    for value, params in zip(predicted, map(SPACE.to_params, values), strict=True):
        fc, width, conv = params["fc_units"], params["width"], params["conv_features"]
        terms = [
            2 * fc,
            30.0 * (params["kind"] == "tanh"),
            0.5 * conv[0] * width,
            1e-3 * fc**2,
            0.1 * math.log(fc) ** 2 * width**-0.5,
            0.25 * math.log(fc * conv[0]) * params["batch"],
            3 * fc * conv[0] / (fc + 1 + conv[1]),
        ]
        assert value == pytest.approx(7 + sum(terms), rel=1e-12)


def test_the_logarithmic_form_is_the_exponential_of_its_sum() -> None:
    models = read(one_model(form="log-quadratic", weights={"log(fc_units)": 0.5, "kind=relu": 1.0}, intercept=2.0))
    values = SPACE.sample(np.random.default_rng(0), 50)
    expected = [math.exp(2 + (p["kind"] == "relu")) * p["fc_units"] ** 0.5 for p in map(SPACE.to_params, values)]
    np.testing.assert_allclose(models.predict(values)["power_w"], expected, rtol=1e-12)


def test_what_no_number_comes_out_of_is_within_no_budget() -> None:
    space = Space((Variable("n", "INT", 0, 9),))
    values = np.array([[0.0], [1.0]])
    for weights in ({"log(n)": 1.0}, {"n^-1": 1.0}, {"log(n)": -1.0}):
        models = HardwareModels(space, {"power_w": LinearModel(weights, 0.0, "log-quadratic")})
        assert np.broadcast_to(models.within(models.predict(values), {"power_w": 1e9}), 2).tolist() == [False, True]


def test_features_are_computed_once_for_all_models(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("calls = []\ndef features(params):\n    calls.append(1)\n    return {'calls': len(calls)}\n")
    model = LinearModel({"calls": 1.0}, 0.0, "computed", ("calls",))
    models = HardwareModels(SPACE, {"power_w": model, "memory_bytes": model}, {}, load_features(script))
    values = SPACE.sample(np.random.default_rng(0), 1)
    assert models.predict(values) == {"power_w": [1.0], "memory_bytes": [1.0]}
    assert models.predict(values[:0])["power_w"].shape == (0,)


def test_models_of_features_need_a_hook_that_gives_them(hook: Features) -> None:
    content = one_model(form="computed", weights={"mac": 1.0}, features=["mac"])
    with pytest.raises(ModelsError, match=r"^hardware/models.json: power_w: needs computed features \(mac\)"):
        read(content)
    models = from_json(content, SPACE, {}, "models.json", hook)
    with pytest.raises(ModelsError, match=r'train.py: features\(params\) gives no "mac".*did you mean "macs"'):
        models.predict(SPACE.sample(np.random.default_rng(0), 3))


def test_points_clearly_outside_the_training_ranges_are_extrapolated(hook: Features) -> None:
    ranges = {"fc_units": [300, 500], "kind=relu": [1, 1], "kind=tanh": [0, 0], "parameters": [0, 401]}
    content = one_model(form="computed", weights={"parameters": 1.0}, features=["parameters"], ranges=ranges)
    content["models"]["memory_bytes"] = {"form": "paper", "weights": {}}
    values = SPACE.sample(np.random.default_rng(0), 500)
    found = from_json(content, SPACE, {}, "models.json", hook).extrapolates(values)
    inside = [290 <= p["fc_units"] <= 420 and p["kind"] == "relu" for p in map(SPACE.to_params, values)]
    assert found["power_w"].tolist() == [not each for each in inside]
    assert sum(inside) > 10
    assert not found["memory_bytes"].any()


def validated(*ratios: float) -> LinearModel:
    validation = Validation(Score(0.1, 0.01), 0.2, len(ratios), len(ratios), 10, 5, ratios=tuple(sorted(ratios)))
    return LinearModel({"fc_units": 1.0}, validation=validation)


@pytest.mark.parametrize(
    ("count", "confidence", "rank"), [(9, 0.9, 9), (10, 0.9, 10), (19, 0.9, 18), (99, 0.95, 95), (3, 0.5, 2)]
)
def test_the_margin_is_an_order_statistic(count: int, confidence: float, rank: int) -> None:
    assert validated(*(1 + 0.01 * place for place in range(1, count + 1))).margin(confidence) == 1 + 0.01 * rank


@pytest.mark.parametrize(("count", "confidence", "needed"), [(8, 0.9, 9), (0, 0.9, 9), (18, 0.95, 19), (98, 0.99, 99)])
def test_a_margin_needs_enough_ratios(count: int, confidence: float, needed: int) -> None:
    with pytest.raises(ModelsError, match=f"power_w: .* needs {needed} measured samples, but the model has {count};"):
        validated(*[1.0] * count).margin(confidence, "power_w")
    assert validated(*[1.0] * needed).margin(confidence) == 1.0


def test_a_margin_of_predictions_that_are_not_positive_is_refused() -> None:
    assert validated(*[1.0] * 8, math.inf, math.inf).margin(0.5) == 1.0
    with pytest.raises(ModelsError, match="not positive"):
        validated(*[1.0] * 8, math.inf, math.inf).margin(0.9)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, math.nan])
def test_a_confidence_is_between_0_and_1(confidence: float) -> None:
    with pytest.raises(ModelsError, match="between 0 and 1"):
        validated(1.0).margin(confidence)


def test_margins_multiply_predictions() -> None:
    models = HardwareModels(SPACE, {"power_w": validated(1.0, 1.2)}, margins={"power_w": 1.2})
    assert np.asarray(models.within({"power_w": np.array([82.0, 84.0])}, {"power_w": 100.0})).tolist() == [True, False]
    assert models.margin("power_w", 0.5) == 1.2
    assert models.ratios("power_w") == (1.0, 1.2)
    assert models.largest_ratio("power_w") == 1.2
    assert models.largest_ratio("memory_bytes") == 1.0
    with pytest.raises(ModelsError, match="memory_bytes"):
        models.margin("memory_bytes", 0.5)


def test_split_conformal_margins_cover_as_often_as_asked() -> None:
    """Exchangeable ratios: the coverage of the ceil((n+1)c)-th smallest of n is Beta(k, n+1-k), of mean k / (n+1)."""
    rng = np.random.default_rng(0)
    for count, confidence in [(19, 0.9), (50, 0.8), (100, 0.95)]:
        covered = []
        for _ in range(400):
            ratios = np.exp(rng.standard_normal(count + 200))
            covered.append(np.mean(ratios[count:] <= validated(*ratios[:count]).margin(confidence)))
        expected = math.ceil((count + 1) * confidence - 1e-9) / (count + 1)
        assert np.mean(covered) == pytest.approx(expected, abs=5 * np.std(covered) / 20)
        assert expected >= confidence


def test_a_model_comes_back_from_its_json(hook: Features) -> None:
    validation = Validation(
        Score(0.1, 0.01), 0.2, 3, 3, 3, 5, {"paper": Score(0.1, 0.01), "linear": "too few"}, (0.9, 1.1, math.inf)
    )
    ranges = {"fc_units": (200.0, 700.0), "kind=relu": (0.0, 1.0), "macs": (1.0, 2.0)}
    model = LinearModel({"macs^2": 0.1, "kind=relu * width": 1 / 3}, 1.0, "polynomial", ("macs",), ranges, validation)
    models = HardwareModels(SPACE, {"power_w": model}, {"meter": "nvml"}, hook)
    written = json.loads(json.dumps(models.to_json(), allow_nan=False))
    assert from_json(written, SPACE, {}, "models.json", hook) == models


FULL: dict[str, Any] = {
    "models": {
        "power_w": {
            **{"form": "computed", "weights": {"macs": 1.0, "fc_units": 2.0}, "intercept": 1.0, "features": ["macs"]},
            "ranges": {"macs": [0, 1]},
            **{"rmspe": 0.1, "spread": 0.1, "rmspe_constant": 0.2, "samples": 2, "structures": 2, "folds": 2},
            **{"repeats": 5, "forms": {"paper": {"rmspe": 0.1, "spread": 0.1}}, "ratios": [1.0, None]},
        }
    },
    "platform": {"meter": "nvml"},
}
SPOILED: dict[str, tuple[str, Any, str]] = {
    "a range of an unknown input": ("ranges", {"nacs": [0, 1]}, "nacs"),
    "a range of one end": ("ranges", {"macs": [0]}, "two numbers"),
    "ranges as a list": ("ranges", [1], "must be an object"),
    "a text as a score": ("rmspe", "0.1", "rmspe is '0.1'"),
    "no spread": ("spread", None, "spread is None"),
    "ratios as a number": ("ratios", 1.0, '"ratios" a list'),
    "a ratio as a text": ("ratios", ["1"], "one of ratios is '1'"),
    "a form without a score": ("forms", {"paper": {}}, "forms.paper.rmspe"),
    "a form as a number": ("forms", {"paper": 0.1}, "forms.paper"),
    "features as a text": ("features", "macs", "must be a list of names"),
    "a feature that is no name": ("features", ["a * b"], "must be a list of names"),
    "a product in a form without": ("weights", {"macs * fc_units": 1.0}, '"macs * fc_units"'),
    "an unknown option": ("weights", {"kind=gelu": 1.0}, '"kind=gelu"'),
}


@pytest.mark.parametrize(("key", "value", "part"), SPOILED.values(), ids=SPOILED.keys())
def test_a_spoiled_entry_is_refused_in_one_sentence(key: str, value: Any, part: str, hook: Features) -> None:
    assert from_json(FULL, SPACE, {}, "models.json", hook).models
    spoiled = {"models": {"power_w": {**FULL["models"]["power_w"], key: value}}}
    with pytest.raises(ModelsError) as caught:
        from_json(spoiled, SPACE, {}, "models.json", hook)
    assert part in str(caught.value)
    assert str(caught.value).startswith("models.json: power_w: ")


@pytest.mark.parametrize(
    ("fitted", "wanted", "fits"),
    [
        ({"device": 0}, {"device": 0}, True),
        ({"device": 0}, {"device": 1}, True),  # two of the same name are one platform
        ({"device": 0}, {}, True),
        ({"device": None}, {"device": 1}, True),
        ({"dtype": "float16"}, {"dtype": "float32"}, False),
        ({"name": "A"}, {"name": "B"}, False),
        ({"trace": "a"}, {"trace": "b"}, True),
    ],
)
def test_platforms_are_compared_where_both_say_something(fitted: Any, wanted: Any, fits: bool) -> None:
    content = {"models": {}, "platform": fitted}
    if fits:
        assert from_json(content, SPACE, wanted, "models.json").platform == fitted
    else:
        with pytest.raises(ModelsError, match="profile and fit this platform"):
            from_json(content, SPACE, wanted, "models.json")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["macs", "fc_units", *FORMS]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from(["macs"]), inner, max_size=3)
    ),
    max_leaves=8,
)
terms = st.sampled_from(["fc_units", "macs^2", "log(fc_units) * width", "kind=relu", "fc_units^", " * ", "log()"])
entries = st.fixed_dictionaries(
    {"form": st.sampled_from(FORMS) | anything, "weights": st.dictionaries(terms | st.text(), st.floats()) | anything},
    optional={
        "intercept": st.floats() | anything,
        "features": st.just(["macs"]) | anything,
        "ranges": st.just({"macs": [0, 1]}) | anything,
        "ratios": st.lists(st.floats() | st.none(), max_size=3) | anything,
        "forms": anything,
        **dict.fromkeys(
            ("rmspe", "spread", "rmspe_constant", "samples", "structures", "folds", "repeats"),
            st.integers(0, 9) | anything,
        ),
    },
)


@given(
    content=st.dictionaries(st.text() | st.sampled_from(["models", "platform"]), anything)
    | st.fixed_dictionaries({"models": st.dictionaries(st.text(), entries | anything, max_size=2)})
)
def test_foreign_content_is_refused_in_a_sentence_or_valid(content: dict[str, Any]) -> None:
    refused = ""
    try:
        models = from_json(content, SPACE, {"meter": "nvml"}, "models.json")
    except ModelsError as error:
        models, refused = HardwareModels(SPACE), str(error)
    assert refused.isprintable()
    assert len(refused) < 500
    values = SPACE.sample(np.random.default_rng(0), 5)
    assert all(column.shape == (5,) for column in models.predict(values).values())
    models.extrapolates(values)
    if not models.platform:  # which is kept as it is
        json.dumps(models.to_json(), allow_nan=False)


def test_a_million_candidates_a_second_are_predicted() -> None:
    space = Space(tuple(Variable(name, "INT", 1, 100) for name in "abcdefghijklm"))
    model = LinearModel(dict.fromkeys("abcdefghijklm", 1.0), 3.0)
    values = space.sample(np.random.default_rng(0), 65_536)
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        model.predict(space, values)
        taken.append(time.perf_counter() - begun)
    assert len(values) / min(taken) > 1e6

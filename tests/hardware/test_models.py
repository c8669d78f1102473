"""Hardware models from hand-written files: the predictions of Eq. 1-2, and files that do not fit."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from hyperpower_runner.errors import ModelsError
from hyperpower_runner.hardware.models import HardwareModels, from_json
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

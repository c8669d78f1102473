"""Hardware models: what a configuration will draw and occupy, predicted before anything is trained (paper 3.3).

Eq. 1 and 2 predict power and memory linearly in the J structural variables z: P(z) = sum_j w_j z_j. A models file,
hardware/models.json, holds one model for each metric:

    {"schema": 1,
     "platform": {"meter": "nvml", "batch-size": 128},
     "models": {"power_w": {"form": "paper",  "weights": {"conv1_features": 0.6, "fc_units": 0.05}},
                "memory_bytes": {"form": "linear", "weights": {"fc_units": 1.5e6}, "intercept": 3e8}}}

It knows neither how the models were fitted nor where the file lies.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner.errors import ModelsError, did_you_mean, shortened
from hyperpower_runner.space import Array, Space

FORMS = ("paper", "linear")


class HardwareModel(Protocol):
    """Predicts one metric."""

    def predict(self, space: Space, values: Array) -> Array:
        """Predict n points, values of shape (n, D), in the metric's unit: shape (n,)."""
        ...


@dataclass(frozen=True)
class LinearModel:
    """sum_j weights[j] * z[j] + intercept; Eq. 1 and 2 where the intercept is 0 (form "paper")."""

    weights: Mapping[str, float]
    intercept: float = 0.0

    def predict(self, space: Space, values: Array) -> Array:
        predicted = np.full(len(values), self.intercept)
        for name, weight in self.weights.items():
            predicted += weight * space.column(values, name)
        return predicted


@dataclass(frozen=True)
class HardwareModels:
    """The models of one platform by metric; none at all is a valid set, which predicts nothing."""

    space: Space
    models: Mapping[str, HardwareModel] = field(default_factory=dict)
    platform: Mapping[str, Any] = field(default_factory=dict)

    def predict(self, values: Array) -> dict[str, Array]:
        """Predict n points, values of shape (n, D): an array of shape (n,) for each metric."""
        return {metric: model.predict(self.space, values) for metric, model in self.models.items()}

    def predict_point(self, values: Array) -> dict[str, float]:
        """Predict one point, values of shape (D,): a number for each metric."""
        return {metric: float(column[0]) for metric, column in self.predict(values[np.newaxis]).items()}

    def within(self, predictions: Mapping[str, Array], constraints: Mapping[str, float]) -> NDArray[np.bool_] | bool:
        """The indicators I[P(z) <= PB] I[M(z) <= MB] of Eq. 3, multiplied over the constrained metrics with a model."""
        met: NDArray[np.bool_] | bool = True
        for metric, bound in constraints.items():
            if metric in predictions:
                met = met & (predictions[metric] <= bound)
        return met


def from_json(content: Mapping[str, Any], space: Space, platform: Mapping[str, Any], where: str) -> HardwareModels:
    """Read the content of a models file.

    Raises ModelsError, naming `where`, for a model of other variables, of another platform, or of an unknown form.
    """
    models = content.get("models")
    if not isinstance(models, dict):
        raise ModelsError(f'{where}: "models" is missing; an object with one model for each metric is expected')
    measured_on = content.get("platform") or {}
    if not isinstance(measured_on, dict):
        raise ModelsError(f'{where}: "platform" is {measured_on!r}, but must be an object')
    for key, value in platform.items():
        if key in measured_on and measured_on[key] != value:
            raise ModelsError(
                f"{where}: these models are for a platform with {key} = {measured_on[key]!r}, but config.json has"
                f" {value!r}; profile and fit this platform"
            )
    return HardwareModels(
        space, {metric: _model(model, space, f"{where}: {metric}") for metric, model in models.items()}, measured_on
    )


def _model(content: Any, space: Space, where: str) -> LinearModel:
    if not isinstance(content, dict) or not isinstance(content.get("weights"), dict):
        raise ModelsError(f'{where}: must be an object with "form" and "weights"')
    form = content.get("form")
    if form not in FORMS:
        raise ModelsError(f"{where}: form is {form!r}, but this version knows {', '.join(FORMS)}")
    structural = [
        name for variable in space.variables if variable.structural and variable.is_numeric
        for name in variable.element_names
    ]  # fmt: skip
    for name, weight in content["weights"].items():
        if name not in structural:
            raise ModelsError(
                f'{where}: weights name "{name}", which is not a numeric structural variable of config.json'
                f"{did_you_mean(name, structural)}"
            )
        _finite(weight, f"{where}: the weight of {name}")
    intercept = content.get("intercept", 0.0)
    _finite(intercept, f"{where}: intercept")
    if form == "paper" and intercept != 0:
        raise ModelsError(f'{where}: form "paper" (Eq. 1-2) has no intercept, found {intercept!r}; use form "linear"')
    return LinearModel({name: float(weight) for name, weight in content["weights"].items()}, float(intercept))


def _finite(value: Any, where: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        raise ModelsError(f"{where} is {shortened(repr(value))}, but must be a finite number")

"""Hardware models: what a configuration will draw and occupy, predicted before anything is trained (paper 3.3).

Eq. 1 and 2 predict power and memory linearly in the J structural variables z: P(z) = sum_j w_j z_j. Every model here is
linear in *terms* (`terms`): variables, computed features, their powers, logarithms and products. A models file,
hardware/models.json, holds one model for each metric:

    {"schema": 1,
     "platform": {"meter": "nvml", "batch-size": 128},
     "models": {"power_w": {"form": "paper",  "weights": {"conv1_features": 0.6, "fc_units": 0.05}},
                "memory_bytes": {"form": "computed", "features": ["parameters"], "weights": {"parameters": 4.1},
                                 "intercept": 3e8, "ranges": {"parameters": [2e5, 3e7]}, "rmspe": 0.04, ...}}}

The prediction is intercept + sum of weight * term, and exp of that in the form "log-quadratic". It knows neither how
the models were fitted (`fitting`) nor where the file lies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner.errors import ModelsError, did_you_mean, shortened
from hyperpower_runner.hardware import validation
from hyperpower_runner.hardware.features import NAME, Features
from hyperpower_runner.hardware.margins import needed, quantile
from hyperpower_runner.hardware.platforms import IDENTITY
from hyperpower_runner.hardware.terms import (
    Factor,
    factors_of,
    indicator_inputs,
    input_column,
    numeric_inputs,
    term_column,
)
from hyperpower_runner.hardware.validation import Validation, finite
from hyperpower_runner.space import Array, Space

# From the simplest on: Eq. 1-2; with an intercept and texts; in computed features; the last two in products of all.
FORMS = ("paper", "linear", "computed", "log-quadratic", "polynomial")
SLACK = 0.05  # of the width of a training range
NOTHING: Mapping[str, Array] = {}


class HardwareModel(Protocol):
    """Predicts one metric."""

    def predict(self, space: Space, values: Array) -> Array:
        """Predict n points, values of shape (n, D), in the metric's unit: shape (n,)."""
        ...


@dataclass(frozen=True)
class LinearModel:
    """intercept + sum of weight * term; exp of it where the form is "log-quadratic". Eq. 1-2 where there is no more.

    weights: by term. features: the computed features that the terms name. ranges: lowest and highest value of each
    input where the model was fitted. validation: None for a model that somebody wrote by hand.
    """

    weights: Mapping[str, float]
    intercept: float = 0.0
    form: str = "linear"
    features: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    validation: Validation | None = None

    @cached_property
    def terms(self) -> list[tuple[tuple[Factor, ...], float]]:
        """The factors of each term, and its weight."""
        return [(factors_of(term), weight) for term, weight in self.weights.items()]

    def predict(self, space: Space, values: Array, features: Mapping[str, Array] = NOTHING) -> Array:
        """Predict n points, values of shape (n, D) and computed features of shape (n,): shape (n,).

        What no number comes out of is nan or infinite, which is within no budget.
        """
        columns: dict[Factor, Array] = {}

        def column(factor: Factor) -> Array:
            if factor not in columns:
                columns[factor] = factor.of(input_column(space, values, features, factor.name))
            return columns[factor]

        predicted = np.full(len(values), self.intercept)
        with np.errstate(all="ignore"):
            for term, weight in self.terms:
                predicted += weight * term_column(term, column)
            return np.exp(predicted) if self.form == "log-quadratic" else predicted

    def extrapolates(self, space: Space, values: Array, features: Mapping[str, Array] = NOTHING) -> NDArray[np.bool_]:
        """Which of n points have an input outside the range in which the model was fitted: booleans of shape (n,).

        Random structures seldom reach the very ends of a variable, so a step of `SLACK` beyond a range is none.
        """
        outside = np.zeros(len(values), dtype=bool)
        for name, (low, high) in self.ranges.items():
            column, slack = input_column(space, values, features, name), SLACK * (high - low) + 1e-9 * abs(high)
            outside |= ~((column >= low - slack) & (column <= high + slack))
        return outside

    @property
    def ratios(self) -> tuple[float, ...]:
        """Measured / predicted of the samples while they were left out, ascending; none where nothing is known."""
        return self.validation.ratios if self.validation else ()

    def margin(self, confidence: float, where: str = "this model") -> float:
        """The factor q with which a structure like the profiled ones measures at most q * prediction so often.

        That is the ceil((n + 1) * confidence)-th smallest of the n out-of-fold ratios (see `margins`). Raises
        ModelsError, naming `where`, where they are too few for it.
        """
        if not 0 < confidence < 1:
            raise ModelsError(f"{where}: a margin needs a confidence between 0 and 1, found {confidence!r}")
        if len(self.ratios) < needed(confidence):
            raise ModelsError(
                f"{where}: a margin of confidence {confidence:g} needs {needed(confidence)} measured samples, but the"
                f" model has {len(self.ratios)}; profile more and fit again, or ask for less"
            )
        margin = quantile(self.ratios, confidence)
        if not math.isfinite(margin):
            raise ModelsError(
                f"{where}: no factor gives confidence {confidence:g}, as too many predictions are not positive; fit"
                ' again with form "log-quadratic"'
            )
        return margin

    def to_json(self) -> dict[str, Any]:
        """The model as it stands in models.json."""
        content: dict[str, Any] = {"form": self.form, "weights": dict(self.weights), "intercept": self.intercept}
        content |= {"features": list(self.features)} if self.features else {}
        content |= {"ranges": {name: list(ends) for name, ends in self.ranges.items()}} if self.ranges else {}
        return content | (self.validation.to_json() if self.validation else {})


@dataclass(frozen=True)
class HardwareModels:
    """The models of one platform by metric; none at all is a valid set, which predicts nothing.

    features: computes what models of networks need beside the variables; None where no model needs that.
    margins: by metric, the factor that a prediction is multiplied with before it is held against a budget.
    """

    space: Space
    models: Mapping[str, HardwareModel] = field(default_factory=dict)
    platform: Mapping[str, Any] = field(default_factory=dict)
    features: Features | None = None
    margins: Mapping[str, float] = field(default_factory=dict)

    def predict(self, values: Array) -> dict[str, Array]:
        """Predict n points, values of shape (n, D): an array of shape (n,) for each metric."""
        features = self._computed(values)
        return {
            metric: model.predict(self.space, values, features)
            if isinstance(model, LinearModel)
            else model.predict(self.space, values)
            for metric, model in self.models.items()
        }

    def predict_point(self, values: Array) -> dict[str, float]:
        """Predict one point, values of shape (D,): a number for each metric."""
        return {metric: float(column[0]) for metric, column in self.predict(values[np.newaxis]).items()}

    def extrapolates(self, values: Array) -> dict[str, NDArray[np.bool_]]:
        """Which of n points, values of shape (n, D), lie outside what a model was fitted to: booleans by metric."""
        features = self._computed(values)
        return {
            metric: model.extrapolates(self.space, values, features)
            for metric, model in self.models.items()
            if isinstance(model, LinearModel)
        }

    def form(self, metric: str) -> str:
        """The form of a model; "" for one that is none of `FORMS`."""
        model = self.models.get(metric)
        return model.form if isinstance(model, LinearModel) else ""

    def describe(self, metric: str) -> str:
        """A model in one clause: its form, and its error in cross-validation."""
        model = self.models.get(metric)
        if not isinstance(model, LinearModel) or model.validation is None:
            return f"form {self.form(metric)}, of unknown error"
        return f"form {model.form}, RMSPE {100 * model.validation.score.rmspe:.2g} %"

    def ratios(self, metric: str) -> tuple[float, ...]:
        """Measured / predicted of the samples of a model while they were left out, ascending; empty if unknown."""
        model = self.models.get(metric)
        return model.ratios if isinstance(model, LinearModel) else ()

    def largest_ratio(self, metric: str) -> float:
        """How far, as a factor of the prediction, a sample lay above it at most; 1 where nothing is known."""
        return max((ratio for ratio in self.ratios(metric) if math.isfinite(ratio)), default=1.0)

    def margin(self, metric: str, confidence: float) -> float:
        """The margin of a model, see `LinearModel.margin`; raises ModelsError."""
        model = self.models.get(metric)
        return (model if isinstance(model, LinearModel) else LinearModel({})).margin(
            confidence, f"constraints.{metric}.confidence"
        )

    def within(self, predictions: Mapping[str, Array], constraints: Mapping[str, float]) -> NDArray[np.bool_] | bool:
        """The indicators I[P(z) <= PB] I[M(z) <= MB] of Eq. 3, multiplied over the constrained metrics with a model."""
        met: NDArray[np.bool_] | bool = True
        for metric, bound in constraints.items():
            if metric in predictions:
                with np.errstate(over="ignore"):  # a file may hold anything
                    met = met & (predictions[metric] * self.margins.get(metric, 1.0) <= bound)
        return met

    def to_json(self) -> dict[str, Any]:
        """The content of the models file; a model that is no `LinearModel` has none."""
        models = {name: each.to_json() for name, each in self.models.items() if isinstance(each, LinearModel)}
        return {"platform": dict(self.platform), "models": models}

    @cached_property
    def _needed(self) -> list[str]:
        used = (model.features for model in self.models.values() if isinstance(model, LinearModel))
        return sorted({name for names in used for name in names})

    def _computed(self, values: Array) -> Mapping[str, Array]:
        """The features that some model needs, computed once for all models; raises ModelsError."""
        if not self._needed:
            return NOTHING
        if self.features is None:
            raise ModelsError(_without_hook("hardware models", self._needed))
        if not len(values):
            return dict.fromkeys(self._needed, np.zeros(0))
        columns = self.features.columns(self.space, values)
        for name in self._needed:
            if name not in columns:
                raise ModelsError(
                    f'{self.features.script}: features(params) gives no "{name}", which the hardware models need'
                    f"{did_you_mean(name, columns)}; add it, or fit again"
                )
        return columns


def from_json(
    content: Mapping[str, Any],
    space: Space,
    platform: Mapping[str, Any],
    where: str,
    features: Features | None = None,
) -> HardwareModels:
    """Read the content of a models file.

    Raises ModelsError, naming `where`, for a model of other variables, of another platform, or of an unknown form.
    """
    models = content.get("models")
    if not isinstance(models, dict):
        raise ModelsError(f'{where}: "models" is missing; an object with one model for each metric is expected')
    measured_on = content.get("platform") or {}
    if not isinstance(measured_on, dict):
        raise ModelsError(f'{where}: "platform" is {shortened(repr(measured_on))}, but must be an object')
    for key in IDENTITY:
        fitted, wanted = measured_on.get(key), platform.get(key)
        if None not in (fitted, wanted) and fitted != wanted:
            raise ModelsError(
                f"{where}: these models are for a platform with {key} = {shortened(repr(fitted))}, but config.json has"
                f" {wanted!r}; profile and fit this platform"
            )
    read = {metric: _model(model, space, f"{where}: {shortened(metric)}") for metric, model in models.items()}
    for metric, model in read.items():
        if model.features and features is None:
            raise ModelsError(_without_hook(f"{where}: {shortened(metric)}", model.features))
    return HardwareModels(space, read, measured_on, features)


def _without_hook(where: str, names: Iterable[str]) -> str:
    listed = shortened(", ".join(names))
    return (
        f"{where}: needs computed features ({listed}), but the objective's script defines no features(params); add it"
    )


def _model(content: Any, space: Space, where: str) -> LinearModel:
    if not isinstance(content, dict) or not isinstance(content.get("weights"), dict):
        raise ModelsError(f'{where}: must be an object with "form" and "weights"')
    form = content.get("form")
    if form not in FORMS:
        raise ModelsError(f"{where}: form is {shortened(repr(form))}, but this version knows {', '.join(FORMS)}")
    features = content.get("features", [])
    if not isinstance(features, list) or not all(isinstance(name, str) and NAME.fullmatch(name) for name in features):
        raise ModelsError(f'{where}: "features" is {shortened(repr(features))}, but must be a list of names')
    known = [*numeric_inputs(space), *features, *(name for each in indicator_inputs(space).values() for name in each)]
    for term, weight in content["weights"].items():
        plain = form in ("paper", "linear", "computed")
        for name in [term] if plain else [factor.name for factor in factors_of(term)]:
            if name not in known or (form == "paper" and "=" in name):
                raise ModelsError(
                    f'{where}: weights name "{shortened(name)}", which is not a numeric structural variable of'
                    f" config.json{did_you_mean(name, known)}"
                )
        finite(weight, f"{where}: the weight of {shortened(term)}")
    intercept = content.get("intercept", 0.0)
    finite(intercept, f"{where}: intercept")
    if form == "paper" and intercept != 0:
        raise ModelsError(f'{where}: form "paper" (Eq. 1-2) has no intercept, found {intercept!r}; use form "linear"')
    weights = {term: float(weight) for term, weight in content["weights"].items()}
    ranges = _ranges(content.get("ranges", {}), known, where)
    validated = validation.from_json(content, where) if "rmspe" in content else None
    return LinearModel(weights, float(intercept), form, tuple(features), ranges, validated)


def _ranges(content: Any, known: list[str], where: str) -> dict[str, tuple[float, float]]:
    if not isinstance(content, dict):
        raise ModelsError(f'{where}: "ranges" is {shortened(repr(content))}, but must be an object')
    for name, ends in content.items():
        if name not in known:
            raise ModelsError(f'{where}: ranges name "{shortened(name)}", which config.json does not; fit again')
        if not isinstance(ends, list) or len(ends) != 2:
            raise ModelsError(f"{where}: the range of {name} is {shortened(repr(ends))}, but must be two numbers")
        for end in ends:
            finite(end, f"{where}: an end of the range of {name}")
    return {name: (float(low), float(high)) for name, (low, high) in content.items()}

"""Fitting hardware models: measured points in, the model that cross-validation prefers out (paper 3.3).

The paper trains Eq. 1-2 by 10-fold cross-validation and reports the root mean square percentage error (RMSPE), so what
is minimised here is relative: sum of ((predicted - y) / y)^2. Folds hold whole structures, so that no repeat of a
measurement is predicted from another; whatever a form chooses (the strength of its Lasso, its columns) is chosen again
in each fold, from that fold's own training part.

Arrays in, models out; it neither measures nor reads files, and makes no random generators.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner.errors import ModelsError
from hyperpower_runner.hardware.models import FORMS, LinearModel
from hyperpower_runner.hardware.regression import INNER_FOLDS, Groups, folds_of, lasso, least_squares, predict, relative
from hyperpower_runner.hardware.terms import (
    Factor,
    factors_of,
    indicator_inputs,
    input_column,
    numeric_inputs,
    term_column,
)
from hyperpower_runner.hardware.validation import Score, Validation
from hyperpower_runner.space import Array, Space

NEGLIGIBLE = 1.02  # a ratio of errors that is not worth a form less simple


@dataclass(frozen=True)
class Design:
    """The terms of one form and their columns, shape (n, p), at all samples.

    Weights are arrays of shape (1 + p,), the intercept first.
    """

    form: str
    terms: tuple[str, ...]
    columns: Array

    @property
    def chooses(self) -> bool:
        """Whether a Lasso chooses among the terms; otherwise all of them count."""
        return self.form in ("polynomial", "log-quadratic")

    def fit(self, rows: NDArray[np.bool_], outcomes: Array, order: Groups) -> Array:
        """Find weights from the samples `rows`; order: the place of each sample's structure in the order of folds."""
        columns, outcomes, order = self.columns[rows], outcomes[rows], order[rows]
        if self.chooses:
            return lasso(columns, outcomes, order, logarithmic=self.form == "log-quadratic")
        return least_squares(columns, outcomes, intercept=self.form != "paper")

    def predict(self, weights: Array, rows: NDArray[np.bool_]) -> Array:
        return predict(self.columns[rows], weights, self.form == "log-quadratic")


def fit_metric(
    space: Space,
    values: Array,
    features: Mapping[str, Array] | None,
    outcomes: Array,
    rng: np.random.Generator,
    *,
    forms: Sequence[str] = FORMS,
    folds: int = 10,
    repeats: int = 5,
    where: str = "hardware/profile.jsonl",
) -> LinearModel:
    """Fit each form to n samples and return the one of least RMSPE in repeated cross-validation, fitted to all samples.

    values: shape (n, D); features: computed features of shape (n,), or None; outcomes: shape (n,), positive.
    forms: those that come into question; one alone is not compared. A simpler form (in the order of `FORMS`) is
        preferred where its RMSPE is at most 1.02 times the least, or where its mean squared error is not above the
        least by more than one standard error, over structures, of the difference.
    folds: with fewer structures than that, each structure is a fold.

    The score is over all samples and repeats; its spread is the standard deviation over the folds of all repeats; the
    ratios for margins are of the first repeat, one for each sample. A form that cannot be fitted is left out, and why
    is kept in `validation.by_form`. Collinear columns get the weights of least norm.

    Raises ModelsError, naming `where`, for outcomes that are not positive, for a single structure, and where no form
    can be fitted.
    """
    features = dict(features or {})
    _check(values, features, outcomes, where)
    structure = _structures(space, values)
    count = int(structure.max()) + 1
    if count < 2:
        raise ModelsError(f"{where}: all {len(values)} samples have the same structure; profile different ones")
    folds = min(folds, count)
    orders = [rng.permutation(count)[structure] for _ in range(repeats)]
    kept = count - -(-count // folds)  # structures that the smallest training part has

    inputs = _Inputs(space, values, features)
    by_form: dict[str, Score | str] = {}
    tried: dict[str, _Tried] = {}
    for form in sorted(forms, key=FORMS.index):
        design = _design(form, inputs, kept)
        if isinstance(design, str):
            by_form[form] = design
        else:
            tried[form] = _Tried.of(design, outcomes, orders, folds)
            by_form[form] = _score(tried[form].errors, orders, folds)
    if not tried:
        reasons = "; ".join(f"{form}: {reason}" for form, reason in by_form.items())
        raise ModelsError(f"{where}: no hardware model can be fitted to {count} structures ({reasons}); profile more")

    chosen = _simplest({form: (each.errors**2).mean(axis=0) for form, each in tried.items()}, structure)
    constant = _Tried.of(Design("constant", (), np.zeros((len(outcomes), 0))), outcomes, orders, folds)
    validation = Validation(
        _score(tried[chosen].errors, orders, folds),
        _root_mean(constant.errors),
        len(outcomes),
        count,
        folds,
        repeats,
        by_form,
        tried[chosen].ratios(outcomes),
    )
    return _model(tried[chosen].design, outcomes, orders[0], inputs, validation)


@dataclass(frozen=True)
class _Tried:
    """A design and what it predicts of each sample while its structure is left out: shape (repeats, n)."""

    design: Design
    predicted: Array
    errors: Array

    @classmethod
    def of(cls, design: Design, outcomes: Array, orders: Sequence[Groups], folds: int) -> _Tried:
        predicted = np.array([_out_of_fold(design, outcomes, order, folds) for order in orders])
        return cls(design, predicted, relative(predicted, outcomes))

    def ratios(self, outcomes: Array) -> tuple[float, ...]:
        """Measured / predicted in the first repeat, ascending; infinite where the prediction was not positive."""
        predicted = self.predicted[0]
        with np.errstate(all="ignore"):
            return tuple(np.sort(np.where(predicted > 0, outcomes / predicted, np.inf)).tolist())


def _model(design: Design, outcomes: Array, order: Groups, inputs: _Inputs, validation: Validation) -> LinearModel:
    """The design fitted to all samples."""
    intercept, *weights = design.fit(np.ones(len(outcomes), dtype=bool), outcomes, order).tolist()
    used = {term: weight for term, weight in zip(design.terms, weights, strict=True) if weight or not design.chooses}
    named = {factor.name for term in used for factor in factors_of(term)}
    features = tuple(name for name in inputs.features if name in named)
    measured = {name: inputs.column(Factor(name)) for name in (*inputs.structural, *features)}
    ranges = {name: (float(column.min()), float(column.max())) for name, column in measured.items()}
    return LinearModel(used, intercept, design.form, features, ranges, validation)


def _check(values: Array, features: Mapping[str, Array], outcomes: Array, where: str) -> None:
    if not len(outcomes):
        raise ModelsError(f"{where}: there are no samples to fit; profile the platform")
    if not (len(values) == len(outcomes) and all(len(column) == len(outcomes) for column in features.values())):
        raise ValueError("values, features and outcomes must be of the same number of samples")
    for outcome in outcomes.tolist():
        if not 0 < outcome < np.inf:
            raise ModelsError(f"{where}: a sample measured {outcome!r}, but models need positive numbers; delete it")
    for name, column in features.items():
        if not np.isfinite(column).all():
            raise ModelsError(f"{where}: the feature {name} is not finite at each sample; correct features(params)")


def _structures(space: Space, values: Array) -> Groups:
    """A number 0, 1, ... for each different structure: shape (n,)."""
    structures = space.structures(values)
    if not structures.size:
        return np.zeros(len(values), dtype=np.intp)
    return np.unique(structures, axis=0, return_inverse=True)[1].reshape(-1)


# --- the columns of each form


class _Inputs:
    """The inputs of a space and the columns of their factors at n samples."""

    def __init__(self, space: Space, values: Array, features: Mapping[str, Array]) -> None:
        self.features = features
        self.numeric = numeric_inputs(space)
        self.indicators = indicator_inputs(space)
        for name in itertools.chain.from_iterable(self.indicators.values()):
            if " * " in name:
                raise ModelsError(f'config.json: the option "{name}" has " * " in it, which joins terms; rename it')
        self._space, self._values = space, values
        # A number that may be 0 has no logarithm, even if no sample shows it.
        self._may_be_zero = {
            name
            for name, variable in zip(space.names, space.by_dimension, strict=True)
            if name in self.numeric and min(map(float, variable.options or (variable.low,))) <= 0
        }

    @property
    def structural(self) -> list[str]:
        return [*self.numeric, *itertools.chain.from_iterable(self.indicators.values())]

    def column(self, factor: Factor) -> Array:
        return factor.of(input_column(self._space, self._values, self.features, factor.name))

    def varies(self, name: str) -> bool:
        column = self.column(Factor(name))
        return bool(column.min() < column.max())

    def has_logarithm(self, name: str) -> bool:
        return name not in self._may_be_zero and bool(self.column(Factor(name)).min() > 0)

    def contrasts(self) -> list[str]:
        """The indicators that vary, without the first option of each variable: with all, they add up to 1."""
        return [name for names in self.indicators.values() for name in names[1:] if self.varies(name)]


def _design(form: str, inputs: _Inputs, kept: int) -> Design | str:
    """The columns of a form, or why it cannot be fitted to `kept` structures."""
    if form == "paper":
        terms = inputs.numeric
        if not terms:
            return "there are no numeric structural variables"
    elif form == "linear":
        terms = [*filter(inputs.varies, inputs.numeric), *inputs.contrasts()]
    elif form == "computed":
        terms = list(filter(inputs.varies, inputs.features))
        if not inputs.features:
            return "there are no computed features"
    else:
        terms = _products(inputs, logarithmic=form == "log-quadratic")
    weights = 2 * INNER_FOLDS if form in ("polynomial", "log-quadratic") else len(terms) + (form != "paper")
    if kept < weights:
        return f"it needs {weights} structures in each training part, but there are {kept}"
    columns = [term_column(factors_of(term), inputs.column) for term in terms]
    return Design(form, tuple(terms), np.array(columns).reshape(len(terms), len(inputs._values)).T)


def _products(inputs: _Inputs, logarithmic: bool) -> list[str]:
    """Inputs, their squares and pairwise products: of their logarithms where `logarithmic`, otherwise beside those."""
    numbers = list(filter(inputs.varies, [*inputs.numeric, *inputs.features]))
    logs = {name: f"log({name})" for name in numbers if inputs.has_logarithm(name)}
    numbers = [logs.get(name, name) for name in numbers] if logarithmic else numbers
    single = [*numbers, *inputs.contrasts()]
    pairs = [f"{first} * {second}" for first, second in itertools.combinations(single, 2)]
    return [*single, *(f"{name}^2" for name in numbers), *([] if logarithmic else logs.values()), *pairs]


# --- cross-validation


def _out_of_fold(design: Design, outcomes: Array, order: Groups, folds: int) -> Array:
    """Predict each sample from the folds that do not hold its structure: shape (n,)."""
    predicted = np.empty(len(outcomes))
    for test in folds_of(order, folds):
        predicted[test] = design.predict(design.fit(~test, outcomes, order), test)
    return predicted


def _root_mean(errors: Array) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def _score(errors: Array, orders: Sequence[Groups], folds: int) -> Score:
    """errors: relative, shape (repeats, n)."""
    by_fold = [
        _root_mean(row[test]) for row, order in zip(errors, orders, strict=True) for test in folds_of(order, folds)
    ]
    return Score(_root_mean(errors), float(np.std(by_fold)))


def _simplest(squares: Mapping[str, Array], structure: Groups) -> str:
    """The simplest form that is not clearly worse than the best; squares: of relative errors, (n,), simplest first."""
    best = min(squares, key=lambda form: float(squares[form].mean()))
    for form, square in squares.items():
        if square.mean() <= NEGLIGIBLE**2 * squares[best].mean():
            return form
        by_structure = np.bincount(structure, square - squares[best])
        standard_error = by_structure.std(ddof=1) * np.sqrt(len(by_structure)) / len(square)
        if by_structure.sum() / len(square) <= standard_error:
            return form
    return best

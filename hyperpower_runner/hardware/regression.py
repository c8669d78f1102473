"""Least squares of relative errors, exact and by a Lasso: columns and outcomes in, weights out (paper 3.3).

Minimised is the sum of ((predicted - y) / y)^2, since the paper's RMSPE is relative. Weights are arrays of shape
(1 + p,), the intercept first. It does not know what the columns mean.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner.space import Array

INNER_FOLDS = 5  # in which a Lasso's strength is chosen
MOST_COLUMNS = 200  # of a Lasso: the products that go along with the outcome most
STRENGTHS = np.geomspace(1.0, 1e-3, 30)  # relative to the one that leaves no column
STEP = 5  # strengths between looks at how many columns are left
LARGEST_ERROR = 1e6  # what a prediction beyond all bounds counts as
RIDGE = 1e-9  # keeps collinear columns solvable

Groups = NDArray[np.intp]


def folds_of(order: Groups, folds: int) -> Iterator[NDArray[np.bool_]]:
    """The test part of each fold: every `folds`-th of the structures that are there, in their order."""
    places = np.unique(order, return_inverse=True)[1].reshape(-1)
    for fold in range(min(folds, int(places.max()) + 1)):
        yield places % folds == fold


def relative(predicted: Array, outcomes: Array) -> Array:
    """The errors predicted / measured - 1, none beyond `LARGEST_ERROR`; what is no number counts as that."""
    with np.errstate(all="ignore"):
        errors = predicted / outcomes - 1
    return np.clip(np.nan_to_num(errors, nan=LARGEST_ERROR), -LARGEST_ERROR, LARGEST_ERROR)


def predict(columns: Array, weights: Array, logarithmic: bool) -> Array:
    """weights: shape (1 + p,), or (1 + p, k) for k models at once."""
    predicted: Array = columns @ weights[1:] + weights[0]
    with np.errstate(over="ignore"):
        return np.exp(predicted) if logarithmic else predicted


def least_squares(columns: Array, outcomes: Array, intercept: bool) -> Array:
    """Weights, shape (1 + p,), that minimise sum of ((predicted - y) / y)^2: least squares with weights 1 / y^2."""
    head = np.full((len(outcomes), 1), 1.0 if intercept else 0.0)
    scaled = np.hstack([head, columns]) / outcomes[:, np.newaxis]
    size = np.sqrt((scaled**2).sum(axis=0))
    size[size == 0] = 1.0
    weights = np.linalg.lstsq(scaled / size, np.ones(len(outcomes)), rcond=1e-10)[0] / size
    return np.asarray(weights)


@dataclass(frozen=True)
class _Standardised:
    """Columns of weighted mean 0 and sum of squares 1, so that a Lasso treats them alike; those that vary.

    kept: their indices. mean, size: of all p columns.
    """

    columns: Array
    target: Array
    kept: NDArray[np.intp]
    mean: Array
    size: Array
    target_mean: float

    @classmethod
    def of(cls, columns: Array, outcomes: Array, logarithmic: bool) -> _Standardised:
        # An error of the logarithm is a relative one already.
        weights = np.ones(len(outcomes)) if logarithmic else (outcomes.min() / outcomes) ** 2
        weights /= weights.sum()
        target = np.log(outcomes) if logarithmic else outcomes
        mean, target_mean = weights @ columns, float(weights @ target)
        root = np.sqrt(weights)
        centred, target = (columns - mean) * root[:, np.newaxis], (target - target_mean) * root
        size = np.sqrt((centred**2).sum(axis=0))
        varying = np.flatnonzero(size > 1e-9 * np.abs(columns).max(axis=0, initial=0))
        size[size == 0] = 1.0
        alike = np.abs(target @ centred[:, varying]) / size[varying]
        kept = np.sort(varying[np.argsort(-alike, kind="stable")[:MOST_COLUMNS]])
        return cls(np.asfortranarray(centred[:, kept] / size[kept]), target, kept, mean, size, target_mean)

    @property
    def is_constant(self) -> bool:
        """Whether there is nothing to explain, or nothing to explain it with."""
        return not len(self.kept) or bool(np.linalg.norm(self.target) <= 1e-12 * (1 + abs(self.target_mean)))

    def path(self, strengths: Array) -> Array:
        """Weights in the units of the columns at each strength: of the Lasso, then refitted without shrinking.

        Shape (1 + p, 2 * strengths). The refit takes the columns that the Lasso chose (relaxed Lasso, Meinshausen
        2007): it is the better one where few terms say nearly everything.
        """
        from sklearn.linear_model import lasso_path  # here, as it takes a second to import

        weights = np.zeros((1 + len(self.mean), 2 * len(strengths)))
        weights[0] = self.target_mean
        if self.is_constant:
            return weights
        gram, along = self.columns.T @ self.columns, self.columns.T @ self.target
        shrunk = np.zeros((len(self.kept), len(strengths)))
        most = len(self.target) // 2  # columns; with more, it repeats the samples, slowly
        for start in range(0, len(strengths), STEP):
            some = slice(start, start + STEP)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what has not quite converged: folds tell how good it is
                _, shrunk[:, some], _ = lasso_path(
                    self.columns,
                    self.target,
                    alphas=strengths[some] / len(self.target),
                    coef_init=shrunk[:, max(0, start - 1)],
                    precompute=gram,
                    Xy=along,
                    tol=1e-3,
                )
            if np.count_nonzero(shrunk[:, some][:, -1]) > most:
                shrunk[:, start + STEP :] = shrunk[:, some][:, -1:]
                break
        refitted = shrunk.copy()
        for place, lasso in enumerate(shrunk.T):
            chosen = np.flatnonzero(lasso)
            if 0 < len(chosen) <= most:
                system = gram[np.ix_(chosen, chosen)] + RIDGE * np.eye(len(chosen))
                refitted[chosen, place] = np.linalg.solve(system, along[chosen])
        weights[1 + self.kept] = np.hstack([shrunk, refitted]) / self.size[self.kept, np.newaxis]
        weights[0] -= self.mean @ weights[1:]
        return weights


def lasso(columns: Array, outcomes: Array, order: Groups, logarithmic: bool) -> Array:
    """Weights, shape (1 + p,), of a Lasso whose strength has the least relative error in folds of structures."""
    whole = _Standardised.of(columns, outcomes, logarithmic)
    strengths = STRENGTHS * np.max(np.abs(whole.columns.T @ whole.target), initial=0.0)
    squares = np.zeros(2 * len(strengths))
    for test in folds_of(order, INNER_FOLDS):
        part = _Standardised.of(columns[~test], outcomes[~test], logarithmic)
        predicted = predict(columns[test], part.path(strengths), logarithmic)
        squares += (relative(predicted, outcomes[test, np.newaxis]) ** 2).sum(axis=0)
    weights: Array = whole.path(strengths)[:, np.argmin(squares)]
    if logarithmic:  # the mean of logarithms is not where relative errors are least
        ratios = predict(columns, weights, logarithmic) / outcomes
        weights[0] += np.log(ratios.sum() / (ratios**2).sum())
    return weights

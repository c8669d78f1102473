"""Where a point of the search space lies for the Gaussian process: its coordinates.

Each dimension with more than one value has one coordinate in [0, 1], on the variable's scale, or, where the order of
its options means nothing, one coordinate for each option (one-hot). Coordinates are computed from values, not from the
unit cube, so that two x that decode to the same params are the same point. One length scale belongs to a dimension.

Notation: D dimensions that vary, C >= D coordinates; u has shape (n, C).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner.space import Array, Space, Variable


class Embedding:
    """Maps values of a space to coordinates, and coordinates that moved back to values."""

    def __init__(self, space: Space) -> None:
        self.space = space
        # An ENUM of numbers is ordered by them, as in Ax; one of two options has no order to get wrong.
        self.columns = [i for i, variable in enumerate(space.by_dimension) if variable.choices != 1]
        self.ordered = [i for i in self.columns if _is_ordered(space.by_dimension[i])]
        self._ranks = {i: _ranks(space.by_dimension[i]) for i in self.ordered if space.by_dimension[i].kind == "ENUM"}

    @property
    def dimensions(self) -> int:
        """D: how many length scales there are."""
        return len(self.columns)

    @cached_property
    def groups(self) -> NDArray[np.intp]:
        """The dimension (0 to D - 1) that each of the C coordinates belongs to."""
        sizes = [1 if i in self.ordered else self.space.by_dimension[i].choices or 1 for i in self.columns]
        return np.repeat(np.arange(len(sizes)), sizes)

    @cached_property
    def movable(self) -> list[tuple[int, int]]:
        """The coordinates a gradient may move, FLOAT and INT, as pairs: column of values, column of u."""
        kinds = {i: self.space.by_dimension[i].kind for i in self.columns}
        return [(i, self._first[i]) for i in self.columns if kinds[i] != "ENUM"]

    @cached_property
    def _first(self) -> dict[int, int]:
        """The first coordinate of each column of values."""
        return {i: int(np.searchsorted(self.groups, dimension)) for dimension, i in enumerate(self.columns)}

    def __call__(self, values: Array) -> Array:
        """Map values, shape (n, dimensions of the space), to u, shape (n, C)."""
        u = np.zeros((len(values), len(self.groups)))
        for i in self.columns:
            variable, column, first = self.space.by_dimension[i], values[:, i], self._first[i]
            if i not in self.ordered:
                # Two different options are then one apart, as the two ends of a range are.
                u[np.arange(len(values)), first + column.astype(np.intp)] = np.sqrt(0.5)
            elif variable.kind == "ENUM":
                u[:, first] = self._ranks[i][column.astype(np.intp)]
            else:
                low, high = _scaled(variable, np.array([variable.low, variable.high]))
                u[:, first] = np.clip((_scaled(variable, column) - low) / ((high - low) or 1.0), 0.0, 1.0)
        return u

    def moved(self, values: Array, u: Array) -> Array:
        """Values whose FLOAT and INT lie at u, shape (n, C), after rounding, and whose ENUM are those of `values`."""
        result = np.array(values, copy=True, order="F")
        for i, first in self.movable:
            variable = self.space.by_dimension[i]
            if variable.kind == "FLOAT":
                result[:, i] = variable.decode(u[:, first])
            else:
                low, high = _scaled(variable, np.array([variable.low, variable.high]))
                scaled = low + u[:, first] * (high - low)
                natural = np.exp(scaled) if variable.scale == "log" else scaled
                result[:, i] = np.clip(np.rint(natural), variable.low, variable.high) + 0.0  # never -0.0
        return result


def _is_ordered(variable: Variable) -> bool:
    return variable.kind != "ENUM" or variable.is_numeric or len(variable.options) == 2


def _ranks(variable: Variable) -> Array:
    """The place in [0, 1] of each option: numbers in their order, others in that of the list."""
    options: list[float] = [float(option) for option in variable.options] if variable.is_numeric else []
    order = np.argsort(np.argsort(options)) if options else np.arange(len(variable.options))
    places: Array = order / (len(variable.options) - 1.0)
    return places


def _scaled(variable: Variable, values: Array) -> Array:
    return np.log(values) if variable.scale == "log" else values

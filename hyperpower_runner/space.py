"""The search space: variables, their place in the unit cube, uniform points, and the known constraints.

Notation: D is the number of dimensions, one for each element of each variable. Three forms of a point:

    params   a dict by variable name, in natural units, as it is written to job.json
    values   an array of shape (D,): natural units; of an ENUM, the index of the option
    x        an array of shape (D,) in the unit cube

Many points are arrays of shape (n, D), laid out so that each column is contiguous. INT and ENUM variables divide [0, 1]
into equal cells (on a log scale: cells equal in the logarithm), so a uniform x is a uniform choice, and `encode` gives
the middle of a cell. FLOAT values are rounded to twelve significant digits: that makes params -> x -> params exact, and
job files readable. It does not know about hardware models or about which points were tried.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner import expression
from hyperpower_runner.errors import ParamsError, did_you_mean, shortened

Array = NDArray[np.float64]
Option = str | int | float | bool

DIGITS = 12  # significant decimal digits of a FLOAT
POWERS_OF_TEN = np.array([float(f"1e{exponent}") for exponent in range(23)])  # all that are exact


@dataclass(frozen=True)
class Variable:
    """One variable of the search space; `size` elements share its range or its options.

    low, high: inclusive bounds of an INT or FLOAT, at most 1e300 in size; options: the choices of an ENUM.
    structural: True where it shapes the network, and so its power and memory (z in Eq. 1-2).
    """

    name: str
    kind: Literal["INT", "FLOAT", "ENUM"]
    low: float = 0.0
    high: float = 1.0
    options: tuple[Option, ...] = ()
    size: int = 1
    scale: Literal["linear", "log"] = "linear"
    structural: bool = True

    @property
    def choices(self) -> int | None:
        """How many values one element can take; None for a FLOAT."""
        if self.kind == "ENUM":
            return len(self.options)
        if self.kind == "INT":
            return int(self.high) - int(self.low) + 1
        return None if self.low < self.high else 1

    @property
    def element_names(self) -> list[str]:
        """The names of its dimensions: `name`, or `name[0]`, `name[1]`, ... where `size` is above 1."""
        return [self.name] if self.size == 1 else [f"{self.name}[{index}]" for index in range(self.size)]

    @property
    def is_numeric(self) -> bool:
        return self.kind != "ENUM" or all(_is_number(option) for option in self.options)

    def decode(self, x: Array) -> Array:
        """Map points of [0, 1] to values."""
        if self.kind == "FLOAT":
            return self._decode_float(x)
        low, high = self._cell_bounds
        if self.scale == "log":
            values = np.rint(np.exp(low + x * (high - low)))
        else:
            values = np.floor(low + 0.5 + x * (high - low))
        return np.clip(values, low if self.kind == "ENUM" else self.low, self._highest)

    def encode(self, values: Array) -> Array:
        """Map values to points of [0, 1]; `decode` gives exactly them back."""
        if self.kind == "FLOAT":
            low, high = self._transform(self.low), self._transform(self.high)
            if low == high:
                return np.full_like(values, 0.5)
            transformed = np.log(values) if self.scale == "log" else values
            return np.asarray(np.clip((transformed - low) / (high - low), 0.0, 1.0))
        low, high = self._cell_bounds
        transformed = np.log(values) if self.scale == "log" else values
        return np.asarray((transformed - low) / (high - low))

    @property
    def _highest(self) -> float:
        return len(self.options) - 1.0 if self.kind == "ENUM" else self.high

    @cached_property
    def _cell_bounds(self) -> tuple[float, float]:
        """The outer borders of the first and the last cell of an INT or ENUM, on its scale."""
        lowest = 0.0 if self.kind == "ENUM" else self.low
        return self._transform(lowest - 0.5), self._transform(self._highest + 0.5)

    def _transform(self, value: float) -> float:
        return math.log(value) if self.scale == "log" else value

    def _decode_float(self, x: Array) -> Array:
        low, high = self._transform(self.low), self._transform(self.high)
        if low == high:
            return np.full_like(x, self.low)
        values = low + x * (high - low)
        rounded = self._round(np.exp(values) if self.scale == "log" else values)
        lowest, highest = self._rounded_ends
        rounded = np.where(rounded >= highest, self.high, np.where(rounded <= lowest, self.low, rounded))
        return np.where(x <= 0.0, self.low, np.where(x >= 1.0, self.high, rounded))

    @cached_property
    def _rounded_ends(self) -> Array:
        """An end stands for all that rounds like it: `encode` could not tell them apart."""
        return self._round(np.array([self.low, self.high]))

    def _round(self, values: Array) -> Array:
        if self.scale == "log":
            return _round_decimals(values, DIGITS - 1 - np.floor(np.log10(values)).astype(np.int64))
        # As fine as twelve digits of the range, but never finer than fifteen of the largest value.
        decimals = DIGITS - 1 - math.floor(math.log10(self.high - self.low))
        return _round_decimals(values, min(decimals, 14 - math.floor(math.log10(max(abs(self.low), abs(self.high))))))

    def to_param(self, values: Sequence[float]) -> Any:
        """The value for params: a number or an option, or a list of `size` of them."""
        items: list[Any] = []
        for value in values:
            if self.kind == "ENUM":
                items.append(self.options[int(value)])
            else:
                items.append(int(value) if self.kind == "INT" else float(value))
        return items[0] if self.size == 1 else items

    def from_param(self, param: Any) -> list[float]:
        """The inverse of `to_param`; raises ParamsError for what is not a value of this variable."""
        items = list(param) if isinstance(param, list | tuple) else [param]
        if len(items) != self.size:
            raise ParamsError(f'"{self.name}" is {shortened(repr(param))}, but has {self.size} elements')
        return [self._from_item(item) for item in items]

    def from_many(self, params: Sequence[Any]) -> Array:
        """`from_param` of n params: an array of shape (n, size).

        Raises KeyError, TypeError, ValueError or OverflowError where one of them needs the closer look of `from_param`.
        """
        items = params if self.size == 1 else [item for param in params for item in param]
        if self.size > 1 and not all(type(param) is list and len(param) == self.size for param in params):
            raise ValueError("not all have as many elements")
        if self.kind == "ENUM":
            places = {(isinstance(option, bool), option): place for place, option in enumerate(self.options)}
            values = np.array([places[isinstance(item, bool), item] for item in items], dtype=np.float64)
        else:
            if not set(map(type, items)) <= {int, float}:
                raise TypeError("not all are numbers")
            values = np.array(items, dtype=np.float64)
            allowed = (values >= self.low) & (values <= self.high)
            if not np.all(allowed & (values == np.floor(values)) if self.kind == "INT" else allowed):
                raise ValueError("not all are in the range")
        return values.reshape(len(params), self.size) + 0.0  # -0.0 is 0.0

    def _from_item(self, item: Any) -> float:
        if self.kind == "ENUM":
            for index, option in enumerate(self.options):
                if option == item and isinstance(option, bool) == isinstance(item, bool):
                    return float(index)
            raise ParamsError(f'"{self.name}" is {shortened(repr(item))}; its options are {list(self.options)}')
        if not _is_number(item) or not self.low <= item <= self.high or (self.kind == "INT" and item != int(item)):
            wanted = "an integer" if self.kind == "INT" else "a number"
            found, allowed = shortened(repr(item)), f"{wanted} from {self.low:.12g} to {self.high:.12g}"
            raise ParamsError(f'"{self.name}" is {found}, but must be {allowed}')
        return float(item) + 0.0  # -0.0 is 0.0


@dataclass(frozen=True)
class Space:
    """Variables and the known constraints that a point must meet before anything runs."""

    variables: tuple[Variable, ...]
    constraints: tuple[expression.Constraint, ...] = ()
    _columns: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = (name for variable in self.variables for name in variable.element_names)
        object.__setattr__(self, "_columns", {name: column for column, name in enumerate(names)})

    @property
    def dimensions(self) -> int:
        return len(self._columns)

    @property
    def names(self) -> list[str]:
        """The name of each dimension, in the order of the columns."""
        return list(self._columns)

    @cached_property
    def by_dimension(self) -> list[Variable]:
        """The variable of each dimension."""
        return [variable for variable in self.variables for _ in range(variable.size)]

    @cached_property
    def cardinality(self) -> int | None:
        """How many different points there are before the constraints; None where a FLOAT makes them countless."""
        choices = [variable.choices for variable in self.by_dimension]
        return None if None in choices else math.prod(choice for choice in choices if choice is not None)

    def decode(self, x: Array) -> Array:
        """Map x, shape (n, D), to values of the same shape."""
        columns = [variable.decode(x[:, column]) for column, variable in enumerate(self.by_dimension)]
        return _as_rows(columns, len(x))

    def encode(self, values: Array) -> Array:
        """Map values, shape (n, D), to x of the same shape, with `decode(encode(values))` equal to values."""
        columns = [variable.encode(values[:, column]) for column, variable in enumerate(self.by_dimension)]
        return _as_rows(columns, len(values))

    def to_params(self, values: Array) -> dict[str, Any]:
        """Turn one point, values of shape (D,), into params."""
        params, column = {}, 0
        for variable in self.variables:
            params[variable.name] = variable.to_param(values[column : column + variable.size].tolist())
            column += variable.size
        return params

    def from_params(self, params: Mapping[str, Any]) -> Array:
        """Turn params into values of shape (D,).

        Raises ParamsError for a missing, unknown or out-of-range parameter. Known constraints are not checked.
        """
        known = [variable.name for variable in self.variables]
        for name in params:
            if name not in known:
                raise ParamsError(f'"{name}" is not a variable{did_you_mean(name, known)}; there are {known}')
        values: list[float] = []
        for variable in self.variables:
            if variable.name not in params:
                raise ParamsError(f'the variable "{variable.name}" is missing')
            values.extend(variable.from_param(params[variable.name]))
        return np.array(values)

    def from_many(self, points: Sequence[Mapping[str, Any]]) -> Array:
        """Turn the params of n points into values of shape (n, D); raises ParamsError for one that is not of the space.

        Equal to `from_params` of each, in a tenth of its time.
        """
        try:
            if any(len(params) != len(self.variables) for params in points):
                raise ValueError("not all have as many params")
            columns = [variable.from_many([params[variable.name] for params in points]) for variable in self.variables]
            return np.ascontiguousarray(np.concatenate(columns, axis=1))
        except (KeyError, TypeError, ValueError, OverflowError):  # the slow way knows what is wrong, if anything is
            rows = [self.from_params(params) for params in points]
            return np.array(rows).reshape(len(points), self.dimensions)

    def sample(self, rng: np.random.Generator, count: int) -> Array:
        """Draw values, shape (count, D), uniform in the unit cube, known constraints not considered."""
        return self.decode(rng.random((self.dimensions, count)).T)

    def structures(self, values: Array) -> Array:
        """The structural dimensions of n points, values of shape (n, D): equal rows are equal networks."""
        structural = [index for index, variable in enumerate(self.by_dimension) if variable.structural]
        return np.ascontiguousarray(values[:, structural])

    def column(self, values: Array, name: str) -> NDArray[Any]:
        """One dimension of n points as known constraints and hardware models see it: options instead of indices."""
        index = self._columns[name]
        variable = self.by_dimension[index]
        if variable.kind != "ENUM":
            return values[:, index]
        dtype = np.float64 if variable.is_numeric else np.str_
        return np.array(variable.options, dtype=dtype)[values[:, index].astype(np.intp)]

    def holds(self, values: Array) -> NDArray[np.bool_]:
        """Check each known constraint at n points: booleans of shape (constraints, n)."""
        columns = {
            name: self.column(values, name) for name in {n for constraint in self.constraints for n in constraint.names}
        }
        rows = [constraint.holds(columns) for constraint in self.constraints]
        return np.array(rows, dtype=bool).reshape(len(rows), len(values))

    def enumerate(self, chunk: int = 65536) -> Iterable[Array]:
        """Yield all points of a finite space, as values of shape (at most chunk, D)."""
        if self.cardinality is None:
            raise ValueError("the space is not finite: it has a FLOAT")
        for start in range(0, self.cardinality, chunk):
            rest = np.arange(start, min(start + chunk, self.cardinality))
            count, columns = len(rest), []
            for variable in reversed(self.by_dimension):
                rest, place = np.divmod(rest, variable.choices or 1)
                columns.append(place + (0.0 if variable.kind == "ENUM" else variable.low))
            yield _as_rows(columns[::-1], count)


def parse_constraints(texts: Iterable[str], variables: Sequence[Variable]) -> tuple[expression.Constraint, ...]:
    """Parse known constraints over the elements of `variables`; raises ExpressionError."""
    kinds = {
        name: expression.NUMBER if variable.is_numeric else expression.TEXT
        for variable in variables
        for name in variable.element_names
    }
    options = {
        variable.name: [str(option) for option in variable.options] for variable in variables if not variable.is_numeric
    }
    return tuple(expression.parse(text, kinds, options) for text in texts)


def reflect(x: Array) -> Array:
    """Fold points of the real line into [0, 1] by reflection at its borders."""
    folded = np.mod(x, 2.0)
    return np.where(folded > 1.0, 2.0 - folded, folded)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _as_rows(columns: Sequence[Array], count: int) -> Array:
    """Columns of shape (count,) as an array of shape (count, D) whose columns are contiguous."""
    rows: Array = np.array(columns, dtype=np.float64).reshape(len(columns), count).T
    return rows


def _round_decimals(values: Array, decimals: int | NDArray[np.int64]) -> Array:
    """Round to so many decimals, each value to the double that is nearest to its decimal numeral.

    Multiplying and dividing by an exact power of ten does that; the few beyond the exact ones take Python's slow way.
    """
    decimals = np.asarray(decimals)
    exact = np.clip(decimals, 0, len(POWERS_OF_TEN) - 1)
    powers = POWERS_OF_TEN[exact]
    rounded: Array = np.rint(values * powers) / powers
    for place in np.flatnonzero(np.broadcast_to(exact != decimals, values.shape)):
        rounded[place] = round(float(values[place]), int(np.broadcast_to(decimals, values.shape)[place]))
    return rounded + 0.0  # never -0.0

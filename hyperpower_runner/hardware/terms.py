"""Terms: what hardware models are linear in, written as text; from the text to a column of numbers.

A term is a product of factors: "fc_units", "conv_features[0] * fc_units", "macs^2", "log(parameters) * log(macs)". A
factor is an input or its natural logarithm, to a power; an input is a numeric structural variable, "activation=relu" (1
for that option of a structural variable of texts, otherwise 0), or a computed feature.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from hyperpower_runner.space import Array, Space

FACTOR = re.compile(r"(?:log\((?P<log>[^()^]+)\)|(?P<plain>[^()^]+))(?:\^(?P<power>-?\d{1,3}(?:\.\d{1,6})?))?")


@dataclass(frozen=True)
class Factor:
    """An input by its name, or its logarithm, to a power."""

    name: str
    log: bool = False
    power: float = 1.0

    def of(self, column: Array) -> Array:
        """The factor at n points, from its input there; nan for the logarithm of what is not positive."""
        column = np.log(np.where(column > 0, column, np.nan)) if self.log else column
        return column if self.power == 1.0 else column**self.power


def factors_of(term: str) -> tuple[Factor, ...]:
    """Parse the text of a term; a part that is none becomes an input of that name, which no space knows."""
    factors = []
    for part in term.split(" * "):
        match = None if "=" in part else FACTOR.fullmatch(part)
        if match is None:
            factors.append(Factor(part))
        else:
            power = float(match["power"] or 1)
            factors.append(Factor(match["log"] or match["plain"], match["log"] is not None, power))
    return tuple(factors)


def numeric_inputs(space: Space) -> list[str]:
    """The elements of the numeric structural variables: z of Eq. 1-2."""
    return [name for each in space.variables if each.structural and each.is_numeric for name in each.element_names]


def indicator_inputs(space: Space) -> dict[str, list[str]]:
    """Of each element of the structural variables of texts, the indicators of its options: ["act=relu", "act=tanh"]."""
    return {
        name: [f"{name}={option}" for option in variable.options]
        for variable in space.variables
        if variable.structural and not variable.is_numeric
        for name in variable.element_names
    }


def input_column(space: Space, values: Array, features: Mapping[str, Array], name: str) -> Array:
    """One input at n points, values of shape (n, D) and features of shape (n,): shape (n,)."""
    if name in features:
        return features[name]
    element, is_indicator, option = name.partition("=")
    if not is_indicator:
        return space.column(values, element)
    index = space.names.index(element)
    chosen = [place for place, known in enumerate(space.by_dimension[index].options) if str(known) == option]
    return np.isin(values[:, index], chosen).astype(float)


def term_column(term: Iterable[Factor], factor_column: Callable[[Factor], Array]) -> Array:
    """The product of a term's factors at n points: shape (n,)."""
    first, *others = (factor_column(factor) for factor in term)
    for other in others:
        first = first * other
    return first

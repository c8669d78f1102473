"""The language of known constraints: arithmetic and comparisons over variables, checked for whole arrays at once.

    conv1_features * fc_units <= 40000 and (pool1_kernel > 1 or log(learning_rate) < -3)

It knows numbers, "texts", variables (`name`, or `name[0]` where the variable has a size), + - * / // % **,
comparisons (also chained: 1 < a < b), and / or / not, and the functions min, max, abs, log, exp. Python's own parser
reads it, then only the nodes listed here are accepted and turned into numpy calls; nothing is ever evaluated as Python.
It knows nothing of spaces: what a name may be is handed in.
"""

from __future__ import annotations

import ast
import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner.errors import ExpressionError, did_you_mean

Columns = Mapping[str, NDArray[Any]]
Evaluate = Callable[[Columns], Any]

MAX_LENGTH = 2000
NUMBER, TEXT, TRUTH = "a number", "a text", "true or false"

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.true_divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int | None]] = {  # function, fewest and most arguments
    "min": (np.minimum, 2, None),
    "max": (np.maximum, 2, None),
    "abs": (np.abs, 1, 1),
    "log": (np.log, 1, 1),
    "exp": (np.exp, 1, 1),
}


@dataclass(frozen=True)
class Constraint:
    """A condition that a point must meet.

    text: as the user wrote it; names: the columns that it reads.
    """

    text: str
    names: frozenset[str]
    _evaluate: Evaluate

    def holds(self, columns: Columns) -> NDArray[np.bool_]:
        """Check n points: `columns` maps each of `names` to an array of shape (n,); returns booleans of that shape.

        A point at which the expression is not defined (0/0, log of a negative number) does not meet it.
        """
        with np.errstate(all="ignore"):
            return np.asarray(self._evaluate(columns), dtype=bool)


def parse(text: str, kinds: Mapping[str, str]) -> Constraint:
    """Parse a constraint over columns whose kinds (NUMBER or TEXT) are given by name.

    Raises ExpressionError with a sentence that quotes the place.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the expression has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ExpressionError(f'"{text}" cannot be parsed ({reason})') from None
    compiler = _Compiler(text.strip(), kinds)
    try:
        kind, evaluate = compiler.compile(tree)
    except RecursionError:
        raise ExpressionError(f'"{text}" is nested too deeply') from None
    if kind != TRUTH:
        raise ExpressionError(f'"{text}" is {kind}, but a constraint must compare, as in "a + b <= 10"')
    if not compiler.names:
        raise ExpressionError(f'"{text}" names no variable, so it cannot constrain any')
    return Constraint(text, frozenset(compiler.names), evaluate)


class _Compiler:
    """Turns the accepted syntax nodes into functions of the columns, and collects the names."""

    def __init__(self, text: str, kinds: Mapping[str, str]) -> None:
        self.text = text
        self.kinds = kinds
        self.names: set[str] = set()

    def compile(self, node: ast.expr) -> tuple[str, Evaluate]:
        match node:
            case ast.Constant(value=value):
                return self._constant(node, value)
            case ast.Name(id=name):
                return self._variable(node, name)
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int(index))):
                return self._variable(node, f"{name}[{index}]")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return NUMBER, _apply(np.negative, [self._typed(operand, NUMBER)])
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return NUMBER, self._typed(operand, NUMBER)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return TRUTH, _apply(np.logical_not, [self._typed(operand, TRUTH)])
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
                sides = [self._typed(left, NUMBER), self._typed(right, NUMBER)]
                return NUMBER, _apply(_ARITHMETIC[type(operator)], sides)
            case ast.BoolOp(op=operator, values=values):
                function = np.logical_and if isinstance(operator, ast.And) else np.logical_or
                return TRUTH, _fold(function, [self._typed(value, TRUTH) for value in values])
            case ast.Compare(left=left, ops=operators, comparators=rights):
                return self._comparison(node, operators, [left, *rights])
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(node, name, arguments)
        raise ExpressionError(
            f"{self._quote(node)} is not allowed; a constraint may use numbers, variables, + - * / // % **,"
            f" comparisons, and, or, not, {', '.join(_FUNCTIONS)}"
        )

    def _constant(self, node: ast.expr, value: object) -> tuple[str, Evaluate]:
        if isinstance(value, str):
            return TEXT, lambda columns: value
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number):
                return NUMBER, lambda columns: number
        raise ExpressionError(f"{self._quote(node)} is not a finite number or a text")

    def _variable(self, node: ast.expr, name: str) -> tuple[str, Evaluate]:
        if name not in self.kinds:
            if name in _FUNCTIONS:
                raise ExpressionError(f"{self._quote(node)} is a function and needs arguments: {name}(...)")
            elements = [known for known in self.kinds if known.startswith(f"{name}[")]
            if elements:
                raise ExpressionError(
                    f'"{name}" in "{self.text}" has {len(elements)} elements; name one, as in {elements[0]}'
                )
            raise ExpressionError(f'"{name}" in "{self.text}" is not a variable{did_you_mean(name, self.kinds)}')
        self.names.add(name)
        return self.kinds[name], lambda columns: columns[name]

    def _typed(self, node: ast.expr, wanted: str) -> Evaluate:
        kind, evaluate = self.compile(node)
        if kind != wanted:
            raise ExpressionError(f"{self._quote(node)} is {kind} where {wanted} is needed")
        return evaluate

    def _comparison(
        self, node: ast.expr, operators: Sequence[ast.cmpop], operands: Sequence[ast.expr]
    ) -> tuple[str, Evaluate]:
        sides = [self.compile(operand) for operand in operands]
        links: list[Evaluate] = []
        for operator, (left_kind, left), (right_kind, right) in zip(operators, sides, sides[1:], strict=False):
            if type(operator) not in _COMPARISONS:
                raise ExpressionError(f"{self._quote(node)} is not a comparison by < <= > >= == or !=")
            if left_kind != right_kind or left_kind == TRUTH:
                raise ExpressionError(f"{self._quote(node)} compares {left_kind} with {right_kind}")
            if left_kind == TEXT and not isinstance(operator, ast.Eq | ast.NotEq):
                raise ExpressionError(f"{self._quote(node)} orders texts; they can only be compared by == and !=")
            links.append(_apply(_COMPARISONS[type(operator)], [left, right]))
        return TRUTH, _fold(np.logical_and, links)

    def _call(self, node: ast.expr, name: str, arguments: Sequence[ast.expr]) -> tuple[str, Evaluate]:
        if name not in _FUNCTIONS:
            raise ExpressionError(
                f'"{name}" in "{self.text}" is not a function{did_you_mean(name, _FUNCTIONS)};'
                f" allowed: {', '.join(_FUNCTIONS)}"
            )
        function, fewest, most = _FUNCTIONS[name]
        if len(arguments) < fewest or (most is not None and len(arguments) > most):
            wanted = f"{fewest} argument" if most == fewest else f"at least {fewest} arguments"
            raise ExpressionError(f"{self._quote(node)} has {len(arguments)} arguments; {name} takes {wanted}")
        values = [self._typed(argument, NUMBER) for argument in arguments]
        return NUMBER, _apply(function, values) if most == 1 else _fold(function, values)

    def _quote(self, node: ast.expr) -> str:
        return f'"{ast.get_source_segment(self.text, node) or self.text}" in "{self.text}"'


def _apply(function: Callable[..., Any], arguments: Sequence[Evaluate]) -> Evaluate:
    return lambda columns: function(*(argument(columns) for argument in arguments))


def _fold(function: Callable[[Any, Any], Any], arguments: Sequence[Evaluate]) -> Evaluate:
    return lambda columns: functools.reduce(function, (argument(columns) for argument in arguments))

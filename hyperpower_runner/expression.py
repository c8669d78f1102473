"""The language of known constraints: arithmetic and comparisons over variables, checked for whole arrays at once.

    conv1_features * fc_units <= 40000 and (pool1_kernel > 1 or log(learning_rate) < -3)

It knows numbers, "texts", variables (`name`, or `name[0]` where the variable has a size), + - * / // % **,
comparisons (also chained: 1 < a < b), and / or / not, and the functions min, max, abs, log, exp. Python's own parser
reads it, then only the nodes listed here are accepted and turned into numpy calls; nothing is ever evaluated as Python.
Where an operand is not defined (division by zero, log of zero or less) it is nan, and a comparison with it neither
holds nor fails to: `not` is carried down to the comparisons, so that no point gets through because of it. What is too
large for a float is infinite. It knows nothing of spaces: what a name may be is handed in.
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

from hyperpower_runner.errors import ExpressionError, did_you_mean, shortened

Columns = Mapping[str, NDArray[Any]]
Evaluate = Callable[[Columns], Any]

MAX_LENGTH = 2000
MAX_DEPTH = 150  # of the syntax tree; evaluating takes two of Python's frames for each level
NUMBER, TEXT, TRUTH = "a number", "a text", "true or false"


def _undefined_by_zero(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda left, right: np.where(np.equal(right, 0), np.nan, function(left, right))


def _power(base: Any, exponent: Any) -> Any:
    undefined = np.isnan(base) | np.isnan(exponent) | (np.equal(base, 0) & np.less(exponent, 0))
    return np.where(undefined, np.nan, np.power(base, exponent))  # numpy has nan**0 = 1 and 0**-1 = inf


def _log(value: Any) -> Any:
    return np.log(np.where(np.greater(value, 0), value, np.nan))


def _differ(left: Any, right: Any) -> Any:
    return np.less(left, right) | np.greater(left, right)  # unlike np.not_equal, not true of nan


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: _undefined_by_zero(np.true_divide),
    ast.FloorDiv: _undefined_by_zero(np.floor_divide),
    ast.Mod: np.mod,
    ast.Pow: _power,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: _differ,
}
_OPPOSITES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int | None]] = {  # function, fewest and most arguments
    "min": (np.minimum, 2, None),
    "max": (np.maximum, 2, None),
    "abs": (np.abs, 1, 1),
    "log": (_log, 1, 1),
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

        A point meets it only if it does whatever the undefined parts of the expression would be.
        """
        with np.errstate(all="ignore"):
            return np.asarray(self._evaluate(columns), dtype=bool)


def parse(text: str, kinds: Mapping[str, str], texts: Mapping[str, Sequence[str]] | None = None) -> Constraint:
    """Parse a constraint over columns whose kinds (NUMBER or TEXT) are given by name.

    texts: what a TEXT column may be, by name; a comparison with anything else is a slip of the pen.

    Raises ExpressionError with a sentence that quotes the place.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the expression has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's, on its own dialect
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ExpressionError(f'"{shortened(text)}" cannot be parsed ({reason})') from None
    if _depth(tree) > MAX_DEPTH:
        raise ExpressionError(f'"{shortened(text)}" is nested too deeply')
    compiler = _Compiler(text.strip(), kinds, texts or {})
    kind, evaluate = compiler.compile(tree)
    if kind != TRUTH:
        raise ExpressionError(f'"{shortened(text)}" is {kind}, but a constraint must compare, as in "a + b <= 10"')
    if not compiler.names:
        raise ExpressionError(f'"{shortened(text)}" names no variable, so it cannot constrain any')
    return Constraint(text, frozenset(compiler.names), evaluate)


def _depth(tree: ast.AST) -> int:
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [child for node in level for child in ast.iter_child_nodes(node)]
    return depth


class _Compiler:
    """Turns the accepted syntax nodes into functions of the columns, and collects the names."""

    def __init__(self, text: str, kinds: Mapping[str, str], texts: Mapping[str, Sequence[str]]) -> None:
        self.text = text
        self.kinds = kinds
        self.texts = texts
        self.names: set[str] = set()

    def compile(self, node: ast.expr, negated: bool = False) -> tuple[str, Evaluate]:
        """Return the kind of a node and its function; `negated` asks for the opposite of what is true or false."""
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
                return TRUTH, self._typed(operand, TRUTH, not negated)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
                sides = [self._typed(left, NUMBER), self._typed(right, NUMBER)]
                return NUMBER, _apply(_ARITHMETIC[type(operator)], sides)
            case ast.BoolOp(op=operator, values=values):
                sides = [self._typed(value, TRUTH, negated) for value in values]
                return TRUTH, _fold(_junction(isinstance(operator, ast.And), negated), sides)
            case ast.Compare(left=left, ops=operators, comparators=rights):
                return self._comparison(node, operators, [left, *rights], negated)
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
                    f"{self._quote(name)} has {len(elements)} elements; name one, as in {elements[0]}"
                )
            raise ExpressionError(f"{self._quote(name)} is not a variable{did_you_mean(name, self.kinds)}")
        self.names.add(name)
        return self.kinds[name], lambda columns: columns[name]

    def _typed(self, node: ast.expr, wanted: str, negated: bool = False) -> Evaluate:
        kind, evaluate = self.compile(node, negated)
        if kind != wanted:
            raise ExpressionError(f"{self._quote(node)} is {kind} where {wanted} is needed")
        return evaluate

    def _comparison(
        self, node: ast.expr, operators: Sequence[ast.cmpop], operands: Sequence[ast.expr], negated: bool
    ) -> tuple[str, Evaluate]:
        sides = [self.compile(operand) for operand in operands]
        self._check_texts(operands)
        links: list[Evaluate] = []
        for operator, (left_kind, left), (right_kind, right) in zip(operators, sides, sides[1:], strict=False):
            if type(operator) not in _COMPARISONS:
                raise ExpressionError(f"{self._quote(node)} is not a comparison by < <= > >= == or !=")
            if left_kind != right_kind or left_kind == TRUTH:
                raise ExpressionError(f"{self._quote(node)} compares {left_kind} with {right_kind}")
            if left_kind == TEXT and not isinstance(operator, ast.Eq | ast.NotEq):
                raise ExpressionError(f"{self._quote(node)} orders texts; they can only be compared by == and !=")
            comparison = _OPPOSITES[type(operator)] if negated else type(operator)
            links.append(_apply(_COMPARISONS[comparison], [left, right]))
        return TRUTH, _fold(_junction(True, negated), links)

    def _check_texts(self, operands: Sequence[ast.expr]) -> None:
        """Refuse a text that no variable it is compared with can be: such a comparison says nothing."""
        names = [operand.id for operand in operands if isinstance(operand, ast.Name) and operand.id in self.texts]
        for operand in operands:
            if isinstance(operand, ast.Constant) and isinstance(operand.value, str):
                for name in names:
                    if operand.value not in self.texts[name]:
                        raise ExpressionError(
                            f"{self._quote(operand)} is not an option of {name}, which has"
                            f" {', '.join(self.texts[name])}{did_you_mean(operand.value, self.texts[name])}"
                        )

    def _call(self, node: ast.expr, name: str, arguments: Sequence[ast.expr]) -> tuple[str, Evaluate]:
        if name not in _FUNCTIONS:
            raise ExpressionError(
                f"{self._quote(name)} is not a function{did_you_mean(name, _FUNCTIONS)};"
                f" allowed: {', '.join(_FUNCTIONS)}"
            )
        function, fewest, most = _FUNCTIONS[name]
        if len(arguments) < fewest or (most is not None and len(arguments) > most):
            wanted = f"{fewest} argument" if most == fewest else f"at least {fewest} arguments"
            raise ExpressionError(f"{self._quote(node)} has {len(arguments)} arguments; {name} takes {wanted}")
        values = [self._typed(argument, NUMBER) for argument in arguments]
        return NUMBER, _apply(function, values) if most == 1 else _fold(function, values)

    def _quote(self, place: ast.expr | str) -> str:
        text = place if isinstance(place, str) else ast.get_source_segment(self.text, place) or self.text
        return f'"{shortened(text)}" in "{shortened(self.text)}"'


def _junction(conjunction: bool, negated: bool) -> Callable[[Any, Any], Any]:
    """`and` or `or`; by De Morgan each is the other one of the opposites."""
    return np.logical_and if conjunction != negated else np.logical_or


def _apply(function: Callable[..., Any], arguments: Sequence[Evaluate]) -> Evaluate:
    return lambda columns: function(*(argument(columns) for argument in arguments))


def _fold(function: Callable[[Any, Any], Any], arguments: Sequence[Evaluate]) -> Evaluate:
    return lambda columns: functools.reduce(function, (argument(columns) for argument in arguments))

"""The constraint language against Python's own arithmetic, and against everything that is outside of it."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hyperpower_runner.errors import ExpressionError
from hyperpower_runner.expression import MAX_DEPTH, MAX_LENGTH, NUMBER, TEXT, Constraint, parse

KINDS = {"a": NUMBER, "b": NUMBER, "c": NUMBER, "w[0]": NUMBER, "w[1]": NUMBER, "kind": TEXT}
PYTHON = {"min": min, "max": max, "abs": abs, "log": math.log, "exp": math.exp}

EQUAL_TO_PYTHON = [
    "a + b * c <= 3",
    "(a + b) * c <= 3",
    "a - b - c < 0",
    "a - (b - c) < 0",
    "a / b / c > 0.5",
    "a / (b / c) > 0.5",
    "a // b >= 1",
    "a % b < 1",
    "-a // b == c // -b",
    "-a % b <= a % -b",
    "a // b * b + a % b <= a",
    # Powers and exponentials may differ from Python's in the last digit, so these keep away from equality.
    "a ** 2 + b ** 2 <= c ** 2 + 0.01",
    "-a ** 2 < b + 0.01",
    "(-a) ** 2 < b + 0.01",
    "2 ** -a < b + 0.01",
    "a ** b ** 2 < 4.01",
    "(a ** b) ** 2 < 4.01",
    "a ** b < c + 0.01",
    "a ** 0.5 < b + 0.01",
    "+a - -b <= c",
    "a < b < c",
    "a < b > c",
    "a <= b <= c <= 4 <= 8",
    "-1 < a == b",
    "a == b",
    "a != b",
    "a < b and b < c",
    "a < b or b < c",
    "a < b or b < c and c < a",
    "(a < b or b < c) and c < a",
    "not a < b",
    "not a < b or b < c",
    "not (a < b or b < c)",
    "not (a < b < c)",
    "not (not a < b and not b < c)",
    "not (a == b or a != c)",
    "min(a, b) <= max(b, c) - 1",
    "min(a, b, c) + max(a, b, c) < 1",
    "abs(a - b) <= abs(c)",
    "log(abs(a) + 1) < exp(-b)",
    "log(a) < b",
    "not log(a) < b",
    "log(a) != b",
    "exp(log(a)) <= b + 0.01",
    "w[0] < w[1]",
    "3 * w[1] - w[0] >= a",
    "1e-3 < abs(a) < 1_0.5",
    "kind == 'sgd'",
    "'sgd' != kind",
    "kind == 'sgd' and a < b or kind != 'adam' and b < c",
    "not kind == 'sgd' or a < 1",
]


def holds(text: str, **columns: Any) -> list[bool]:
    found = parse(text, KINDS).holds({name: np.atleast_1d(column) for name, column in columns.items()})
    return [bool(held) for held in found]


def parsed(text: str) -> tuple[Constraint | None, str]:
    """The constraint, or the sentence with which it is refused."""
    try:
        return parse(text, KINDS), ""
    except ExpressionError as error:
        return None, str(error)


@functools.cache
def compiled(text: str) -> Any:
    return compile(text, "<constraint>", "eval")


def python_says(text: str, point: dict[str, Any]) -> bool:
    """Python's own value of an expression; False where Python cannot compute it."""
    names = {**point, "w": [point["w[0]"], point["w[1]"]]}
    try:
        return bool(eval(compiled(text), {"__builtins__": PYTHON}, names))
    except (ValueError, ZeroDivisionError, TypeError):  # TypeError: a power became complex
        return False


@pytest.fixture(scope="module")
def points() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(3)
    count = 2000
    columns: dict[str, NDArray[Any]] = {
        # Halves and wholes, so that equality, zero and the borders of // and % come up.
        name: np.where(rng.random(count) < 0.5, rng.integers(-6, 7, count) / 2, rng.normal(0, 2, count))
        for name in KINDS
        if name != "kind"
    }
    columns["kind"] = rng.choice(np.array(["sgd", "adam", "sgd "]), count)
    return columns


@pytest.fixture(scope="module")
def rows(points: dict[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """The same points one by one, as Python's numbers."""
    columns = (column.tolist() for column in points.values())
    return [dict(zip(points, row, strict=True)) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize("text", EQUAL_TO_PYTHON)
def test_a_constraint_holds_where_python_says_so(
    text: str, points: dict[str, NDArray[Any]], rows: list[dict[str, Any]]
) -> None:
    expected = [python_says(text, row) for row in rows]
    assert 0 < sum(expected) < len(expected), "the battery must see both outcomes"
    assert parse(text, KINDS).holds(points).tolist() == expected


@pytest.mark.parametrize("left", ["a", "-a", "a + b", "a ** 2", "min(a, b)"])
@pytest.mark.parametrize("operator", ["+", "-", "*", "/", "//", "%", "**"])
@pytest.mark.parametrize("right", ["b", "-b", "b - c", "abs(c)"])
def test_every_operator_agrees_with_python_on_numbers(
    left: str, operator: str, right: str, points: dict[str, NDArray[Any]], rows: list[dict[str, Any]]
) -> None:
    text = f"{left} {operator} {right} <= 0.51"
    first = {name: column[:200] for name, column in points.items()}
    assert parse(text, KINDS).holds(first).tolist() == [python_says(text, row) for row in rows[:200]]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("a / b < 1", {"a": 0.0, "b": 0.0}),
        ("a / b < 1", {"a": -1.0, "b": 0.0}),
        ("a // b < 1", {"a": -1.0, "b": 0.0}),
        ("a % b < 1", {"a": -1.0, "b": 0.0}),
        ("a / b != 1", {"a": 0.0, "b": 0.0}),
        ("not a / b < 1", {"a": 0.0, "b": 0.0}),
        ("not (a / b == 1)", {"a": 0.0, "b": 0.0}),
        ("not (a / b < 1 < a)", {"a": 2.0, "b": 0.0}),
        ("not (a / b < 1 and a < 5)", {"a": 0.0, "b": 0.0}),
        ("log(a) < 9", {"a": -1.0}),
        ("not log(a) < 9", {"a": -1.0}),
        ("log(a) != 9", {"a": -1.0}),
        ("log(a) < 9", {"a": 0.0}),
        ("(log(a)) ** 0 == 1", {"a": -1.0}),
        ("max(log(a), 3) >= 3", {"a": -1.0}),
        ("a ** -1 > 3", {"a": 0.0}),
        ("a ** 0.5 < 3", {"a": -4.0}),
        ("exp(a) - exp(a) < 1", {"a": 1e4}),
    ],
)
def test_an_undefined_point_does_not_meet_a_constraint_nor_its_negation(text: str, at: dict[str, float]) -> None:
    assert holds(text, **at) == [False]
    assert holds(f"not ({text})", **at) == [False]


def test_what_is_defined_decides_where_it_alone_can() -> None:
    assert holds("b == 0 or a / b < 3", a=1.0, b=0.0) == [True]
    assert holds("a / b < 3 or b == 0", a=1.0, b=0.0) == [True]
    assert holds("not (a / b < 3 and b != 0)", a=1.0, b=0.0) == [True]
    assert holds("a / b < 3 and b == 0", a=1.0, b=0.0) == [False]


def test_numbers_beyond_a_float_are_infinite_and_not_computed() -> None:
    assert holds("a <= 10 ** 10 ** 10", a=[1.0, 1e300]) == [True, True]
    assert holds("exp(a) > 5", a=1e5) == [True]
    assert holds("exp(a) <= 5", a=1e5) == [False]


def test_texts_are_compared_exactly() -> None:
    kinds = np.array(["sgd", "sgd ", "SGD", ""])
    assert holds("kind == 'sgd'", kind=kinds) == [True, False, False, False]
    assert holds("kind != 'sgd'", kind=kinds) == [False, True, True, True]
    assert holds("kind == ''", kind=kinds) == [False, False, False, True]


def test_a_constraint_knows_its_text_and_the_columns_it_reads() -> None:
    constraint = parse("  w[1] * a <= 3 or kind == 'a' ", KINDS)
    assert constraint.text.strip() == "w[1] * a <= 3 or kind == 'a'"
    assert constraint.names == {"w[1]", "a", "kind"}


def test_parts_without_variables_are_broadcast() -> None:
    assert holds("a < 1 or 2 < 1", a=[0.0, 2.0]) == [True, False]
    assert holds("a < 1 or 1 < 2", a=[0.0, 2.0]) == [True, True]
    assert holds("'x' == 'x' and a < 1", a=[0.0, 2.0]) == [True, False]


def test_no_points_give_no_answers() -> None:
    assert holds("a < 1", a=np.zeros(0)) == []


REFUSED = {
    "a call": "print(a) < 1",
    "a dangerous call": "__import__('os').system('true') == 0",
    "a dunder name": "__builtins__ < a",
    "an attribute": "a.real < 1",
    "a method": "a.bit_length() < 1",
    "a keyword argument": "max(a, b, key=c) < 1",
    "a starred argument": "max(*a) < 1",
    "a lambda": "(lambda: a)() < 1",
    "a comprehension": "[a for a in b] == a",
    "a generator": "max(a for a in b) < 1",
    "a list": "[a] == [b]",
    "a tuple": "(a, b) < (b, c)",
    "a dict": "{a: b} == {}",
    "a set": "{a} == {b}",
    "an f-string": "f'{a}' == kind",
    "a walrus": "(a := 3) < b",
    "a conditional": "(a if b < c else c) < 1",
    "bit arithmetic": "a & b < 1",
    "a shift": "a << b < 1",
    "bit negation": "~a < 1",
    "matrix multiplication": "a @ b < 1",
    "membership": "a in b",
    "identity": "a is b",
    "a complex number": "a < 1j",
    "bytes": "kind == b'a'",
    "true": "a == True",
    "none": "a == None",
    "an ellipsis": "a == ...",
    "await": "await a < 1",
    "yield": "(yield a) < 1",
    "a slice": "w[0:1] < 1",
    "a negative index": "w[-1] < 1",
    "a computed index": "w[a] < 1",
    "an index that is true": "w[True] < 1",
    "an index beyond the last": "w[2] < 1",
    "an index of a single variable": "a[0] < 1",
    "a variable with a size as a whole": "w < 1",
    "a statement": "a = 3",
    "two statements": "a < 1; b < 1",
    "an import": "import os",
    "half an expression": "a <",
    "nothing": "",
    "blanks": "  \t ",
    "a comment only": "# a < 1",
    "a line break": "a <\n1",
    "a null byte": "a < 1\0",
    "a lone surrogate": "a < '\ud800'",
    "an infinite number": "a < 1e999",
    "a huge integer": "a < " + "9" * 500,
    "a number alone": "a + b",
    "a text alone": "kind",
    "a truth as a number": "(a < b) + 1 < 2",
    "a truth compared": "(a < b) == (b < c)",
    "a number as a truth": "a and b",
    "not a number": "not a",
    "minus a text": "-kind == 'a'",
    "arithmetic on texts": "kind + 'a' == 'b'",
    "a text and a number compared": "kind == 3",
    "texts ordered": "kind < 'b'",
    "no variable": "1 < 2",
    "a function without arguments": "min() < a",
    "a function with too few arguments": "min(a) < b",
    "a function with too many arguments": "log(a, 2) < b",
    "a function as a value": "log < a",
    "a variable as a function": "a(3) < b",
    "deep parentheses": "(" * 400 + "a" + ")" * 400 + " < 1",
    "deep negation": "not " * (MAX_DEPTH + 1) + "a < 1",
    "deep signs": "-" * 1900 + "a < 1",
    "a long sum": "+".join(["a"] * 900) + " < 1",
    "a long text": "a < 1 " + "or a < 1 " * MAX_LENGTH,
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_outside_the_language_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text, KINDS)
    message = str(caught.value)
    assert message
    assert message.isprintable()
    assert len(message) < 500


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("aa + b < 1", 'did you mean "a"?'),
        ("mim(a, b) < 1", 'did you mean "min"?'),
        ("kin == 'x'", 'did you mean "kind"?'),
        ("w < 1", "w[0]"),
        ("a < 1 and b.real < 1", '"b.real" in "a < 1 and b.real < 1"'),
        ("a + b", "must compare"),
        ("log(a, b) < 1", "2 arguments; log takes 1 argument"),
        ("kind < 'b'", "only be compared by == and !="),
    ],
)
def test_the_sentence_names_the_place_and_what_to_do(text: str, part: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text, KINDS)
    assert part in str(caught.value)


def test_an_expression_of_the_allowed_depth_is_evaluated_also_deep_in_the_stack() -> None:
    constraint = parse("+".join(["a"] * (MAX_DEPTH - 3)) + " < 1", KINDS)

    def deeper(levels: int) -> list[bool]:
        return deeper(levels - 1) if levels else constraint.holds({"a": np.array([0.0, 1.0])}).tolist()

    assert deeper(300) == [True, False]


@given(st.text(max_size=60))
def test_arbitrary_text_is_parsed_or_refused_and_nothing_else(text: str) -> None:
    constraint, refusal = parsed(text)
    assert refusal.isprintable()
    assert bool(refusal) is (constraint is None)


WORDS = [*KINDS, "3", "0", "0.5", "'x'", "+", "-", "*", "/", "//", "%", "**", "<", "<=", "==", "!=", "and", "or", "not"]
WORDS += ["(", ")", ",", "min(", "log(", "abs(", "w[", "]", ".", "lambda:", "if", "else", "for", "in", ":=", "{", "}"]


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=14))
def test_arbitrary_words_are_refused_or_give_one_boolean_a_point(words: list[str]) -> None:
    constraint, _ = parsed(" ".join(words))
    if constraint is None:
        return
    columns: dict[str, NDArray[Any]] = {name: np.array([-1.0, 0.0, 2.5]) for name in KINDS}
    columns["kind"] = np.array(["x", "y", ""])
    found = constraint.holds(columns)
    assert found.shape == (3,)
    assert found.dtype == np.bool_


NUMBERS = st.recursive(
    st.sampled_from(["a", "b", "c", "w[0]", "0", "1", "2.5"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map("({0[0]} {0[1]} {0[2]})".format),
        inner.map("-{}".format),
        inner.map("abs({})".format),
        st.tuples(inner, inner).map("min({0[0]}, {0[1]})".format),
    ),
    max_leaves=6,
)
COMPARISONS = st.tuples(NUMBERS, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), NUMBERS).map(" ".join)
TRUTHS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map("({0[0]} {0[1]} {0[2]})".format),
        inner.map("not ({})".format),
    ),
    max_leaves=4,
)


@given(TRUTHS, st.lists(st.sampled_from([-2.0, -0.5, 0.0, 1.0, 3.0]), min_size=5, max_size=5))
def test_random_expressions_agree_with_python_where_python_can_compute_all_of_it(text: str, at: list[float]) -> None:
    point: dict[str, Any] = dict(zip(["a", "b", "c", "w[0]", "w[1]"], at, strict=True))
    constraint, refusal = parsed(text)
    if constraint is None:
        assert "names no variable" in refusal
        return
    try:
        expected = bool(eval(text, {"__builtins__": PYTHON}, {**point, "w": at[3:]}))
    except ZeroDivisionError:
        return
    assert constraint.holds({name: np.array([value]) for name, value in point.items()}).tolist() == [expected]


def test_a_text_that_its_variable_cannot_be_is_refused_with_the_nearest_option() -> None:
    kinds = {"kind": TEXT, "a": NUMBER}
    options = {"kind": ["relu", "tanh"]}
    for text in ("kind == 'rleu'", "a < 1 or not ('rleu' != kind)"):
        with pytest.raises(ExpressionError, match=r'is not an option of kind.*did you mean "relu"'):
            parse(text, kinds, options)
    parse("kind == 'relu' or kind != 'tanh'", kinds, options)

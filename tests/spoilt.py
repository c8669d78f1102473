"""Files as they may become: by hand, by another program, on a dying disk.

Strategies for hypothesis begin with a file as it should be and change it: values, keys, lines, bytes, or all of it.
They know no file of this package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TIMES = settings().max_examples / 100  # 20 with --hypothesis-profile=long
Place = tuple[str | int, ...]  # of one value in a JSON text: keys and indices

# Signs that make no name of a program: what is drawn may become an objective's command.
TEXTS = st.text(st.sampled_from("0159 _-.,:;=[]{}%é€\u2028\U0001f600\ud800\x00\x1b\n\"\\'"), max_size=6)

# As JSON text, since Python has no value for some: numbers beyond floats, keys that stand twice, brackets without end.
ODD = (
    *("null", "true", "false", "0", "-1", "1", "2", "1.0", "0.5", "-0.0", "1e308", "-1e308", "1e999", "5e-324"),
    *("NaN", "Infinity", "-Infinity"),
    *('"NaN"', '"Infinity"', '"-Infinity"'),
    *("9" * 20, "-" + "9" * 400, "9" * 4300, "9" * 5000),
    *('""', '"\\ud800"', '"\\u0000"', '"\\u001b[2J\\n"', '"' + "x" * 3000 + '"'),
    *("[]", "{}", "[[]]", "[{}]", "[null]", "[1, 2]", '["NaN"]', '{"a": 1}', '{"a": 1, "a": 2}', '{"": null}'),
    *("[" * 200 + "]" * 200, "[" * 900 + "]" * 900, '{"a":' * 300 + "1" + "}" * 300, "[" * 5000 + "]" * 5000),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
ODD_VALUES = st.sampled_from(ODD) | JSON.map(json.dumps)
JUNK = st.binary(max_size=40) | st.sampled_from(
    [b"\xef\xbb\xbf", b"\xff\xfe{\x00}\x00", b"\x00" * 64, b"{}\n{}\n", b"{", b"\r"]
)


CHANGES = ("replace", "replace", "replace", "replace", "delete", "twice", "add", "rename", "wrap")


@st.composite
def spoilt_json(draw: st.DrawFn, text: str) -> str:
    """A JSON text of which one value or a few are others, or are not there, or stand twice."""
    content = json.loads(text)
    places = list(_places(content))
    changes = {
        draw(st.sampled_from(places)): (draw(st.sampled_from(CHANGES)), draw(ODD_VALUES))
        for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3])))
    }
    return _render(content, changes, ())


def replaced(text: str, place: Place, odd: str) -> str:
    """A JSON text with another value at one place."""
    return _render(json.loads(text), {place: ("replace", odd)}, ())


def _places(content: Any, path: Place = ()) -> Iterable[Place]:
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from _places(value, (*path, key))


def _render(content: Any, changes: dict[Place, tuple[str, str]], path: Place) -> str:
    change, odd = changes.get(path, ("", ""))
    if change in ("replace", "twice"):
        return odd
    if change == "wrap":
        return f"[{json.dumps(content)}]"
    if isinstance(content, list):
        items = [_render(item, changes, (*path, place)) for place, item in enumerate(content)]
        kept = [item for place, item in enumerate(items) if changes.get((*path, place), [""])[0] != "delete"]
        return f"[{', '.join([*kept, odd] if change == 'add' else kept)}]"
    if isinstance(content, dict):
        pairs = []
        for key, value in content.items():
            how = changes.get((*path, key), ("", ""))[0]
            if how == "twice":
                pairs.append((key, json.dumps(value)))
            if how != "delete":
                pairs.append((f"{key}x" if how == "rename" else key, _render(value, changes, (*path, key))))
        pairs += [("added", odd)] if change == "add" else []
        return "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in pairs) + "}"
    return json.dumps(content)


@st.composite
def spoilt_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """A file that was cut, or in which something else stands at some place."""
    begin = draw(st.integers(0, len(content)))
    end = draw(st.sampled_from([begin, begin + 1, begin + 5, len(content)]))
    return content[:begin] + draw(JUNK) + content[end:]


def spoilt(content: bytes) -> st.SearchStrategy[bytes]:
    """What may become of a file that holds one JSON object."""
    text = content.decode()
    changed = spoilt_json(text).map(str.encode)
    # Most draws are nearly right: those come furthest.
    whole = JUNK | ODD_VALUES.map(str.encode) | st.sampled_from([b"\xef\xbb\xbf" + content, text.encode("utf-16")])
    return st.one_of(changed, changed, changed, spoilt_bytes(content), whole)


@st.composite
def spoilt_lines(draw: st.DrawFn, content: bytes) -> bytes:
    """What may become of a file that holds one JSON object a line."""
    lines = content.splitlines()
    for place in draw(st.sets(st.integers(0, len(lines) - 1), min_size=1, max_size=3)):
        changed = spoilt_json(lines[place].decode()).map(str.encode)
        whole = ODD_VALUES.map(str.encode) | JUNK
        line = draw(st.one_of(changed, changed, changed, spoilt_bytes(lines[place]), whole))
        lines[place] = draw(st.sampled_from([line, line, line + b"\n" + lines[place]]))
    joined = b"".join(line + b"\n" for line in lines)
    return draw(st.one_of(st.just(joined), st.just(joined), spoilt_bytes(joined)))


def times(count: int) -> settings:
    """So many examples, times what the profile says; what is copied for each may take longer than hypothesis likes."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=round(TIMES * count), suppress_health_check=slow)


# What may lie where a file is expected.


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_dangling(path: Path) -> None:
    path.symlink_to("nowhere")

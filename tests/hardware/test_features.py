"""Computed features: scripts that are found, called at once or one by one, and scripts that are wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hyperpower_runner.errors import ModelsError
from hyperpower_runner.hardware.features import MOST_REMEMBERED, Features, load_features, with_intensity
from hyperpower_runner.space import Array, Space, Variable

SPACE = Space(
    (
        Variable("conv", "INT", 1, 80, size=2),
        Variable("rate", "FLOAT", 0.001, 0.1, structural=False),
        Variable("width", "FLOAT", 0.5, 2.0),
        Variable("kind", "ENUM", options=("relu", "tanh")),
        Variable("batch", "ENUM", options=(16, 64)),
        Variable("bias", "ENUM", options=(True, False)),
        Variable("depth", "ENUM", options=(1, "auto")),
    )
)
Write = Callable[[str], Features]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Features:
        script = tmp_path / "train.py"
        script.write_text(text)
        features = load_features(script)
        assert features is not None
        return features

    return written


def points(count: int = 100) -> Array:
    return SPACE.sample(np.random.default_rng(0), count)


def test_a_script_of_arithmetic_is_called_at_once(write: Write) -> None:
    features = write(
        "calls = [0]\n"
        "def features(params):\n"
        "    calls[0] += 1\n"
        "    a, b = params['conv']\n"
        "    return {'product': a * b // 3, 'wide': params['width'] * params['batch'], 'same': 7, 'sum': a + b,"
        " 'relu': (params['kind'] == 'relu') * 1, 'calls': calls[0] > 0}\n"
    )
    values = points(5000)
    columns = features.columns(SPACE, values)
    for place, params in enumerate(map(SPACE.to_params, values)):
        a, b = params["conv"]
        expected = [a * b // 3, params["width"] * params["batch"], 7, a + b, params["kind"] == "relu", 1]
        assert [columns[name][place] for name in columns] == expected
    hook = features._hook
    assert hook is not None
    assert hook.__globals__["calls"] == [20]  # 16 singly, 2 for what is not structural, then the same and all at once
    features.columns(SPACE, values)
    assert hook.__globals__["calls"] == [21]


def test_features_that_depend_on_what_is_not_structural_are_refused(write: Write) -> None:
    other = next(variable.name for variable in SPACE.variables if not variable.structural)
    features = write(f"def features(params):\n    return {{'parameters': params['width'] * (1 + params['{other}'])}}\n")
    with pytest.raises(ModelsError, match=f'"parameters" that depends on "{other}".*"structural": true'):
        features.columns(SPACE, points(100))


@pytest.mark.parametrize(
    "body",
    [
        "return {'a': max(params['conv'])}",
        "return {'a': 1 if params['kind'] == 'relu' else 2}",
        "return {'a': 1 if params['width'] > 1 and params['bias'] else 2}",
        "return {'a': len(str(params['depth']))}",
        "return {'a': {'relu': 1, 'tanh': 2}[params['kind']]}",
        "return {'a': int(params['width'] * 10)}",
        "return {'a': sum(range(params['conv'][0]))}",
    ],
)
def test_a_script_that_needs_numbers_gets_numbers(body: str, write: Write) -> None:
    values = points()
    columns = write(f"def features(params):\n    {body}\n").columns(SPACE, values)
    scope: dict[str, object] = {}
    exec(f"def features(params):\n    {body}\n", scope)
    assert columns["a"].tolist() == [scope["features"](SPACE.to_params(value))["a"] for value in values]  # type: ignore[operator]


def test_a_script_that_answers_arrays_otherwise_is_noticed(write: Write) -> None:
    features = write(
        "def features(params):\n"
        "    try:\n"
        "        return {'a': 10 if params['conv'][0] > 40 else 20}\n"
        "    except ValueError:\n"
        "        return {'a': 0}\n"
    )
    values = points()
    assert features.columns(SPACE, values)["a"].tolist() == np.where(values[:, 0] > 40, 10, 20).tolist()


def test_a_script_that_changes_its_params_changes_nothing_else(write: Write) -> None:
    features = write("def features(params):\n    params['width'] *= 2\n    return {'a': params.pop('width')}\n")
    values = points()
    before = values.copy()
    assert features.columns(SPACE, values)["a"].tolist() == (2 * before[:, 3]).tolist()
    assert features.columns(SPACE, values)["a"].tolist() == (2 * before[:, 3]).tolist()
    np.testing.assert_array_equal(values, before)


def test_each_structure_is_evaluated_once(write: Write) -> None:
    features = write(
        "calls = []\ndef features(params):\n    calls.append(1)\n    return {'a': float(params['width'] > 1)}\n"
    )
    values = np.repeat(points(10), 5, axis=0)
    values[:, 2] = np.linspace(0.001, 0.1, 50)  # the rate is not structural
    for _ in range(3):
        features.columns(SPACE, values)
    assert len(features._hook.__globals__["calls"]) == 10  # type: ignore[union-attr]
    assert len(features._remembered) == 10 < MOST_REMEMBERED


def test_few_points_decide_nothing_about_arrays(write: Write) -> None:
    features = write("def features(params):\n    return {'a': params['width'] * 2}\n")
    assert features.columns(SPACE, points(1))["a"].tolist() == (2 * points(1)[:, 3]).tolist()
    assert features._takes_arrays is None
    features.columns(SPACE, points(50))
    assert features._takes_arrays is True
    assert features.columns(SPACE, points(0)[:0])["a"].shape == (0,)


def test_arrays_that_fail_later_are_evaluated_one_by_one(write: Write) -> None:
    features = write(
        "def features(params):\n"
        "    if getattr(params['width'], 'size', 1) > 16:\n"
        "        raise ValueError\n"
        "    return {'a': params['width'] + 1}\n"
    )
    assert features.columns(SPACE, points())["a"].tolist() == (points()[:, 3] + 1).tolist()
    assert features._takes_arrays is False


def test_only_a_function_at_the_top_level_is_a_hook(tmp_path: Path) -> None:
    for text in ["", "def other(): pass", "class A:\n    def features(params): pass", "features = 3", "def x(:", "\0"]:
        script = tmp_path / "train.py"
        script.write_text(text)
        assert load_features(script) is None
    script.write_bytes(b"\xff\xfe\x00")
    assert load_features(script) is None
    assert load_features(tmp_path / "missing.py") is None
    assert load_features(tmp_path) is None


def test_the_script_is_imported_when_it_is_first_needed(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lies_beside.py").write_text("factor = 3\n")
    (tmp_path / "lies_too.py").write_text("factor = 5\n")
    features = write(
        "import pathlib, lies_beside\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Net:\n    units: int = 1\n"
        "print('imported')\n"
        "if __name__ == '__main__':\n    raise SystemExit(1)\n"
        "def features(params):\n"
        "    from lies_too import factor\n"
        "    return {'a': params['width'] * lies_beside.factor * factor}\n"
    )
    before = list(sys.path)
    assert "lies_beside" not in sys.modules
    assert features.columns(SPACE, points(1))["a"].tolist() == [points(1)[0, 3] * 3 * 5]
    assert sys.path == before
    assert capsys.readouterr() == ("", "imported\n")
    for name in ("lies_beside", "lies_too"):
        del sys.modules[name]


def test_two_scripts_of_one_name_are_two(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "train.py").write_text(f"def features(params):\n    return {{'a': {number}}}\n")
    first, second = (load_features(tmp_path / str(number) / "train.py") for number in (1, 2))
    assert first is not None
    assert second is not None
    assert first.columns(SPACE, points(1))["a"] == [1]
    assert second.columns(SPACE, points(1))["a"] == [2]
    assert first.columns(SPACE, points(20))["a"].tolist() == [1] * 20


WRONG = {
    "an exception": ("raise ValueError('bad shape')", ["conv", "raised ValueError: bad shape"]),
    "an exit": ("raise SystemExit(3)", ["raised SystemExit: 3"]),
    "no dict": ("return 3", ["returned 3", "dict of numbers"]),
    "nothing": ("return None", ["returned None"]),
    "a text": ("return {'a': '3'}", ["\"a\" as '3'", "finite number"]),
    "nan": ("return {'a': float('nan')}", ['"a" as nan']),
    "infinity": ("return {'a': params['width'] * float('inf')}", ['"a" as inf']),
    "a number beyond a float": ("return {'a': 10**400}", ['"a" as 1000']),
    "a list": ("return {'a': [1, 2]}", ['"a" as [1, 2]']),
    "none": ("return {'a': None}", ['"a" as None']),
    "a name that is a number": ("return {3: 3}", ["the name 3"]),
    "a name that is no name": ("return {'a * b': 3}", ["the name 'a * b'"]),
    "a name of a variable": ("return {'width': 3}", ['"width"', "is a variable"]),
    "a name of a variable with a size": ("return {'conv': 3}", ['"conv"', "is a variable"]),
    "names at some points": ("return {'a': 1} if params['kind'] == 'relu' else {'b': 1}", ["at some points"]),
    "nan at some points": (
        "import numpy as np; return {'a': np.where(params['conv'][0] > 70, np.nan, 1)}",
        ['"a" as array(nan)', "finite number"],
    ),
}


@pytest.mark.parametrize("count", [40, 3000])
@pytest.mark.parametrize(("body", "parts"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_hook_is_told_of_in_one_sentence(body: str, parts: list[str], count: int, write: Write) -> None:
    features = write(f"def features(params):\n    {body}\n")
    with pytest.raises(ModelsError) as caught:
        features.columns(SPACE, points(count))
    message = str(caught.value)
    assert message.startswith(f"{features.script}: features(")
    assert message.isprintable()
    assert len(message) < 500 + len(str(features.script))
    for part in parts:
        assert part in message


def test_a_script_that_cannot_be_imported_is_told_of(write: Write) -> None:
    features = write("import no_such_module\ndef features(params):\n    return {}\n")
    with pytest.raises(ModelsError, match=r"train\.py: features\(.*raised ModuleNotFoundError"):
        features.columns(SPACE, points(1))


def test_a_script_that_is_not_named_like_one_of_python(tmp_path: Path) -> None:
    script = tmp_path / "train"
    script.write_text("def features(params):\n    return {'a': 1}\n")
    features = load_features(script)
    assert features is not None
    with pytest.raises(ModelsError, match="rename it"):
        features.columns(SPACE, points(1))


def test_the_intensity_is_macs_by_numbers_moved(write: Write) -> None:
    features = write("def features(params):\n    return {'macs': 30, 'activations': 4, 'parameters': 6}\n")
    assert features.columns(SPACE, points(2))["intensity"].tolist() == [3.0, 3.0]
    none = np.zeros(2)
    assert with_intensity({"macs": none, "activations": none, "parameters": none})["intensity"].tolist() == [0, 0]
    own = with_intensity({"macs": none, "activations": none, "parameters": none, "intensity": none + 1})
    assert own["intensity"].tolist() == [1, 1]
    assert with_intensity({"macs": none}).keys() == {"macs"}

'''Computed features of networks: numbers that a wrapper script derives from params without measuring anything.

Power and memory follow parameters and multiplications more closely than they follow hyper-parameters. A script may
define, at its top level, beside `evaluate`:

    def features(params):
        """What hardware models may use beside the variables; for example, for two layers on 28 x 28 pixels."""
        units = params["fc_units"]
        return {"parameters": 794 * units + 10, "macs": 784 * units + 10 * units, "activations": units + 10}

`counting.count_network` counts them for a network of PyTorch. A function that works on numpy arrays as well as on
numbers is noticed and called once for thousands of candidates; any other is called for each structure, and remembered.
It shall depend on structural variables only. This module knows nothing of models.
'''

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hyperpower_runner.errors import ModelsError, shortened
from hyperpower_runner.space import Array, Space

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
COMPARED = 16  # points at which the answer for arrays must be that for numbers
MOST_REMEMBERED = 200_000  # structures, of some 500 bytes each

Hook = Callable[[dict[str, Any]], Any]


class Features:
    """The function `features` of one script, which is imported when it is first needed."""

    def __init__(self, script: Path) -> None:
        self.script = script
        self._hook: Hook | None = None
        self._takes_arrays: bool | None = None  # None while too few points were seen to tell
        self._space: Space | None = None
        self._remembered: dict[bytes, dict[str, float]] = {}

    def __call__(self, params: Mapping[str, Any]) -> dict[str, float]:
        """The features of one network; raises ModelsError, naming the script, as `columns` does."""
        return self._checked(dict(params))

    def columns(self, space: Space, values: Array) -> dict[str, Array]:
        """Compute the features of n points, values of shape (n, D): arrays of shape (n,), by name.

        "intensity" is added where there are macs, activations and parameters; see `with_intensity`. Raises ModelsError,
        naming the script, for an error in it and for what is no number.
        """
        if space is not self._space:
            self._space, self._takes_arrays, self._remembered = space, None, {}
        keys = space.structures(values)
        if self._takes_arrays is None:
            self._takes_arrays = self._compare(space, values, keys)
        columns = self._at_once(space, values) if self._takes_arrays else None
        if columns is None:
            columns = self._one_by_one(space, values, keys)
        for name in columns:
            if name in space.names or any(name == variable.name for variable in space.variables):
                raise ModelsError(f'{self.script}: features(params) gives "{name}", which is a variable; rename it')
        return with_intensity(columns)

    def _compare(self, space: Space, values: Array, keys: Array) -> bool | None:
        """Whether arrays give what numbers give, at some different points; None where there are not enough of them."""
        different: dict[bytes, int] = {}
        for place, row in enumerate(keys):
            different.setdefault(row.tobytes(), place)
            if len(different) == COMPARED:
                break
        else:
            return None
        sample = values[list(different.values())]
        self._check_structural(space, sample)
        singly = self._one_by_one(space, sample, keys[list(different.values())])
        together = self._at_once(space, sample)
        return (
            together is not None
            and together.keys() == singly.keys()
            and all(np.allclose(together[name], column, rtol=1e-12, atol=0) for name, column in singly.items())
        )

    def _check_structural(self, space: Space, sample: Array) -> None:
        """Refuse features that differ between points of the same structure."""
        others = [index for index, variable in enumerate(space.by_dimension) if not variable.structural]
        for index in others:
            point = sample[0].copy()
            point[index] = next((value for value in sample[1:, index] if value != point[index]), point[index])
            before, after = self._point(space, sample[0]), self._point(space, point)
            if before != after:
                name = next(name for name in before if after.get(name) != before[name])
                raise ModelsError(
                    f'{self.script}: features(params) gives a "{name}" that depends on "{space.names[index]}", which is'
                    ' not structural; set "structural": true for that variable in config.json'
                )

    def _at_once(self, space: Space, values: Array) -> dict[str, Array] | None:
        """Call the hook with arrays; None where it cannot answer that."""
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = self._call(_array_params(space, values))
                columns = {name: np.asarray(column, dtype=np.float64) for name, column in dict(found).items()}
                columns = {name: np.broadcast_to(column, len(values)) for name, column in columns.items()}
        except (Exception, SystemExit):
            self._takes_arrays = False
            return None
        finite = np.ones(len(values), dtype=bool)
        for column in columns.values():
            finite &= np.isfinite(column)
        if not finite.all():  # the sentence about it is that of the single point, unless it is fine there
            self._point(space, values[np.argmin(finite)])
            self._takes_arrays = False
            return None
        return columns

    def _one_by_one(self, space: Space, values: Array, keys: Array) -> dict[str, Array]:
        if len(self._remembered) > MOST_REMEMBERED:
            self._remembered.clear()
        rows: list[dict[str, float]] = []
        for point, key in zip(values, keys, strict=True):
            signature = key.tobytes()
            row = self._remembered.get(signature)
            if row is None:
                row = self._remembered[signature] = self._point(space, point)
            if rows and row.keys() != rows[0].keys():
                name = min(row.keys() ^ rows[0].keys())
                shown = shortened(repr(space.to_params(point)), 160)
                raise ModelsError(
                    f'{self.script}: features({shown}) has "{name}" at some points and not at others;'
                    " return the same names for all"
                )
            rows.append(row)
        return {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}

    def _point(self, space: Space, point: Array) -> dict[str, float]:
        """The features of one point, values of shape (D,), checked."""
        return self._checked(space.to_params(point))

    def _checked(self, params: dict[str, Any]) -> dict[str, float]:
        call = f"{self.script}: features({shortened(repr(params), 160)})"
        try:
            found = self._call(params)
        except (Exception, SystemExit) as error:
            if isinstance(error, ModelsError):
                raise ModelsError(f"{call}: {error}") from None
            said = f"{type(error).__name__}: {shortened(str(error), 160)}"
            raise ModelsError(f"{call} raised {said}; correct the function") from None
        if not isinstance(found, Mapping):
            raise ModelsError(f"{call} returned {shortened(repr(found))}, but must return a dict of numbers")
        row = {}
        for name, value in found.items():
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise ModelsError(
                    f'{call}: the name {shortened(repr(name))} is not allowed; begin with a letter or "_"'
                )
            row[name] = number = _number(value)
            if not np.isfinite(number):
                raise ModelsError(f'{call} gives "{name}" as {shortened(repr(value))}, but must give a finite number')
        return row

    def _call(self, params: dict[str, Any]) -> Any:
        with self._beside_script(), contextlib.redirect_stdout(sys.stderr):  # stdout may be a JSON object of ours
            if self._hook is None:
                self._hook = self._load()
            return self._hook(params)

    def _load(self) -> Hook:
        """Import the script under a name of its own, so that neither its __main__ part runs nor a module is hidden."""
        name = "features_of_" + hashlib.sha256(str(self.script.resolve()).encode()).hexdigest()[:16]
        spec = importlib.util.spec_from_file_location(name, self.script)
        if spec is None or spec.loader is None:
            raise ModelsError(f"{self.script}: is not a script of Python, whose name ends in .py; rename it")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses of the script look for it there
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit):
            del sys.modules[name]
            raise
        hook: Hook = module.features
        return hook

    @contextlib.contextmanager
    def _beside_script(self) -> Iterator[None]:
        """Let the script import what lies beside it."""
        folder = str(self.script.resolve().parent)
        sys.path.insert(0, folder)
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)


def load_features(script: Path) -> Features | None:
    """The hook of a script, which is not imported yet; None where it defines no `features` at its top level."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(script.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # not of Python: that it cannot run is found out where it is run
    defined = any(isinstance(node, ast.FunctionDef) and node.name == "features" for node in tree.body)
    return Features(script) if defined else None


def with_intensity(columns: Mapping[str, Array]) -> dict[str, Array]:
    """Add "intensity", multiplications per number moved: macs / (activations + parameters), and 0 where nothing moves.

    What keeps a device busy is the ratio: without it, linear models of power take big networks for hungry ones.
    """
    columns = dict(columns)
    if {"macs", "activations", "parameters"} <= columns.keys() and "intensity" not in columns:
        moved = columns["activations"] + columns["parameters"]
        columns["intensity"] = np.divide(columns["macs"], moved, out=np.zeros(len(moved)), where=moved != 0)
    return columns


def _array_params(space: Space, values: Array) -> dict[str, Any]:
    """Params of n points as arrays of shape (n,), of the types that single params have."""
    params: dict[str, Any] = {}
    column = 0
    for variable in space.variables:
        items: list[Any] = []
        for index in range(column, column + variable.size):
            if variable.kind == "ENUM":
                same = len({type(option) for option in variable.options}) == 1
                options = np.array(variable.options, dtype=None if same else object)
                items.append(options[values[:, index].astype(np.intp)])
            else:
                items.append(values[:, index].astype(np.int64 if variable.kind == "INT" else np.float64))
        params[variable.name] = items[0] if variable.size == 1 else items
        column += variable.size
    return params


def _number(value: Any) -> float:
    """A value as a number; nan for what is none."""
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        return float("nan")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return float("nan")

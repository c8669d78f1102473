"""What a problem to compare searches on is: a config.json, an evaluation, and the least value that is feasible.

Functions over variables take a mapping from the name of a dimension to a number or to an array, so that an evaluation
and a search by brute force read the same formula. It knows no method and none of the problems.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner.config import ExperimentConfig, parse
from hyperpower_runner.hardware.models import HardwareModel, HardwareModels
from hyperpower_runner.space import Array, Space
from hyperpower_runner.trial import Params

Columns = Mapping[str, Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """What an evaluation gave: metrics by name, none where it was terminated.

    truth: the error without the noise of its measurement, which no method is told.
    """

    metrics: Mapping[str, float]
    truth: float
    status: str = "completed"


@dataclass(frozen=True)
class Problem:
    """Least `truth` subject to known constraints and to upper bounds on metrics.

    config: in the form of config.json, without a method.
    truth: the objective without noise, from columns.
    evaluate: one noisy evaluation of params.
    excess: by how much each known constraint is exceeded, above 0 where it is: for peers that learn from the amount.
    optimum: least truth that is feasible; origin: how that is known.
    model: the hardware model of power_w, or None.
    measured: power_w as it is measured, where it is constrained.
    """

    name: str
    config: Mapping[str, Any]
    truth: Callable[[Columns], Array]
    evaluate: Callable[[Params, np.random.Generator], Outcome]
    excess: Callable[[Columns], list[Array]]
    optimum: float
    origin: str
    model: HardwareModel | None = None
    measured: Callable[[Columns], Array] | None = None

    @cached_property
    def parsed(self) -> ExperimentConfig:
        return parse({"objective": {"command": ["none"]}, "method": "rand", **self.config}, self.name)

    @property
    def space(self) -> Space:
        return self.parsed.space

    @property
    def models(self) -> HardwareModels | None:
        return HardwareModels(self.space, {"power_w": self.model}) if self.model else None

    def columns(self, values: Array) -> Columns:
        """Points, values of shape (n, D), as columns by the name of the dimension."""
        return {name: self.space.column(values, name) for name in self.space.names}

    def acceptable(self, values: Array) -> Mask:
        """Where the known constraints and the hardware models allow points: booleans of shape (n,)."""
        allowed: Mask = np.asarray(self.space.holds(values).all(axis=0))
        if self.models is not None:
            allowed = allowed & self.models.within(self.models.predict(values), self.parsed.constraints)
        return allowed

    def feasible(self, values: Array) -> Mask:
        """Where points also meet what no model predicts: booleans of shape (n,)."""
        allowed = self.acceptable(values)
        if self.measured is not None:
            allowed = allowed & (self.measured(self.columns(values)) <= self.parsed.constraints["power_w"])
        return allowed

    def feasible_points(self, rng: np.random.Generator, count: int) -> Array:
        """Draw acceptable points uniformly: values of shape (count, D)."""
        chunks: list[Array] = []
        while sum(map(len, chunks)) < count:
            values = self.space.sample(rng, 8192)
            chunks.append(values[self.acceptable(values)])
        points: Array = np.concatenate(chunks)[:count]
        return points

    def exceeded(self, values: Array) -> Array:
        """The amounts by which constraints that are known beforehand are exceeded: shape (n, constraints)."""
        amounts = self.excess(self.columns(values))
        if self.models is not None:
            amounts = [*amounts, self.models.predict(values)["power_w"] - self.parsed.constraints["power_w"]]
        return np.asarray(np.array(amounts, dtype=float).reshape(len(amounts), len(values)).T)


def numbers(params: Params) -> Columns:
    """Params as columns: the elements of a variable with a size each by its name."""
    columns: dict[str, Any] = {}
    for name, value in params.items():
        columns.update(
            {f"{name}[{i}]": item for i, item in enumerate(value)} if isinstance(value, list) else {name: value}
        )
    return columns


def noisy(truth: Callable[[Columns], Array], sd: float = 0.0) -> Callable[[Params, np.random.Generator], Outcome]:
    def evaluate(params: Params, rng: np.random.Generator) -> Outcome:
        value = float(truth(numbers(params)))
        return Outcome({"error": value + sd * float(rng.standard_normal())}, value)

    return evaluate


def least(problem: Problem, rng: np.random.Generator, rounds: int = 400) -> float:
    """The least feasible truth that force finds: random points, then steps of a shrinking size around the best few."""
    space = problem.space
    values = space.sample(rng, 1_000_000)
    values = values[problem.feasible(values)]
    best = values[np.argsort(problem.truth(problem.columns(values)))[:32]]
    for turn in range(rounds):
        x = np.repeat(space.encode(best), 500, axis=0)
        moved = rng.random(x.shape) < rng.choice([0.15, 0.4, 1.0])
        steps = 0.5 * 10 ** rng.uniform(-6 * turn / rounds, 0, (len(x), 1)) * rng.standard_normal(x.shape)
        tried = np.concatenate([best, space.decode(np.clip(x + moved * steps, 0, 1))])
        tried = np.unique(tried[problem.feasible(tried)], axis=0)
        best = tried[np.argsort(problem.truth(problem.columns(tried)))[:32]]
    return float(problem.truth(problem.columns(best[:1]))[0])

"""Rand-Walk (paper 3.5, after Smithson et al.): x_{n+1} ~ N(x+, sigma_0^2) around the incumbent x+.

The step is taken in the unit cube and reflected at its borders. An ENUM has no order to step along: where the step is
longer than half an option's cell, the new option is uniform among the others.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hyperpower_runner.errors import InfeasibleError, SpaceExhaustedError
from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.history import History
from hyperpower_runner.methods.candidates import Candidates
from hyperpower_runner.methods.rand import Rand
from hyperpower_runner.space import Array, Space, reflect
from hyperpower_runner.trial import Suggestion

MOST_NEIGHBOURS = 20_000  # before a neighbourhood without an untried feasible point is left for the whole space


class RandWalk:
    """Walks around the best feasible observation; begins, and goes on where its neighbourhood is used up, as `Rand`.

    limits: upper bounds that candidates and the incumbent must meet; empty for the constraint-unaware walk.
    sigma_0: standard deviation of a step, in the unit cube.
    """

    def __init__(self, space: Space, models: HardwareModels, limits: Mapping[str, float], sigma_0: float) -> None:
        self.space = space
        self.limits = limits
        self.sigma_0 = sigma_0
        self.rand = Rand(space, models, limits)
        self.candidates = Candidates(space, models, limits)

    def suggest(self, history: History, rng: np.random.Generator) -> Suggestion:
        incumbent = history.best(self.limits)
        if incumbent is None:
            return self.rand.suggest(history, rng)
        centre = self.space.from_params(incumbent.job.params)
        try:
            return self.candidates.first(
                lambda count: self.step(centre, count, rng), history.seen, rng, most=MOST_NEIGHBOURS
            )
        except (InfeasibleError, SpaceExhaustedError):
            return self.rand.suggest(history, rng)

    def step(self, centre: Array, count: int, rng: np.random.Generator) -> Array:
        """Draw values, shape (count, D), around `centre`, values of shape (D,)."""
        x = self.space.encode(centre[np.newaxis])
        steps = self.sigma_0 * rng.standard_normal((count, self.space.dimensions))
        values = self.space.decode(reflect(x + steps))
        for column, variable in enumerate(self.space.by_dimension):
            if variable.kind == "ENUM" and len(variable.options) > 1:
                left = np.abs(steps[:, column]) > 0.5 / len(variable.options)
                others = rng.integers(len(variable.options) - 1, size=count)
                others += others >= centre[column]  # skips the option that is left
                values[:, column] = np.where(left, others, centre[column])
        return values

"""Rand (paper 3.5): uniform sampling of the feasible space."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.history import History
from hyperpower_runner.methods.candidates import Candidates
from hyperpower_runner.space import Space
from hyperpower_runner.trial import Suggestion


class Rand:
    """Draws uniformly from the unit cube until a point is feasible and new."""

    def __init__(self, space: Space, models: HardwareModels, limits: Mapping[str, float]) -> None:
        self.space = space
        self.candidates = Candidates(space, models, limits)

    def suggest(self, history: History, rng: np.random.Generator) -> Suggestion:
        return self.candidates.first(lambda count: self.space.sample(rng, count), history.seen, rng)

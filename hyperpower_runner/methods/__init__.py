"""What proposes the next params: one module a method, all behind `Method`."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.methods.rand import Rand
from hyperpower_runner.methods.rand_walk import RandWalk
from hyperpower_runner.trial import History, Suggestion


class Method(Protocol):
    """Proposes params; a pure function of the history and the generator's state."""

    def suggest(self, history: History, rng: np.random.Generator) -> Suggestion:
        """Propose the next params to evaluate.

        Raises SpaceExhaustedError when everything feasible was tried, InfeasibleError when nothing feasible is found.
        """
        ...


def make_method(config: ExperimentConfig, models: HardwareModels) -> Method:
    """The method that a config names, or its constraint-unaware counterpart where `hardware-aware` is false."""
    if config.method == "rand-walk":
        return RandWalk(config.space, models, config.hardware_limits, config.sigma_0)
    return Rand(config.space, models, config.hardware_limits)

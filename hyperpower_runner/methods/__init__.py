"""What proposes the next params: one module a method, all behind `Method`."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.history import History
from hyperpower_runner.methods.rand import Rand
from hyperpower_runner.methods.rand_walk import RandWalk
from hyperpower_runner.trial import Recommendation, Suggestion


class Method(Protocol):
    """Proposes params; a pure function of the history and the generator's state."""

    def suggest(self, history: History, rng: np.random.Generator) -> Suggestion:
        """Propose the next params to evaluate.

        Raises SpaceExhaustedError when everything feasible was tried, InfeasibleError when nothing feasible is found.
        """
        ...


def make_method(config: ExperimentConfig, models: HardwareModels) -> Method:
    """The method that a config names, or its constraint-unaware counterpart where `hardware-aware` is false."""
    # The surrogate's libraries take half a second to import, which a random search need not wait for.
    if config.method == "hw-ieci":
        from hyperpower_runner.methods.hw_ieci import HwIeci

        return HwIeci(config, models)
    if config.method == "hw-cwei":
        from hyperpower_runner.methods.hw_cwei import HwCwei

        return HwCwei(config, models)
    if config.method == "rand-walk":
        return RandWalk(config.space, models, config.hardware_limits, config.sigma_0)
    return Rand(config.space, models, config.hardware_limits)


def recommend(
    config: ExperimentConfig, models: HardwareModels, history: History, rng: np.random.Generator
) -> Recommendation | None:
    """The feasible point that the surrogate's posterior mean prefers, with any method; None while it knows little."""
    from hyperpower_runner.methods import recommendation

    return recommendation.recommend(config, models, history, rng)

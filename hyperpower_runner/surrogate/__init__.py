"""The surrogate: a Gaussian process of a metric, its hyper-parameters sampled by MCMC (3.1). Arrays in, arrays out.

values -> embedding -> u                       where points lie
metric -> outputs -> standardised outputs      what was measured there
u, outputs -> hyperparameters -> Density       how likely hyper-parameters are
Density -> sampling -> Samples                 some that are likely, and how far to trust them
Samples -> posterior -> Posterior              mean and variance anywhere, for each sample
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner.space import Array
from hyperpower_runner.surrogate.hyperparameters import Density
from hyperpower_runner.surrogate.posterior import Posterior
from hyperpower_runner.surrogate.sampling import Diagnostics, sample

MOST_SAMPLED = 250  # observations that teach the hyper-parameters; predictions use all, at a far smaller cost
SAMPLES = 16  # that predictions are averaged over, of the walkers' last positions; fewer beyond MOST_SAMPLED


@dataclass(frozen=True)
class Surrogate:
    """A fitted Gaussian process, and how far its sampling can be trusted."""

    posterior: Posterior
    diagnostics: Diagnostics


def fit(
    u: Array,
    groups: NDArray[np.intp],
    outputs: Array,
    rng: np.random.Generator,
    noiseless: bool = False,
    pending: Array | None = None,
) -> Surrogate:
    """Fit standardised outputs, shape (n,), at u, shape (n, C), with a fantasy at each pending point, shape (q, C)."""
    part = np.linspace(0, len(outputs) - 1, min(len(outputs), MOST_SAMPLED)).astype(np.intp)
    density = Density(u[part], groups, outputs[part], noiseless)
    samples = sample(density, density.prior.mean, steps_for(len(outputs)), rng)
    count = SAMPLES if len(outputs) <= MOST_SAMPLED else SAMPLES // 2 if len(outputs) <= 1000 else SAMPLES // 4
    thetas = samples.thetas[np.linspace(0, len(samples.thetas) - 1, min(count, len(samples.thetas))).astype(np.intp)]
    return Surrogate(Posterior.given(thetas, u, groups, outputs, pending), samples.diagnostics)


def steps_for(observations: int) -> int:
    """How many steps the ensemble takes in a round: as many as cost little."""
    return 40 if observations <= 60 else 20 if observations <= 120 else 10

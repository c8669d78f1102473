"""The point that the posterior mean prefers: what one would choose if no more could be evaluated.

Among noisy results the best one is partly lucky. The surrogate weighs it with its neighbours, and may prefer another
point that was tried, or one that was not.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from hyperpower_runner.acquisition import LowMean
from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.history import History
from hyperpower_runner.maximisation import Maximisation
from hyperpower_runner.methods.bayesian import likely
from hyperpower_runner.methods.candidates import repeated, row_keys
from hyperpower_runner.methods.fits import Fits, exact_and_quiet
from hyperpower_runner.methods.hw_ieci import HwIeci
from hyperpower_runner.methods.observations import Observations
from hyperpower_runner.space import Array
from hyperpower_runner.surrogate.posterior import Posterior
from hyperpower_runner.trial import Recommendation

FEWEST = 3  # observations that a mean can be made of
MOST = 1000  # trials that it is made of
QUANTILES = (0.05, 0.5, 0.95)


def recommend(
    config: ExperimentConfig, models: HardwareModels, history: History, rng: np.random.Generator
) -> Recommendation | None:
    """The feasible point of the lowest posterior mean, tried or not; None before `FEWEST` observations.

    Feasible are points that the hardware models accept, and that more likely than not converge and meet what was
    learned of the other constraints. None too where no such point is found.
    """
    everything, observations = (Observations.of(some, config.space) for some in (history, _telling(history)))
    if observations.observed.sum() < FEWEST:
        return None
    method = HwIeci(replace(config, hardware_aware=True), models)
    # What was measured at a point counts more than what is predicted, or learned, of it.
    violating = np.zeros(len(everything.trials), dtype=bool)
    for metric, bound in method.bounds.items():
        violating |= everything.exceeded(metric, bound)
    broken, met = (row_keys(everything.values[where]) for where in (violating, method.feasible(everything)))
    with exact_and_quiet():
        fits = Fits(observations, method.embedding, config, rng)
        outputs, posterior = fits.objective()
        risks = fits.risks(method.learned(everything))

        def feasible(values: Array) -> NDArray[np.bool_]:
            result = method.candidates.acceptable(values)
            result[result] = likely(risks, method.embedding(values[result])) | repeated(values[result], met)
            return result & ~repeated(values, broken)

        pool, _ = method.pool(observations, frozenset(), rng)
        pool = np.concatenate([pool, observations.values])
        pool = pool[feasible(pool)]
        if not len(pool):
            return None
        best, _ = Maximisation(LowMean(posterior), method.embedding, feasible).best(pool, rng)
        low, expected, high = outputs.inverse(quantiles(posterior, method.embedding(best[np.newaxis])))
    params = config.space.to_params(best)
    same = np.flatnonzero(np.all(everything.values == best, axis=1))
    job_id = everything.trials[same[0]].job_id if len(same) else None
    predictions = models.predict_point(best)
    return Recommendation(params, float(expected), float(low), float(high), predictions, job_id, fits.converged)


def _telling(history: History) -> History:
    """Of more than `MOST` trials the best half of so many, and some of all others: the time grows with their cube."""
    if len(history) <= MOST:
        return history
    ranked = sorted(history, key=lambda trial: math.inf if trial.objective is None else trial.objective)
    others = np.linspace(MOST // 2, len(ranked) - 1, MOST - MOST // 2).astype(np.intp)
    return History([*ranked[: MOST // 2], *(ranked[place] for place in others)])


def quantiles(posterior: Posterior, u: Array) -> Array:
    """The `QUANTILES` of the latent function at one point, u of shape (1, C), over all samples: shape (3,)."""
    prediction = posterior.predict(u)
    normals = ndtri((np.arange(200) + 0.5) / 200)
    return np.asarray(np.quantile(prediction.mean + np.sqrt(prediction.variance) * normals, QUANTILES))

"""HW-CWEI (paper 3.5): expected improvement, weighted by the probability that each constraint holds.

a(x) = EI(x) prod_k Pr(g_k(x) <= g0_k) (Gelbart et al. 2014, arXiv 1403.5607), with a Gaussian process of the latent
function g0 - g(x) of each constraint, given at the points tried by the hardware models. As with every method here, only
points that the models accept are scored, so the factors keep the search away from the budgets' borders.

The constraint-unaware counterpart is Gelbart's own CWEI, which knows no model: it learns each constraint from what jobs
measured.
"""

from __future__ import annotations

from hyperpower_runner.acquisition import Term
from hyperpower_runner.methods.bayesian import Bayesian
from hyperpower_runner.methods.fits import Fits


class HwCwei(Bayesian):
    """Expected improvement, weighted by the probabilities of all constraints."""

    @property
    def bounds(self) -> dict[str, float]:
        limits = self.config.constraints
        return {metric: bound for metric, bound in limits.items() if metric != self.config.optimize}

    def model_factors(self, fits: Fits) -> list[Term]:
        predictions = self.models.predict(fits.observations.values)
        limits = {metric: bound / self.models.margins.get(metric, 1.0) for metric, bound in self.modelled.items()}
        return [fits.predicted_below(metric, predictions[metric], limit) for metric, limit in limits.items()]

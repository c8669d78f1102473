"""HW-CWEI (paper 3.5): expected improvement, weighted by the probability that each constraint holds.

a(x) = EI(x) prod_k Pr(g_k(x) <= g0_k) (Gelbart et al. 2014, arXiv 1403.5607), with a Gaussian process of the latent
function g0 - g(x) of each constraint, given at the points tried by the hardware models. As with every method here, only
points that the models accept are scored, so the factors keep the search away from the budgets' borders.

The constraint-unaware counterpart is Gelbart's own CWEI, which knows no model: it learns each constraint from what jobs
measured.
"""

from __future__ import annotations

from hyperpower_runner.acquisition import Term
from hyperpower_runner.methods.bayesian import Bayesian, Fits
from hyperpower_runner.methods.observations import Observations


class HwCwei(Bayesian):
    @property
    def learned(self) -> dict[str, float]:
        if self.config.hardware_aware:
            return {metric: bound for metric, bound in self.bounds.items() if metric not in self.models.models}
        return {m: bound for m, bound in self.config.constraints.items() if m != self.config.optimize}

    def constraint_factors(self, observations: Observations, fits: Fits) -> list[Term]:
        predictions = self.models.predict(observations.values)
        limits = self.candidates.limits
        # The models are functions: the latent values are known without noise.
        return [fits.below(f"predicted {m}", predictions[m], bound, noiseless=True) for m, bound in limits.items()]

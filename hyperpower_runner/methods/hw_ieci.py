"""HW-IECI (paper 3.4): expected improvement, and none where the budgets are predicted to be exceeded.

a(x) = EI(x) I[P(z) <= PB] I[M(z) <= MB]  (Eq. 3). The indicators, and those of the known constraints, are exact: only
acceptable points are scored at all, and one that is not would score log 0. A constrained metric without a hardware
model, or whose model went further wrong than its cross-validation shows, is learned from what jobs measured, and enters
as the probability that its bound holds.

The constraint-unaware counterpart is expected improvement alone.
"""

from __future__ import annotations

from hyperpower_runner.methods.bayesian import Bayesian


class HwIeci(Bayesian):
    """Expected improvement, and exact indicators of what hardware models decide."""

    @property
    def bounds(self) -> dict[str, float]:
        limits = self.config.hardware_limits
        return {metric: bound for metric, bound in limits.items() if metric != self.config.optimize}

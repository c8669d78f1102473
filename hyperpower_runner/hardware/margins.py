"""How far below a budget a prediction must lie, so that what is measured stays within it as often as asked.

As in cross-conformal prediction: with the out-of-fold ratios r = measured / predicted of n profiled structures, q is
the ceil((n + 1) c)-th smallest, and structures drawn like them measure at most q times their prediction about as
often as c. Points that an optimiser picks at the border of a budget are not drawn like them: it prefers those of
which too little is predicted. So the margin can be recalibrated by what jobs measured near the budget: adaptive
conformal inference (Gibbs and Candes 2021, arXiv 2106.00170) asks for more than c after each violation and for a
little less after each job that kept within, and the jobs' own ratios join the structures'. Where more is asked for
than any ratio shows, the largest is widened further, so that also a device that drifts is followed.

Pure: ratios and outcomes in, factors out. It does not know where they come from.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence

RATE = 0.05  # how far one job moves the confidence asked for
NEAR = 0.8  # predictions, with their margin, from this share of a budget on are near it


def needed(confidence: float) -> int:
    """How many ratios a margin of this confidence takes at least."""
    return math.ceil(confidence / (1 - confidence) - 1e-9)


def quantile(ratios: Sequence[float], confidence: float) -> float:
    """The ceil((n + 1) confidence)-th smallest of n ratios, ascending; infinite where they are too few for it."""
    rank = math.ceil((len(ratios) + 1) * confidence - 1e-9)
    return ratios[rank - 1] if rank <= len(ratios) else math.inf


def recalibrated(
    ratios: Sequence[float], confidence: float, outcomes: Iterable[tuple[float, float]], bound: float
) -> float:
    """The margin after jobs were measured; ratios: ascending.

    outcomes: what was predicted and what was measured of each, in their order. Those that the margin then in force put
        far below the bound say nothing of its border, and those predicted above it were not accepted: they are passed
        over.
    """
    asked, known = confidence, sorted(ratios)
    margin = _widened(known, confidence)
    for predicted, measured in outcomes:
        if predicted <= bound <= margin * predicted / NEAR:
            asked = max(asked + RATE * ((measured > bound) - (1 - confidence)), 0.5)
            bisect.insort(known, measured / predicted)
            margin = _widened(known, asked)
    return margin


def _widened(ratios: Sequence[float], asked: float) -> float:
    """The quantile; beyond the largest ratio, that and its distance from the median again for each `RATE` above 1."""
    margin = quantile(ratios, min(asked, 1.0))
    if math.isfinite(margin):
        return margin
    finite = [ratio for ratio in ratios if math.isfinite(ratio)] or [1.0]
    widening: float = (finite[-1] / finite[len(finite) // 2]) ** max(0.0, (asked - 1) / RATE)
    return finite[-1] * widening

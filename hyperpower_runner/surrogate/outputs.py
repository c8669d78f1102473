"""How a metric is brought to the scale on which a stationary Gaussian process fits it, and back.

What matters is told apart in units of w, the distance from the best value to the median. Far above the median, how bad
a value is says little about where good ones are, and a few of 10^6 would leave the others indistinguishable: from
`LINEAR_UP_TO` w on, values enter by their logarithm. Then they are standardised.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from hyperpower_runner.space import Array

LINEAR_UP_TO = float(os.environ.get("OUT", 2.0))  # widths above the median


@dataclass(frozen=True)
class Outputs:
    """A strictly increasing map of a metric's values to standardised outputs.

    median, width: of the metric; centre, deviation: of the transformed values.
    """

    median: float
    width: float
    centre: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, values: Array) -> Outputs:
        """For values, shape (n,), n at least 1."""
        median = float(np.median(values))
        # Where most values equal the best one, the mean distance; where all do, anything serves.
        width = median - float(np.min(values)) or float(np.mean(np.abs(values - median))) or abs(median) or 1.0
        raw = cls(median, width).transform(values)
        return cls(median, width, float(np.mean(raw)), float(np.std(raw)) or 1.0)

    def transform(self, values: Array) -> Array:
        scaled = (values - self.median) / self.width
        excess = np.maximum(scaled - LINEAR_UP_TO, 0.0)
        return np.asarray((np.minimum(scaled, LINEAR_UP_TO) + np.log1p(excess) - self.centre) / self.deviation)

    def inverse(self, outputs: Array) -> Array:
        raw = outputs * self.deviation + self.centre
        excess = np.expm1(np.maximum(raw - LINEAR_UP_TO, 0.0))
        return np.asarray((np.minimum(raw, LINEAR_UP_TO) + excess) * self.width + self.median)

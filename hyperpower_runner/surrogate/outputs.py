"""How a metric is brought to the scale on which a stationary Gaussian process fits it, and back.

What matters is told apart in units of w, the distance from the best value to the median. Far above the median, how bad
a value is says little about where good ones are, and a few of 10^6 would leave the others indistinguishable: from
`LINEAR_UP_TO` w on, values enter by their logarithm. Then they are standardised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hyperpower_runner.config import LARGEST_FLOAT
from hyperpower_runner.space import Array

LINEAR_UP_TO = 2.0  # widths above the median
LARGEST = 1e75  # of scaled values, in size: their squares can be added up
ROUNDING = 1e-12  # relative differences below this one are no differences


@dataclass(frozen=True)
class Outputs:
    """A strictly increasing map of a metric's values to standardised outputs.

    median, width: of the metric; linear_up_to: in widths above the median; centre, deviation: of the outputs.
    """

    median: float
    width: float
    linear_up_to: float = LINEAR_UP_TO
    centre: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, values: Array, linear_up_to: float = LINEAR_UP_TO) -> Outputs:
        """For values, shape (n,), n at least 1; with `linear_up_to` infinite, nothing enters by its logarithm."""
        values = np.clip(values, -LARGEST_FLOAT, LARGEST_FLOAT)
        median, lowest = float(np.median(values)), float(np.min(values))
        size = max(abs(median), abs(lowest))
        # Where most values equal the best one, the mean distance; where all do, up to rounding, anything serves.
        widths = (median - lowest, float(np.mean(np.abs(values - median))), size)
        width = next((width for width in widths if width > ROUNDING * size), 1.0)
        raw = cls(median, width, linear_up_to).transform(values)
        deviation = float(np.std(raw))
        return cls(median, width, linear_up_to, float(np.mean(raw)), deviation if deviation > ROUNDING else 1.0)

    def transform(self, values: Array) -> Array:
        with np.errstate(over="ignore"):
            scaled = (np.clip(values, -LARGEST_FLOAT, LARGEST_FLOAT) - self.median) / self.width
        scaled = np.clip(scaled, -LARGEST, LARGEST)
        excess = np.maximum(scaled - self.linear_up_to, 0.0)
        return np.asarray((np.minimum(scaled, self.linear_up_to) + np.log1p(excess) - self.centre) / self.deviation)

    def inverse(self, outputs: Array) -> Array:
        raw = outputs * self.deviation + self.centre
        excess = np.expm1(np.clip(raw - self.linear_up_to, 0.0, 2.0 * np.log(LARGEST)))
        with np.errstate(over="ignore"):
            return np.asarray((np.minimum(raw, self.linear_up_to) + excess) * self.width + self.median)

"""The Branin function, in the form of a Spearmint wrapper: the smallest one to copy. Its minimum is 0.397887.

In config.json: "main-file": "branin.py", and two FLOAT variables, x from -5 to 10 and y from 0 to 15.
"""

import math
from typing import Any


def main(job_id: int, params: dict[str, Any]) -> float:
    """params maps each name to a list of its values, here of one; what is returned is minimised."""
    x, y = float(params["x"][0]), float(params["y"][0])
    bend = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return bend**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10

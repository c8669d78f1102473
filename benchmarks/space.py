"""How fast feasible candidates are found. Prints a table.

    python benchmarks/space.py [--rounds 5]

The space is the paper's thirteen variables on CIFAR-10. Candidates a second: drawn, decoded and checked against a
linear known constraint over all thirteen. Suggestion: `rand` where one point in 100,000 is feasible.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from hyperpower_runner.config import parse_text
from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.history import History
from hyperpower_runner.methods.rand import Rand
from hyperpower_runner.space import Space, parse_constraints

CONFIG = Path(__file__).parents[1] / "experiments" / "cifar10" / "config.json"
CHUNK = 65_536


def linear_constraint(space: Space, feasible: float) -> Space:
    """The space with a linear constraint over all its variables that about so large a part of it meets."""
    values = space.sample(np.random.default_rng(1), 2_000_000)
    weights = 1.0 / values.std(axis=0)
    bound = np.quantile(values @ weights, feasible)
    terms = [f"{weight:.6g} * {name}" for weight, name in zip(weights, space.names, strict=True)]
    return replace(space, constraints=parse_constraints([f"{' + '.join(terms)} <= {bound:.9g}"], space.variables))


def candidates_per_s(space: Space, rounds: int) -> float:
    rates = []
    for seed in range(rounds):
        rng, begun = np.random.default_rng(seed), time.perf_counter()
        for _ in range(16):
            space.holds(space.sample(rng, CHUNK))
        rates.append(16 * CHUNK / (time.perf_counter() - begun))
    return statistics.median(rates)


def suggestion_s(space: Space, rounds: int) -> float:
    method = Rand(space, HardwareModels(space), {})
    times = []
    for seed in range(rounds):
        begun = time.perf_counter()
        method.suggest(History(), np.random.default_rng(seed))
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    space = parse_text(CONFIG.read_text()).space
    table = Table("what", "measured", "aim", title="feasible sampling, 13 variables")
    half, rare = linear_constraint(space, 0.5), linear_constraint(space, 1e-5)
    table.add_row("candidates a second, linear constraint", f"{candidates_per_s(half, rounds):,.0f}", "1,000,000")
    table.add_row("rand, half of the space feasible", f"{1000 * suggestion_s(half, rounds):.1f} ms", "")
    table.add_row("rand, one point in 100,000 feasible", f"{1000 * suggestion_s(rare, 4 * rounds):.0f} ms", "")
    Console().print(table)


if __name__ == "__main__":
    main()

"""What the simulated platforms make of the paper's spaces: RMSPE of each form of model, ranges, feasible shares.

    python -m benchmarks.simulated [--structures 100] [--draws 5]

The spaces are those of experiments/mnist and experiments/cifar10, the budgets the paper's (section 5). RMSPE is of
10-fold cross-validation on structures measured once each, mean and worst over draws of the structures; the paper's own
is in its table 1. Ranges and shares are without noise. Everything is simulated, no device is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hyperpower_runner.config import parse_text
from hyperpower_runner.hardware.bench import inference_job
from hyperpower_runner.hardware.features import Features
from hyperpower_runner.hardware.fitting import fit_metric
from hyperpower_runner.hardware.measurement import Protocol, assess
from hyperpower_runner.hardware.meters import simulated
from hyperpower_runner.hardware.models import FORMS
from hyperpower_runner.hardware.profiling import draw_structures
from hyperpower_runner.hardware.validation import Score
from hyperpower_runner.space import Array, Space
from hyperpower_runner.trial import Job, params_key

ROOT = Path(__file__).parents[1]
BUDGETS = {  # power in W, memory in bytes
    ("mnist", "simulated-gtx1070"): {"power_w": 85.0, "memory_bytes": 1.15e9},
    ("cifar10", "simulated-gtx1070"): {"power_w": 90.0, "memory_bytes": 1.25e9},
    ("mnist", "simulated-tegra-tx1"): {"power_w": 10.0},
    ("cifar10", "simulated-tegra-tx1"): {"power_w": 12.0},
}
PAPER = {  # table 1, in percent
    ("mnist", "simulated-gtx1070"): {"power_w": 5.70, "memory_bytes": 4.43},
    ("cifar10", "simulated-gtx1070"): {"power_w": 5.98, "memory_bytes": 4.67},
    ("mnist", "simulated-tegra-tx1"): {"power_w": 6.62},
    ("cifar10", "simulated-tegra-tx1"): {"power_w": 4.17},
}
UNITS = {"power_w": ("W", 1.0), "memory_bytes": ("GB", 1e9)}
LARGE = 20_000  # structures for ranges and shares


def space_of(name: str) -> Space:
    path = ROOT / "experiments" / name / "config.json"
    return parse_text(path.read_text(encoding="utf-8"), str(path)).space


def features_of(name: str) -> Features:
    return Features(ROOT / "objectives" / f"{name}_cnn.py")


def measured(
    space: Space, features: Features, platform: str, structures: list[Array], draw: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """One measurement of each structure by metric, and their features: arrays of shape (n,)."""
    columns = features.columns(space, np.array(structures))
    points = [space.to_params(structure) for structure in structures]
    counts = {
        params_key(params): {name: float(column[row]) for name, column in columns.items()}
        for row, params in enumerate(points)
    }
    bench = simulated.make({"meter": platform}, lambda params: counts[params_key(params)])
    protocol = Protocol()
    metrics: dict[str, list[float]] = {metric: [] for metric in sorted(bench.metrics, reverse=True)}
    for params in points:
        trace = bench.run(inference_job(Job(0, params, draw), protocol, protocol.warm_up_s), Path(), protocol.sample_hz)
        window = assess(trace, protocol, bench.metrics)
        for metric, column in metrics.items():
            value = window.metrics[metric]
            assert value is not None
            column.append(value)
    return {metric: np.array(column) for metric, column in metrics.items()}, columns


def errors_of(name: str, platform: str, structures: int, draws: int) -> dict[str, dict[str, list[float]]]:
    """RMSPE in percent by metric and form ("constant" among them), one of each draw."""
    space, features = space_of(name), features_of(name)
    errors: dict[str, dict[str, list[float]]] = {}
    for draw in range(draws):
        drawn = draw_structures(space, structures, draw)
        outcomes, columns = measured(space, features, platform, drawn, draw)
        for metric, column in outcomes.items():
            rng = np.random.default_rng([draw, structures])
            model = fit_metric(space, np.array(drawn), columns, column, rng, repeats=1)
            assert model.validation is not None
            found = errors.setdefault(metric, {})
            for form, score in model.validation.by_form.items():
                if isinstance(score, Score):
                    found.setdefault(form, []).append(100 * score.rmspe)
            found.setdefault("constant", []).append(100 * model.validation.constant)
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=100)
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()
    forms = [*FORMS, "constant"]
    table = Table(
        title=f"simulated platforms, {arguments.structures} structures, {arguments.draws} draws: RMSPE mean (worst), %"
    )
    for heading in ("space", "platform", "metric", *forms, "table 1", "range (1 to 99 %)", "budget", "feasible"):
        table.add_column(heading)
    for (name, platform), budgets in BUDGETS.items():
        space = space_of(name)
        truth = simulated.true_values(
            platform, features_of(name).columns(space, np.array(draw_structures(space, LARGE, 0)))
        )
        for metric, by_form in errors_of(name, platform, arguments.structures, arguments.draws).items():
            table.add_row(
                name, platform, metric, *row_of(by_form, forms), *truth_of(truth, metric, budgets, (name, platform))
            )
    Console(width=200).print(table)


def row_of(by_form: Mapping[str, list[float]], forms: list[str]) -> list[str]:
    return [f"{np.mean(by_form[form]):.1f} ({max(by_form[form]):.1f})" if form in by_form else "-" for form in forms]


def truth_of(truth: Mapping[str, Any], metric: str, budgets: Mapping[str, float], key: tuple[str, str]) -> list[str]:
    unit, size = UNITS[metric]
    low, high = np.quantile(truth[metric], [0.01, 0.99]) / size
    budget = budgets[metric]
    return [
        f"{PAPER[key][metric]:.2f}",
        f"{low:.3g} to {high:.3g} {unit}",
        f"{budget / size:g} {unit}",
        f"{100 * np.mean(truth[metric] <= budget):.0f} %",
    ]


if __name__ == "__main__":
    main()

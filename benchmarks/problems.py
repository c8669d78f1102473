"""Constrained problems to compare searches on: a config.json each, an evaluation, and the least value that is feasible.

    python -m benchmarks.problems        # prints how much of each space is feasible, and checks each optimum by force

They are written before any method was tried on them, and know none. What a problem is, `problem` says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.cells import EDGES, OPERATIONS, CellPower, cells
from benchmarks.problem import Columns, Outcome, Problem, least, noisy
from hyperpower_runner.hardware.models import LinearModel
from hyperpower_runner.space import Array
from hyperpower_runner.trial import Params

ROOT = Path(__file__).parents[1]
CHANCE_LEVEL = 0.9  # error of a diverged training with ten classes


def floats(**ranges: tuple[float, float]) -> dict[str, Any]:
    return {name: {"type": "FLOAT", "min": low, "max": high} for name, (low, high) in ranges.items()}


# Branin on a thin ring, which none of its three minima touches.


def branin() -> Problem:
    def truth(z: Columns) -> Array:
        x, y = z["x"], z["y"]
        bowl = y - 5.1 / (4 * np.pi**2) * x**2 + 5 / np.pi * x - 6
        return np.asarray(bowl**2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x) + 10)

    config = {
        "variables": floats(x=(-5, 10), y=(0, 15)),
        "known-constraints": ["abs((x - 2.5)**2 + (y - 7.5)**2 - 40) <= 3.6"],
        "likelihood": "NOISELESS",
    }
    excess = lambda z: [abs((z["x"] - 2.5) ** 2 + (z["y"] - 7.5) ** 2 - 40) - 3.6]  # noqa: E731
    return Problem("branin", config, truth, noisy(truth), excess, 0.8314076, "force, and a grid")


# Hartmann6 in the unit ball's positive orthant (Letham et al. 2019); its minimum is inside.

HARTMANN_A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
HARTMANN_P = 1e-4 * np.array(
    [[1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991], [2348, 1451, 3522, 2883, 3047, 6650],
     [4047, 8828, 8732, 5743, 1091, 381]]
)  # fmt: skip


def hartmann6() -> Problem:
    names = [f"x[{i}]" for i in range(6)]

    def truth(z: Columns) -> Array:
        x = np.array([z[name] for name in names], dtype=float)
        terms = [
            height * np.exp(-sum(a[i] * (x[i] - p[i]) ** 2 for i in range(6)))
            for height, a, p in zip((1.0, 1.2, 3.0, 3.2), HARTMANN_A, HARTMANN_P, strict=True)
        ]
        return np.asarray(-np.sum(terms, axis=0))

    config = {
        "variables": {"x": {"type": "FLOAT", "min": 0, "max": 1, "size": 6}},
        "known-constraints": [" + ".join(f"{name}**2" for name in names) + " <= 1"],
        "likelihood": "NOISELESS",
    }
    excess = lambda z: [sum(z[name] ** 2 for name in names) - 1]  # noqa: E731
    return Problem("hartmann6", config, truth, noisy(truth), excess, -3.322368, "published; it meets the constraint")


# The paper's thirteen variables on CIFAR-10: a stand-in for training, with about a third that diverges.

CIFAR10_POWER = LinearModel(
    {"conv1_features": 0.28, "conv2_features": 0.22, "conv3_features": 0.12, "conv1_kernel": 2.5, "conv2_kernel": 2.0,
     "conv3_kernel": 1.0, "pool1_kernel": -4.0, "pool2_kernel": -2.5, "pool3_kernel": -0.8, "fc_units": 0.025},
    intercept=62.0,
)  # fmt: skip


def _log_step(z: Columns) -> Any:
    """The logarithm of the effective step of SGD with momentum."""
    return np.log(z["learning_rate"] / (1 - z["momentum"]))


def _log_stable_step(z: Columns) -> Any:
    """The longest stable step: shorter for wide layers and large kernels, longer where pooling averages."""
    fan = sum(z[f"conv{i}_kernel"] ** 2 * z[f"conv{i}_features"] for i in (1, 2, 3)) + 0.3 * z["fc_units"]
    pooled = z["pool1_kernel"] * z["pool2_kernel"] * z["pool3_kernel"]
    return np.log(0.13) - 0.45 * np.log(fan / 2000) + 0.12 * np.log(pooled)


def cifar10_error(z: Columns, shift: float = 0.0) -> Array:
    """Test error without noise; `shift` moves the border of divergence, in the logarithm of the step.

    Width, kernels and units have saturating returns; too much pooling loses detail, too little costs invariance, which
    larger kernels partly give; short steps leave the training unfinished; the best decay depends on the capacity.
    """
    margin = _log_stable_step(z) - _log_step(z)
    width = sum(
        a * np.exp(-(z[f"conv{i}_features"] - 20) / s) for i, a, s in ((1, 0.05, 18), (2, 0.08, 25), (3, 0.10, 35))
    )
    kernels = (
        0.018 * (z["conv1_kernel"] - 4) ** 2
        + 0.012 * (z["conv2_kernel"] - 3) ** 2
        + 0.008 * (z["conv3_kernel"] - 3) ** 2
    )
    side = np.log(32 / (z["pool1_kernel"] * z["pool2_kernel"] * z["pool3_kernel"]))  # of the last feature map
    field = 0.25 * (z["conv1_kernel"] + z["conv2_kernel"] + z["conv3_kernel"] - 10.5)
    pooling = 0.07 * (side - np.log(6) - 0.25 * field) ** 2 + 0.025 * (z["pool1_kernel"] == 3) * (z["conv1_kernel"] < 4)
    capacity = np.log(z["fc_units"] / 200) + 0.6 * np.log(z["conv3_features"] / 20) + 0.4 * side
    units = 0.05 * np.exp(-1.5 * np.log(z["fc_units"] / 200))
    short = np.maximum(margin - 1.0, 0.0)
    steps = 0.022 * short**2 + 0.05 * np.maximum(1.0 - margin, 0.0) ** 2
    decay = 0.016 * (np.log(z["weight_decay"]) - np.log(8e-4) - 0.5 * (capacity - 2.0) + 0.15 * short) ** 2
    error = 0.18 + 0.55 * (1 - np.exp(-1.2 * (width + kernels + pooling + units + steps + decay)))
    return np.where(margin < shift, CHANCE_LEVEL, error)


def cifar10(terminated: bool = False) -> Problem:
    """terminated: a diverged training is stopped early and gives no error, instead of one near chance level."""

    def evaluate(params: Params, rng: np.random.Generator) -> Outcome:
        shift, noise = rng.standard_normal(2)
        error = float(cifar10_error(params, shift=0.1 * shift))
        if error == CHANCE_LEVEL:
            metrics = {} if terminated else {"error": CHANCE_LEVEL + 0.003 * float(noise)}
            return Outcome(metrics, error, "terminated" if terminated else "completed")
        return Outcome({"error": error + (0.004 + 0.02 * (error - 0.18)) * float(noise)}, error)

    variables = json.loads((ROOT / "experiments" / "cifar10" / "config.json").read_text())["variables"]
    return Problem(
        "cifar10-terminated" if terminated else "cifar10",
        {"variables": variables, "constraints": {"power_w": 97.0}},
        cifar10_error, evaluate, lambda z: [], 0.2492337, "force", CIFAR10_POWER,
    )  # fmt: skip


# A perceptron that must be small: integers, categories, and products in the constraints.


def mlp() -> Problem:
    best_rate = {"sgd": np.log(0.1), "adam": np.log(0.002), "rmsprop": np.log(0.001)}
    loss_of = {"relu": 0.01, "gelu": 0.0, "tanh": 0.02, "sigmoid": 0.05}

    def look_up(table: Mapping[str, float], keys: Any) -> Any:
        return np.vectorize(table.__getitem__, otypes=[float])(keys)

    def truth(z: Columns) -> Array:
        layers, width, skip = z["layers"], z["width"], np.equal(z["skip"], "yes")
        saturating = np.isin(z["activation"], ("tanh", "sigmoid"))
        depth = np.where(skip, 0.3, np.where(saturating, 1.0, 0.6)) * 0.012 * np.maximum(layers - 2, 0) ** 1.5
        capacity = 0.35 * np.exp(-0.55 * np.log(width / 32) - 0.35 * np.log(layers + 1.0 * skip))
        off = (
            np.log(z["learning_rate"])
            - look_up(best_rate, z["optimizer"])
            - 0.4 * np.log(z["batch"] / 64)
            + 0.1 * layers
        )
        step = 0.02 * off**2 * np.where(off > 0, 1.6, 0.7) * np.where(np.equal(z["optimizer"], "sgd"), 1.0, 0.8)
        dropout = 0.5 * (z["dropout"] - 0.06 * np.log(width / 32)) ** 2
        batch = 0.006 * np.log(z["batch"] / 48) ** 2
        slow = 0.02 * np.equal(z["optimizer"], "sgd") * saturating
        return np.asarray(
            0.05 + 0.75 * np.tanh(capacity + depth + step + dropout + batch + slow + look_up(loss_of, z["activation"]))
        )

    config = {
        "variables": {
            "layers": {"type": "INT", "min": 1, "max": 8},
            "width": {"type": "INT", "min": 32, "max": 1024},
            "batch": {"type": "INT", "min": 16, "max": 512, "scale": "log"},
            "activation": {"type": "ENUM", "options": ["relu", "gelu", "tanh", "sigmoid"]},
            "optimizer": {"type": "ENUM", "options": ["sgd", "adam", "rmsprop"]},
            "skip": {"type": "ENUM", "options": ["no", "yes"]},
            "dropout": {"type": "FLOAT", "min": 0, "max": 0.6},
            "learning_rate": {"type": "FLOAT", "min": 0.0001, "max": 1, "scale": "log"},
        },
        "known-constraints": ["layers * width**2 <= 150000", "batch * layers * width <= 60000"],
    }
    excess = lambda z: [  # noqa: E731
        np.log(z["layers"] * z["width"] ** 2 / 150000), np.log(z["batch"] * z["layers"] * z["width"] / 60000)
    ]  # fmt: skip
    return Problem("mlp", config, truth, noisy(truth, 0.004), excess, 0.1021984, "force")


# The pressure vessel (Sandgren 1990): mixed integers, values over four orders of magnitude, a minimum in a corner.


def vessel() -> Problem:
    def truth(z: Columns) -> Array:
        shell, head, radius, length = 0.0625 * z["shell"], 0.0625 * z["head"], z["radius"], z["length"]
        walls = 0.6224 * shell * radius * length + 1.7781 * head * radius**2
        return np.asarray(walls + 3.1661 * shell**2 * length + 19.84 * shell**2 * radius)

    inches = {"type": "INT", "min": 1, "max": 99}
    config = {
        "variables": {"shell": inches, "head": inches, **floats(radius=(10, 200), length=(10, 200))},
        "known-constraints": [
            "0.0193 * radius <= 0.0625 * shell",
            "0.00954 * radius <= 0.0625 * head",
            "3.141592653589793 * radius**2 * (length + radius * 4 / 3) >= 1296000",
        ],
        "likelihood": "NOISELESS",
    }
    excess = lambda z: [  # noqa: E731
        0.0193 * z["radius"] - 0.0625 * z["shell"], 0.00954 * z["radius"] - 0.0625 * z["head"],
        np.log(1296000 / (np.pi * z["radius"] ** 2 * (z["length"] + z["radius"] * 4 / 3))),
    ]  # fmt: skip
    return Problem("vessel", config, truth, noisy(truth), excess, 6059.7143, "published")


# Gardner et al. 2014, first simulation: power that only a measurement tells.


def gardner() -> Problem:
    def truth(z: Columns) -> Array:
        return np.asarray(np.cos(2 * z["x"]) * np.cos(z["y"]) + np.sin(z["x"]))

    def power(z: Columns) -> Array:
        return np.asarray(100 + 50 * np.cos(z["x"] + z["y"]))

    def evaluate(params: Params, rng: np.random.Generator) -> Outcome:
        return Outcome({"error": float(truth(params)), "power_w": float(power(params))}, float(truth(params)))

    config = {"variables": floats(x=(0, 6), y=(0, 6)), "constraints": {"power_w": 75.0}, "likelihood": "NOISELESS"}
    return Problem("gardner", config, truth, evaluate, lambda z: [], -1.8887514, "force, and a grid", measured=power)


# Real data: cells of a convolutional network, their measured power and validation error (see cells).


def ecnas() -> Problem:
    # A vertex with only one of incoming and outgoing edges would do nothing.
    before = {v: " + ".join(f"edge_{u}{v}" for u in range(v)) for v in (1, 2, 3)}
    behind = {v: " + ".join(f"edge_{v}{w}" for w in range(v + 1, 5)) for v in (0, 1, 2, 3)}

    def truth(z: Columns) -> Array:
        options = list(OPERATIONS)
        places = [np.asarray(z[name], dtype=int) for name in EDGES]
        places += [np.asarray(np.searchsorted(options, z[f"operation[{i}]"])) for i in range(3)]
        return np.asarray(cells()[1][tuple(places)])

    def excess(z: Columns) -> list[Array]:
        def total(text: str) -> Any:
            return sum(z[name] for name in text.split(" + "))

        loose = [abs(np.minimum(1, total(before[v])) - np.minimum(1, total(behind[v]))) for v in before]
        return [*loose, 1 - total(behind[0]), total(" + ".join(EDGES)) - 9]

    config = {
        "variables": {
            **{name: {"type": "INT", "min": 0, "max": 1} for name in EDGES},
            "operation": {"type": "ENUM", "options": list(OPERATIONS), "size": 3},
        },
        "known-constraints": [
            *(f"min(1, {before[v]}) == min(1, {behind[v]})" for v in before),
            f"{behind[0]} >= 1",
            f"{' + '.join(EDGES)} <= 9",
        ],
        "constraints": {"power_w": 155.0},
    }
    return Problem("ecnas", config, truth, noisy(truth), excess, 0.266226, "all cells listed", CellPower())


PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (branin(), hartmann6(), cifar10(), cifar10(terminated=True), mlp(), vessel(), ecnas(), gardner())
}


def main() -> None:
    table = Table("problem", "variables", "allowed", "feasible", "optimum", "found by force", "known by")
    for problem in PROBLEMS.values():
        rng = np.random.default_rng(0)
        values = problem.space.sample(rng, 200_000)
        shares = (f"{100 * mask.mean():.1f} %" for mask in (problem.acceptable(values), problem.feasible(values)))
        found = least(problem, rng)
        row = (str(problem.space.dimensions), *shares, f"{problem.optimum:.6g}", f"{found:.6g}", problem.origin)
        table.add_row(problem.name, *row)
    Console().print(table)


if __name__ == "__main__":
    main()

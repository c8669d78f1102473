"""How well hardware models predict measured power, and how fast they do. Prints a table.

    python -m benchmarks.models [--repeats 5]     # relative errors by form, on the EC-NAS cells
    python -m benchmarks.models --speed           # candidates a second

The data are the training powers of 2,532 convolutional cells (data/README.md). A cell is a structure of ten possible
edges and three operations; its computed features are counts of the whole network. Errors are root mean square relative
errors in ten-fold cross-validation over cells, with everything that a form chooses chosen inside the folds.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hyperpower_runner.config import parse_text
from hyperpower_runner.hardware.features import with_intensity
from hyperpower_runner.hardware.fitting import fit_metric
from hyperpower_runner.hardware.models import FORMS, HardwareModels, LinearModel
from hyperpower_runner.hardware.validation import Score
from hyperpower_runner.space import Array, Space, Variable

DATA = Path(__file__).parent / "data"
CONFIG = Path(__file__).parents[1] / "experiments" / "cifar10" / "config.json"
CHUNK = 65_536
FEATURES = ("parameters", "macs", "activations", "conv_layers", "pool_layers")
OPERATIONS = {"none": "", "conv1x1": "1", "conv3x3": "3", "maxpool3x3": "m"}
SPACE = Space(
    (
        *(Variable(f"edge_{i}{j}", "INT", 0, 1) for i, j in itertools.combinations(range(5), 2)),
        Variable("operation", "ENUM", options=tuple(OPERATIONS), size=3),
    )
)


def read(name: str) -> dict[str, list[list[float]]]:
    """The numbers of each line of a file of cells, by its first three columns, which name the cell."""
    found: dict[str, list[list[float]]] = {}
    for line in (DATA / name).read_text().splitlines()[1:]:
        vertices, edges, operations, *numbers = line.split(",")
        found.setdefault(f"{vertices},{edges},{operations}", []).append([float(number) for number in numbers])
    return found


def encode(cell: str) -> list[float]:
    """A cell as values of `SPACE`: its output is the last of five vertices, however many it has."""
    vertices, edges, operations = cell.split(",")
    places = [*range(int(vertices) - 1), 4]
    edge = {pair: float(bit) for pair, bit in zip(itertools.combinations(places, 2), edges, strict=True)}
    letters = list(OPERATIONS.values())
    chosen = [float(letters.index(letter)) for letter in operations]
    return [*(edge.get(pair, 0.0) for pair in itertools.combinations(range(5), 2)), *chosen, *[0.0] * (3 - len(chosen))]


def cells() -> tuple[Array, dict[str, Array], Array]:
    """Values of shape (n, D), features of shape (n,) and power in W, shape (n,), of each cell."""
    powers, networks = read("ecnas.csv"), read("ecnas_networks.csv")
    features = np.array([networks[cell][0] for cell in powers])
    return (
        np.array([encode(cell) for cell in powers]),
        dict(zip(FEATURES, features.T, strict=True)),
        np.array([lines[0][0] for lines in powers.values()]),
    )


def repeatability() -> float:
    """The relative standard deviation between repeats of the same cell, pooled over the cells that were repeated."""
    repeats = [np.array(lines)[:, 0] for lines in read("ecnas_repeats.csv").values()]
    squares = [np.sum((powers / powers.mean() - 1) ** 2) for powers in repeats]
    return float(np.sqrt(sum(squares) / sum(len(powers) - 1 for powers in repeats)))


def print_errors(repeats: int) -> None:
    values, features, power_w = cells()
    everything = with_intensity(features)
    some = {name: features[name] for name in FEATURES[:3]}
    alone = Space(tuple(Variable(name, "INT", 0, 2**62) for name in FEATURES))  # whose variables are the features
    as_variables = np.array([features[name] for name in FEATURES]).T
    trials: Sequence[tuple[str, str, Space, Array, Mapping[str, Array]]] = (
        ("paper", "edges", SPACE, values, {}),
        ("linear", "edges, operations", SPACE, values, {}),
        ("computed", "parameters", SPACE, values, {"parameters": features["parameters"]}),
        ("computed", "parameters, MACs, activations", SPACE, values, some),
        ("computed", "these, intensity, layers", SPACE, values, everything),
        ("polynomial", "these", alone, as_variables, {"intensity": everything["intensity"]}),
        ("log-quadratic", "these", alone, as_variables, {"intensity": everything["intensity"]}),
        ("polynomial", "these, edges, operations", SPACE, values, everything),
        ("log-quadratic", "these, edges, operations", SPACE, values, everything),
    )
    print("| form | inputs | RMSPE, % | terms | fit, s |\n|---|---|---:|---:|---:|")
    for number, (form, inputs, space, points, computed) in enumerate(trials):
        begun = time.perf_counter()
        rng = np.random.default_rng(0)
        model = fit_metric(space, points, computed, power_w, rng, forms=[form], repeats=repeats)
        assert model.validation is not None
        if number == 0:
            print(f"| constant |  | {100 * model.validation.constant:.2f} | 1 |  |")
        took_s = time.perf_counter() - begun
        print(
            f"| {form} | {inputs} | {_percent(model.validation.score)} | {len(model.weights)} | {took_s:.1f} |",
            flush=True,
        )
    print(f"\nRepeats of one cell differ by {100 * repeatability():.1f} %: no honest error is much below that.")


def print_speed(rounds: int) -> None:
    space = parse_text(CONFIG.read_text(), str(CONFIG)).space
    rng = np.random.default_rng(0)
    values = space.sample(rng, 400)
    z = np.array([space.column(values, name) for name in space.names]).T
    features = with_intensity({"parameters": z.prod(axis=1) ** 0.1, "macs": z.sum(axis=1), "activations": z[:, 0] + 1})
    power_w = 40 + z @ rng.random(z.shape[1]) + rng.normal(0, 1, len(z))
    print("| form | terms | candidates/s |\n|---|---:|---:|")
    for form in FORMS:
        model = fit_metric(space, values, features, power_w, rng, forms=[form], repeats=1)
        rate = candidates_per_s(space, model, sorted(features), rounds)
        print(f"| {form} | {len(model.weights)} | {rate:.3g} |", flush=True)


def candidates_per_s(space: Space, model: LinearModel, features: Sequence[str], rounds: int) -> float:
    """How many points are predicted in a second, their features given."""
    models, rates = HardwareModels(space, {"power_w": model}), []
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        values, computed = space.sample(rng, CHUNK), {name: rng.random(CHUNK) + 1 for name in features}
        begun = time.perf_counter()
        for _ in range(16):
            models.within({"power_w": model.predict(space, values, computed)}, {"power_w": 100.0})
        rates.append(16 * CHUNK / (time.perf_counter() - begun))
    return statistics.median(rates)


def _percent(score: Score) -> str:
    return f"{100 * score.rmspe:.2f} ± {100 * score.spread:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true", help="measure candidates a second instead")
    parser.add_argument("--repeats", type=int, default=5, help="of the cross-validation")
    parser.add_argument("--rounds", type=int, default=5, help="of the measurement of speed")
    arguments = parser.parse_args()
    if arguments.speed:
        print_speed(arguments.rounds)
    else:
        print_errors(arguments.repeats)


if __name__ == "__main__":
    main()

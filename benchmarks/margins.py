"""How often networks that were predicted to fit measure above the budget: without a margin, with one, recalibrated.

    python -m benchmarks.margins              # prints a table; --seeds 5 --evaluations 50 --form paper

Each seed profiles 100 structures of the CIFAR-10 space on the simulated GTX 1070, fits power, and searches under a
budget at the 20th percentile of the space's power. Power is simulated and measured with noise, as after a job of a
search; the error to minimise is the stand-in of `problems`, whose larger networks are better ones. Nothing here ran on
a device.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.problems import cifar10
from hyperpower_runner.config import ExperimentConfig, parse
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.hardware.bench import Bench, make_bench
from hyperpower_runner.hardware.features import Features, load_features
from hyperpower_runner.hardware.from_profile import fit_profile
from hyperpower_runner.hardware.measurement import QUICK
from hyperpower_runner.hardware.meters.simulated import true_values
from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.hardware.profiling import Profiler, measure_network, profile_job
from hyperpower_runner.search import Search
from hyperpower_runner.trial import Job, Trial

ROOT = Path(__file__).parents[1]
METER = "simulated-gtx1070"
PERCENTILE = 20
ASKED: Mapping[str, Mapping[str, Any]] = {
    "no margin (Eq. 3)": {},
    "confidence 0.95": {"confidence": 0.95},
    "0.95, recalibrated": {"confidence": 0.95, "recalibrate": True},
}


class Silent:
    """An observer of profiling that tells nobody."""

    def measured(self, *anything: object) -> None: ...

    def failed(self, *anything: object) -> None: ...

    def note(self, text: str) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=50)
    parser.add_argument("--form", default="", help="the form of the model (default: chosen by cross-validation)")
    options = parser.parse_args()
    script = ROOT / "objectives" / "cifar10_cnn.py"
    features = load_features(script)
    assert features is not None
    table = Table("margin", "predicted violations", "measured violations", "each seed", "best error", "form", box=None)
    counts: dict[str, list[tuple[int, int, float]]] = {name: [] for name in ASKED}
    forms = []
    for seed in range(options.seeds):
        budget = percentile(features, seed)
        models = profiled(config_of(budget, {}, seed), features, options.form)
        forms.append(models.form("power_w"))
        for name, asked in ASKED.items():
            counts[name].append(search(config_of(budget, asked, seed), models, features, options.evaluations))
    for name, found in counts.items():
        predicted, measured, best = zip(*found, strict=True)
        total = options.evaluations * options.seeds
        share = f"{sum(measured)} of {total} ({100 * sum(measured) / total:.1f} %)"
        each, error = ", ".join(map(str, measured)), f"{np.median(best):.4f}"
        table.add_row(name, f"{sum(predicted)}", share, each, error, ", ".join(sorted(set(forms))))
    Console(width=140).print(table)


def config_of(budget: float, asked: Mapping[str, Any], seed: int) -> ExperimentConfig:
    problem = cifar10()
    bound = {"max": budget, **asked}
    return parse({
        **problem.config, "objective": {"command": ["none"]}, "method": "hw-ieci", "seed": seed,
        "constraints": {"power_w": bound}, "platform": {"meter": METER},
    })  # fmt: skip


def percentile(features: Features, seed: int) -> float:
    """The power below which a fifth of the space lies, in W."""
    space = cifar10().space
    values = space.sample(np.random.default_rng([seed, 99]), 20_000)
    power = true_values(METER, features.columns(space, values))["power_w"]
    return float(np.percentile(power, PERCENTILE))


def profiled(config: ExperimentConfig, features: Features, form: str) -> HardwareModels:
    """Models of power alone, fitted to a profile of the simulated platform."""
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment(Path(folder))
        bench = make_bench(config.platform, experiment.root, features)
        profiler = Profiler(experiment, config, bench, config.protocol, config.samples, Silent())
        profiler.features = features
        profile = profiler.run()
    forms = {"": form} if form else {}
    models = fit_profile(profile, config, features, forms, "profile", lambda text: None)
    return replace(models, models={"power_w": models.models["power_w"]})


def search(
    config: ExperimentConfig, models: HardwareModels, features: Features, evaluations: int
) -> tuple[int, int, float]:
    """Run hw-ieci; returns predicted violations, measured ones, and the best error among those that measured within."""
    problem, bound = cifar10(), config.constraints["power_w"]
    bench = make_bench(config.platform, Path(), features)
    search = Search(config, models=models)
    for _ in range(evaluations):
        job = search.ask()
        outcome = problem.evaluate(job.params, np.random.default_rng([config.seed, job.job_id]))
        status = {"status": outcome.status} if outcome.status != "completed" else {}
        search.tell(job.job_id, **status, **outcome.metrics, power_w=measured_power(bench, config, job))  # type: ignore[arg-type]
    trials = list(search.history)
    predicted = sum(trial.job.predictions["power_w"] > bound for trial in trials)
    best = [trial.objective or 1.0 for trial in trials if _power(trial) <= bound and trial.objective is not None]
    return predicted, sum(_power(trial) > bound for trial in trials), min(best, default=float("nan"))


def measured_power(bench: Bench, config: ExperimentConfig, job: Job) -> float | None:
    """What one short window says of a job's network, as after a job of a search."""
    asked = profile_job(config, job.job_id, job.params)
    return measure_network(bench, asked, QUICK, Path(), [config.seed, job.job_id])[0].metrics["power_w"]


def _power(trial: Trial) -> float:
    power = trial.metrics["power_w"]
    assert power is not None
    return power


if __name__ == "__main__":
    main()

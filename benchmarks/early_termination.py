"""What the stopping rule (paper 3.2) would have done to trainings that ran to their end. Prints a table.

    python benchmarks/early_termination.py EXPERIMENT [--classes 10] [--after-epochs 2]

EXPERIMENT is the directory of a search with "early-termination": false. The rule is applied to each learning curve
after the fact: how many trainings it would have stopped, how many epochs that saves, and, the figure that matters, how
many of those stopped ended well all the same.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hyperpower_runner.experiment import Experiment
from hyperpower_runner.job_files import as_number, read_json_lines
from hyperpower_runner.stopping import CurvePoint, Decision, StoppingRule, decide


@dataclass(frozen=True)
class Training:
    """One training that ran to its end: its curve, and what the rule says of it."""

    curve: list[CurvePoint]
    final_error: float
    decision: Decision

    @property
    def epochs_saved(self) -> int:
        return sum(point.epoch > (self.decision.epoch or 0) for point in self.curve) if self.decision.stop else 0


def read_trainings(experiment: Experiment, rule: StoppingRule) -> list[Training]:
    trainings = []
    for trial in experiment.read_history():
        lines = read_json_lines(experiment.job_files(trial.job.job_id).progress)
        curve = [
            CurvePoint(float(line["epoch"]), as_number(line.get("error")), as_number(line.get("loss")))
            for line in lines
        ]
        if len(curve) == trial.job.epochs and curve[-1].error is not None:
            trainings.append(Training(curve, curve[-1].error, decide(curve, rule)))
    return trainings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--after-epochs", type=int, default=StoppingRule.after_epochs)
    parser.add_argument("--good", type=float, default=0.1, help="a final error below this ended well (default: 0.1)")
    arguments = parser.parse_args()
    rule = StoppingRule(after_epochs=arguments.after_epochs, classes=arguments.classes)
    trainings = read_trainings(Experiment(arguments.experiment), rule)
    stopped = [training for training in trainings if training.decision.stop]
    missed = [training for training in trainings if not training.decision.stop and training.final_error > 0.5]
    epochs = sum(len(training.curve) for training in trainings)
    saved = sum(training.epochs_saved for training in stopped)
    table = Table("full-length trainings", str(len(trainings)), title=f"{rule}")
    table.add_row(
        "ended below an error of " + f"{arguments.good:g}", str(sum(t.final_error < arguments.good for t in trainings))
    )
    table.add_row("stopped by the rule", str(len(stopped)))
    table.add_row("  of those, ended well all the same", str(sum(t.final_error < arguments.good for t in stopped)))
    table.add_row(
        "  least final error among them", f"{min((t.final_error for t in stopped), default=float('nan')):.3f}"
    )
    table.add_row("not stopped, though they ended above 0.5", str(len(missed)))
    table.add_row("epochs saved", f"{saved} of {epochs} ({100 * saved / max(1, epochs):.1f} %)")
    Console().print(table)


if __name__ == "__main__":
    main()

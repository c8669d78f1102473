"""Small experiments for the tests of worker, driver and command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyperpower_runner.driver import Driver, Ending
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.history import History
from hyperpower_runner.launchers.local import LocalLauncher
from hyperpower_runner.summary import Summary
from hyperpower_runner.trial import Result, Trial

CONFIG: dict[str, Any] = {
    "objective": {"command": ["python", "-S", "train.py"]},
    "variables": {"x": {"type": "FLOAT", "min": 0, "max": 1}, "n": {"type": "INT", "min": 1, "max": 50}},
    "method": "rand",
    "budget": {"evaluations": 4},
}

# Fast to start: it imports nothing but json and sys.
REPORT_X = """
    import json, sys
    job = json.load(open(sys.argv[-1]))
    print(json.dumps({"error": job["params"]["x"]}))
"""


def make_experiment(root: Path, script: str = REPORT_X, /, **changes: Any) -> Experiment:
    """An experiment directory whose objective is the given Python script."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (root / "train.py").write_text(textwrap.dedent(script))
    return Experiment(root)


def write_models(experiment: Experiment, **models: dict[str, Any]) -> None:
    experiment.models_file.parent.mkdir(exist_ok=True)
    experiment.models_file.write_text(json.dumps({"schema": 1, "models": models}))


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.notes: list[str] = []
        self.on_tick: Callable[[Summary], None] = lambda summary: None

    def started(self, trial: Trial, adopted: bool) -> None:
        self.events.append(("adopted" if adopted else "started", trial.job.job_id))

    def ended(self, trial: Trial) -> None:
        self.events.append(("ended", trial.job.job_id))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def tick(self, summary: Callable[[], Summary]) -> None:
        self.on_tick(summary())


def drive(
    experiment: Experiment, observer: Recorder | None = None, interrupted: Callable[[], int] = lambda: 0
) -> tuple[Driver, Ending]:
    """Run a search in this process, to its end."""
    config = experiment.read_config()
    with experiment.lock():
        driver = Driver(
            experiment, config, experiment.read_models(config), LocalLauncher(), observer or Recorder(), interrupted
        )
        return driver, driver.run()


def read_and_keep(experiment: Experiment) -> History:
    """Read the jobs as a driver does, which brings the cache up to date."""
    history = experiment.read_history()
    experiment.finished.keep()
    return history


def results(experiment: Experiment) -> dict[int, Result]:
    return {trial.job.job_id: trial.result for trial in experiment.read_history() if trial.result is not None}


def all_params(experiment: Experiment) -> dict[int, dict[str, Any]]:
    return {trial.job.job_id: trial.job.params for trial in experiment.read_history()}


def command_line(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "hyperpower_runner", *map(str, words)]


def run_command(*words: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the command line as users do, without a terminal."""
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(
        command_line(*words), capture_output=True, text=True, timeout=timeout, env=environment, stdin=subprocess.DEVNULL
    )

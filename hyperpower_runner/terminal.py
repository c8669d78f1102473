"""What all commands share: their arguments, how they open an experiment, how they print, and the exit codes.

Results go to stdout, progress and messages to stderr.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # imported where they are used, so that --help stays fast
    from hyperpower_runner.config import ExperimentConfig
    from hyperpower_runner.experiment import Experiment

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130  # 2, for usage, is typer's


def _directory_of(path: Path) -> Path:
    """The directory where its config.json was named, as `Search` takes both."""
    return path.parent if path.name == "config.json" and not path.is_dir() else path


Directory = Annotated[
    Path,
    typer.Argument(metavar="EXPERIMENT", help="The experiment directory, with config.json.", callback=_directory_of),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def experiment_at(directory: Path) -> Experiment:
    """The experiment of a directory, whatever state its config.json is in; one without it has jobs."""
    from hyperpower_runner.errors import ConfigError
    from hyperpower_runner.experiment import Experiment

    experiment = Experiment(directory.absolute())
    if experiment.config_file.exists() or experiment.deleted.exists():
        return experiment
    if not any(experiment.job_files(job_id).job.exists() for job_id in experiment.job_ids()):
        raise ConfigError(f"{directory}: is not an experiment directory, it holds neither a config.json nor jobs")
    return experiment


def opened(directory: Path) -> tuple[Experiment, ExperimentConfig]:
    """The experiment of a directory, and its checked config."""
    from hyperpower_runner.experiment import Experiment

    experiment = Experiment(directory.absolute())
    config = experiment.read_config()
    return experiment, replace(config, simulated_models=experiment.has_simulated_models())


def show(content: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a result: the object, or the text that says the same."""
    from hyperpower_runner.job_files import strict

    print(json.dumps(strict(content), indent=2) if as_json else text)


def say(text: str) -> None:
    """Tell the user something that is no result."""
    if sys.stderr is not None:  # it may be closed, and print would then take stdout
        with contextlib.suppress(OSError):  # whoever read along has gone, or the disk is full
            print(text, file=sys.stderr, flush=True)

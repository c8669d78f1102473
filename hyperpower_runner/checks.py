"""What is checked before a search runs, beside its files: that something is feasible, and what the device can tell."""

from __future__ import annotations

import contextlib

from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.errors import InfeasibleError, LaunchError, MeterError, ModelsError
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.hardware.bench import make_bench
from hyperpower_runner.hardware.platforms import disagreement, measured_by
from hyperpower_runner.launchers import slurm, slurm_commands
from hyperpower_runner.search import Search
from hyperpower_runner.terminal import say
from hyperpower_runner.view import describe_constraint

PHYSICAL = ("power_w", "memory_bytes", "energy_j", "latency_s")  # what hardware models are for


def check_feasible(experiment: Experiment, config: ExperimentConfig) -> None:
    """Raise unless a first suggestion can be made: nothing runs in a space whose constraints exclude everything."""
    try:
        Search(config, models=experiment.read_models(config)).propose()
    except InfeasibleError as error:
        raise InfeasibleError(f"{experiment.config_file}: {error}") from None


def check_device(experiment: Experiment, config: ExperimentConfig) -> None:
    """Refuse hardware models of another device than the one here, and a budget on what only an absent one tells."""
    if not config.measure_jobs or config.scheduler != "local":  # of a cluster, the device is where the jobs run
        return
    models = experiment.read_models(config)
    try:
        with contextlib.closing(
            make_bench(config.platform, experiment.root, experiment.read_features(config))
        ) as bench:
            wrong = disagreement({**config.platform, **bench.platform}, models.platform)
    except MeterError as error:
        for metric in config.constraints:
            if metric in measured_by(config.platform) and metric not in models.models:
                raise MeterError(f"{error} (constraints.{metric} depends on it, since no model predicts it)") from None
        say(f"The device cannot be seen from here, so completed jobs may not be measured: {error}")
        return
    if wrong and config.hardware_aware:
        raise ModelsError(
            f"{experiment.models_file}: its models are of another device ({wrong}); profile and fit this one"
        )


def check_scheduler(experiment: Experiment, config: ExperimentConfig, *, patient: bool = False) -> None:
    """Raise LaunchError where the cluster does not take these jobs.

    Where a search was begun (`patient`), it is said: it goes on with the jobs in the queue, and whether the next one is
    taken shows when it is submitted.
    """
    if config.scheduler != "slurm":
        return
    options = slurm.job_options(config)
    try:
        slurm_commands.check(options)
        return
    except slurm_commands.LaterError as error:
        problem, outlook = f"Slurm takes no jobs now ({error})", "waiting for it to take the jobs of this search"
    except LaunchError as error:
        problem = f"{experiment.config_file}: a job with these scheduler-args could not run: {error}"
        if "time limit" in str(error).lower() and len(options) > len(config.scheduler_args):
            problem += (
                f" ({options[-1]}, in minutes, is timeout-s and the time to begin and to end;"
                ' lower timeout-s, or set "time" in scheduler-args)'
            )
        outlook = "going on with the jobs that were submitted, and trying the next one all the same"
    if not patient:
        raise LaunchError(problem)
    say(f"{problem}; {outlook}")


def tell_of_unknown(experiment: Experiment, config: ExperimentConfig) -> None:
    """Say which constraints nothing can tell of before, or even after, a job runs."""
    models = experiment.read_models(config)
    for metric in config.constraints:
        if metric not in models.models and metric in PHYSICAL:
            say(f"constraints.{metric} {describe_constraint(config, models, metric)}")

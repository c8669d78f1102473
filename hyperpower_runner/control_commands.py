"""The commands `stop` and `clean`: what is asked of a directory from outside its search, whether a driver runs or not.

They work from every host that sees the directory.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from hyperpower_runner import presence
from hyperpower_runner.errors import HyperPowerError, LockedError
from hyperpower_runner.terminal import Directory, experiment_at, say

if TYPE_CHECKING:  # imported where they are used, so that --help stays fast
    from pathlib import Path

    from hyperpower_runner.config import ExperimentConfig
    from hyperpower_runner.experiment import Experiment
    from hyperpower_runner.launchers import Launcher


def stop(
    directory: Directory,
    now: Annotated[bool, typer.Option("--now", help="Also cancel the running jobs.")] = False,
) -> None:
    """Ask the running driver, on whatever host, to start no more jobs; it ends when the running ones have finished."""
    from hyperpower_runner.locks import STOPPABLE

    experiment = experiment_at(directory)
    holder = experiment.holder()
    if holder is None:
        _stop_without_driver(experiment, now)
        return
    who, doing = f"process {holder['pid']} on {holder['host']}", holder.get("doing", "search")
    if doing in STOPPABLE:
        experiment.request_stop("the stop command", cancel=now)
    seen_s = holder.get("seen_s", 0.0)
    if seen_s > presence.WATCH_S:
        say(f"P{who[1:]} was last seen {seen_s:.0f} s ago; watching whether it beats.")
        if not presence.beats(experiment.holder_file):
            if doing in STOPPABLE:
                experiment.clear_stop()
            _stop_without_driver(experiment, now)
            return
    if doing not in STOPPABLE:
        does = "cleans it" if doing == "cleaning" else "ends its jobs already"
        raise LockedError(f"{experiment.root}: no driver is running, and {who} {does}; wait for that")
    running = "cancels the running jobs" if now else "ends when its running jobs have finished"
    if doing == "profiling":
        running = "ends after the measurement that it makes"
    say(f"Asked {who} to stop: it {running}.")


def _stop_without_driver(experiment: Experiment, now: bool) -> None:
    """End the jobs that a killed driver left running, where that is asked for."""
    from hyperpower_runner.slots import cancel_left, living

    launcher = launcher_at(experiment)
    if not now:
        live = living(experiment, launcher, say)
        rest = f"but jobs {live} go on; to end them: stop --now" if live else "so there is nothing to stop"
        raise HyperPowerError(f"{experiment.root}: no driver is running, {rest}")
    with experiment.lock("stopping", say):
        ended, asked = cancel_left(experiment, launcher, "the stop command", say)
    told = [f"Ended jobs: {ended}."] if ended else []
    told += [f"Jobs {asked} cannot be seen from here, and were asked to end."] if asked else []
    say(" ".join(["No driver was running.", *told]) if told else "No driver and no jobs were running.")


def clean(
    directory: Directory,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete what a search left behind: jobs, results and caches. config.json, hardware/ and what others wrote stay."""
    from hyperpower_runner.cleaning import delete, jobs_left, others_left

    experiment = experiment_at(directory)
    with experiment.lock("cleaning", say):
        check_idle(experiment, directory)
        jobs, others = jobs_left(experiment), others_left(experiment)
        what = [f"{len(jobs)} job{'s' if len(jobs) > 1 else ''}"] if jobs else []
        what += dict.fromkeys("/".join(path.relative_to(experiment.root).parts[:2]) for path in others)
        if not what:
            say(f"{directory}: there is nothing to delete.")
            return
        if not yes and not typer.confirm(f"Delete {', '.join(what)} of {directory} for good?", err=True):
            raise HyperPowerError("nothing was deleted")
        removed = delete(experiment, jobs, others)
    for path in removed:
        print(path)


def check_idle(experiment: Experiment, directory: Path) -> None:
    """Raise HyperPowerError where jobs of an experiment have a worker or wait in a queue. The caller holds its lock."""
    from hyperpower_runner.slots import living

    live = living(experiment, launcher_at(experiment), say)
    if live:
        again = f"hyperpower-runner stop {shlex.quote(str(directory))} --now"
        raise HyperPowerError(f"{directory}: jobs {live} are still running; wait for them, or end them with: {again}")


def launcher_of(
    config: ExperimentConfig, note: Callable[[str], None], wake: int | None = None, root: Path | None = None
) -> Launcher:
    """What runs the workers, as "scheduler" of config.json says; root: an experiment that will want workers soon."""
    from hyperpower_runner.launchers.local import LocalLauncher

    if config.scheduler == "slurm":
        from hyperpower_runner.launchers.slurm import SlurmLauncher, job_options

        return SlurmLauncher(job_options(config), wake, config.polling_time_s, note)
    return LocalLauncher(wake, root=root)


def launcher_at(experiment: Experiment) -> Launcher:
    """The launcher of an experiment whose config.json may have been spoilt since its jobs were started."""
    from hyperpower_runner.errors import ConfigError
    from hyperpower_runner.launchers.local import LocalLauncher

    try:
        return launcher_of(experiment.read_config(runnable=False), say)
    except ConfigError:
        return LocalLauncher()

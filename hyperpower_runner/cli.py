"""The command line: what users type, what is printed, and the exit codes.

Results go to stdout, progress and messages to stderr. Exit 0: done; 1: an error the user can act on; 2: usage; 130:
interrupted with everything saved. Errors that nobody below knows an answer to are turned into a sentence here.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperpower_runner import __version__
from hyperpower_runner.control_commands import clean, launcher_of, stop
from hyperpower_runner.device_commands import fit, profile
from hyperpower_runner.errors import HyperPowerError
from hyperpower_runner.terminal import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    Directory,
    Json,
    opened,
    say,
    show,
)

if TYPE_CHECKING:  # imported where they are used, so that --help stays fast
    from hyperpower_runner.config import ExperimentConfig
    from hyperpower_runner.driver import Ending
    from hyperpower_runner.experiment import Experiment
    from hyperpower_runner.history import History
    from hyperpower_runner.summary import Summary

MOST_POINTS = 10**18  # of a finite space that are worth counting
ADVICE = {  # after failures that are not the script's own, by status
    "lost": "find out what ended its worker",
    "timed-out": "make the script faster, or its time limit longer",
}

app = typer.Typer(
    name="hyperpower-runner",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Search for the best neural network that fits a power and memory budget.",
    epilog="Begin with: hyperpower-runner init my-experiment && hyperpower-runner run my-experiment",
)


class Template(str, Enum):
    cnn = "cnn"
    python = "python"
    shell = "shell"


@app.callback(invoke_without_command=True)
def top(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command(epilog="Example: hyperpower-runner init my-search --template shell")
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory to make.")],
    template: Annotated[Template, typer.Option(help="What to start from.")] = Template.python,
) -> None:
    """Make a new experiment that runs as it is: **cnn** (PyTorch on real images), **python**, or **shell**."""
    from hyperpower_runner.templates import write_template

    for path in write_template(template.value, directory):
        print(path)
    say(f"Next: hyperpower-runner run {shlex.quote(str(directory))}")


@app.command(epilog="Example: hyperpower-runner validate experiments/quickstart")
def validate(directory: Directory, as_json: Json = False) -> None:
    """Check config.json, the objective's script and the hardware models; run nothing."""
    from hyperpower_runner.checks import check_device, check_feasible, check_scheduler
    from hyperpower_runner.history import History
    from hyperpower_runner.search import Search, check_jobs
    from hyperpower_runner.view import describe_constraint, show_metric, show_platform

    experiment, config = opened(directory)
    experiment.check_command(config)
    check_jobs(config, experiment.read_history(), str(experiment.config_file))
    check_device(experiment, config)
    check_scheduler(experiment, config)
    check_feasible(experiment, config)
    space = config.space
    points = None if space.cardinality is None or space.cardinality > MOST_POINTS else space.cardinality
    search = Search(config, models=experiment.read_models(config), history=History())
    known = {metric: describe_constraint(config, search.calibrated_models, metric) for metric in config.constraints}
    content = {
        "valid": True,
        "dimensions": space.dimensions,
        "points": points,
        "method": config.method,
        "constraints": dict(config.constraints),
        "predicted": sorted(metric for metric in config.constraints if metric in search.models.models),
        "margins": dict(search.calibrated_models.margins),
        "platform": dict(config.platform),
        "simulated": config.simulated,
    }
    size = "countless" if points is None else f"{points:,}"
    lines = [f"{experiment.config_file} is valid: {space.dimensions} dimensions, {size} points."]
    lines += [
        f"  {metric} <= {show_metric(metric, bound)} {known[metric]}" for metric, bound in config.constraints.items()
    ]
    if config.platform or config.simulated:
        lines.append(f"  platform: {show_platform(config)}")
    show(content, as_json, "\n".join(lines))


app.command(epilog="Example: hyperpower-runner profile experiments/quickstart --samples 50")(profile)
app.command(
    epilog="Example: hyperpower-runner fit experiments/quickstart --form power_w=paper --form memory_bytes=linear"
)(fit)


@app.command(epilog="Example: hyperpower-runner run experiments/quickstart --evaluations 20 --max-concurrent 2")
def run(
    directory: Directory,
    evaluations: Annotated[int | None, typer.Option(min=1, help="Stop at so many, earlier runs included.")] = None,
    hours: Annotated[
        float | None, typer.Option(min=0, max=1_000_000, help="Stop after so many, earlier runs included.")
    ] = None,
    max_concurrent: Annotated[int | None, typer.Option(min=1, help="Jobs at a time.")] = None,
    as_json: Json = False,
) -> None:
    """Start a search, or resume it: the directory holds all there is to know.

    Ctrl-C once: no new jobs, the running ones are left to finish. Twice: they are cancelled.
    """
    from hyperpower_runner.checks import check_device, check_feasible, check_scheduler, tell_of_unknown

    experiment, config = opened(directory)
    experiment.check_command(config)
    config = replace(
        config,
        evaluations=evaluations or config.evaluations,
        hours=hours if hours is not None else config.hours,
        max_concurrent=max_concurrent or config.max_concurrent,
    )
    with experiment.lock(note=say) as overtaken:
        check_feasible(experiment, config)
        check_device(experiment, config)
        check_scheduler(experiment, config, patient=experiment.count() > 0)
        tell_of_unknown(experiment, config)
        ending, summary = _drive(experiment, config, overtaken)
    show(summary.to_json(), as_json, _text(summary))
    _finish(experiment, ending, summary.history)


@app.command(epilog="Example: hyperpower-runner status experiments/quickstart --json")
def status(directory: Directory, as_json: Json = False) -> None:
    """Show the jobs by status, the best so far, violations, and the time spent."""
    from hyperpower_runner.view import show_holder, show_silence

    experiment, config = opened(directory)
    summary = _read_summary(experiment, config)
    holder = experiment.holder()
    running = holder if holder and holder.get("beats", True) else None
    driver = running and {key: running[key] for key in ("pid", "host", "seen_s") if key in running}
    found = {job_id: experiment.silent_s(job_id, time.time()) for job_id in summary.unfinished}
    silent_s = {job_id: seconds for job_id, seconds in found.items() if seconds is not None}
    content = {**summary.to_json(), "driver": driver, "silent_s": silent_s}
    elsewhere = f"\nelsewhere   {show_silence(silent_s)}" if silent_s else ""
    shown = show_holder(holder) if holder else "not running"
    show(content, as_json, f"{_text(summary)}{elsewhere}\ndriver      {shown}")


@app.command(epilog="Example: hyperpower-runner best experiments/quickstart --json")
def best(directory: Directory, as_json: Json = False) -> None:
    """Show the incumbent, the best completed job that meets every constraint, and what the surrogate would choose."""
    from hyperpower_runner.search import Search
    from hyperpower_runner.summary import best_json, preferred_json
    from hyperpower_runner.view import show_platform, show_preferred, show_trial

    experiment, config = opened(directory)
    summary = _read_summary(experiment, config)
    trial = summary.best
    if trial is None:
        completed = summary.counts["completed"]
        bounds = " and ".join(f"{metric} <= {bound:g}" for metric, bound in config.constraints.items())
        why = f"none of {completed} completed jobs is known to meet {bounds}" if completed else "no job has completed"
        again = f"hyperpower-runner run {shlex.quote(str(directory))}"
        raise HyperPowerError(f"{directory}: no best yet, {why}; search on with: {again}")
    preferred = None
    try:
        models, where = experiment.read_models(config), str(experiment.config_file)
        preferred = Search(config, models=models, history=summary.history, where=where).recommend()
    except HyperPowerError as error:  # what was measured stands all the same
        say(f"The surrogate cannot be asked: {error}")
    content = {**best_json(trial), "preferred": preferred_json(preferred)}
    content.update(platform=dict(config.platform), simulated=config.simulated)
    heading = f"{show_platform(config)}\n" if config.simulated else ""
    show(content, as_json, f"{heading}{show_trial(trial)}\n\n{show_preferred(preferred, config.optimize)}")


app.command(epilog="Example: hyperpower-runner stop experiments/quickstart --now")(stop)
app.command(epilog="Example: hyperpower-runner clean experiments/quickstart --yes")(clean)


@app.command()
def schema() -> None:
    """Print the JSON Schema of config.json, for editors that complete and check it."""
    from hyperpower_runner.config_file import json_schema

    print(json.dumps(json_schema(), indent=2))


def _drive(experiment: Experiment, config: ExperimentConfig, overtaken: Callable[[], bool]) -> tuple[Ending, Summary]:
    from rich.console import Console

    from hyperpower_runner.driver import Driver
    from hyperpower_runner.launchers.interrupts import Interrupts
    from hyperpower_runner.view import Lines, LiveView, show_platform

    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        if console.is_terminal:
            observer: Lines = stack.enter_context(LiveView(experiment, config, console))
        else:
            observer = Lines(config, console)
            if config.simulated:
                observer.note(show_platform(config))
        interrupts = stack.enter_context(Interrupts())
        launcher = launcher_of(config, observer.note, interrupts.wake, experiment.root)
        models = experiment.read_models(config)
        driver = Driver(experiment, config, models, launcher, observer, interrupts.acknowledge, overtaken)
        incumbent = driver.search.best()
        observer.best = incumbent.objective if incumbent else None
        return driver.run(), driver.summary()


def _finish(experiment: Experiment, ending: Ending, history: History) -> None:
    """Leave with the exit code of an ending, and say what to do next."""
    from hyperpower_runner.driver import Why
    from hyperpower_runner.trial import Status

    again = f"hyperpower-runner run {shlex.quote(str(experiment.root))}"
    if ending.why is Why.INFEASIBLE:
        raise HyperPowerError(ending.sentence)
    if ending.why in (Why.INTERRUPTED, Why.STOPPED):
        say(f"{ending.sentence}\nResume with: {again}")
    if ending.why is Why.INTERRUPTED:
        raise typer.Exit(EXIT_INTERRUPTED)
    if ending.why is Why.STOPPED:
        return
    if ending.why is Why.CANCELLED:
        raise HyperPowerError(f"{ending.sentence} Find out who cancels them, then resume: {again}")
    failures = history.failures
    if ending.why is Why.FAILURES or (failures and not history.counts.get(Status.COMPLETED)):
        last = max(failures, key=lambda trial: trial.result.ended_s if trial.result else 0.0)
        files, result = experiment.job_files(last.job_id), last.result
        assert result is not None
        say(f"The last lines of {files.output}:\n{files.log_tail()}")
        advice = ADVICE.get(result.status.value, "mend the script")
        raise HyperPowerError(
            f"{ending.sentence} The last failure is job {last.job_id}: {result.reason}; {advice}, then resume: {again}"
        )
    say(ending.sentence)


def _read_summary(experiment: Experiment, config: ExperimentConfig) -> Summary:
    from hyperpower_runner.summary import Summary, elapsed_s

    history = _judged(experiment, config)
    unfinished = {trial.job_id: experiment.status(trial) for trial in history.unfinished}
    rejected = sum(experiment.read_rejections().values())
    worked_s = elapsed_s(experiment.working_spans(history, time.time()))
    return Summary(config, history, unfinished, rejected, worked_s)


def _judged(experiment: Experiment, config: ExperimentConfig) -> History:
    """The jobs; those that ran before there were models are judged by what these predict of them."""
    from hyperpower_runner.history import History
    from hyperpower_runner.search import in_hindsight

    history = experiment.read_history()
    if not config.constraints or not history or not experiment.models_file.exists():
        return history
    try:
        return History(in_hindsight(history, experiment.read_models(config)))
    except HyperPowerError as error:  # what was measured stands all the same
        say(f"The hardware models cannot be asked: {error}")
        return history


def _text(summary: Summary) -> str:
    from hyperpower_runner.summary import unmeasured
    from hyperpower_runner.view import show_best, show_budget, show_platform, show_sampling

    counts = ", ".join(f"{count:,} {name}" for name, count in summary.counts.items() if count)
    lines = {"jobs": counts or "none yet", "best": show_best(summary), "budget": show_budget(summary)}
    if summary.config.constraints:
        found = summary.violations
        lines["violations"] = f"{found['predicted']} predicted, {found['measured']} measured"
        if found["measured"] and not found["predicted"]:
            lines["violations"] += ' (within their predictions; a "confidence" keeps a margin)'
        missing = unmeasured(summary.history, summary.config.constraints)
        if missing:
            lines["violations"] += f"; {missing} completed jobs were not measured in all that is constrained"
    if summary.config.platform or summary.config.simulated:
        lines["platform"] = show_platform(summary.config)
    sampling = show_sampling(summary)
    if sampling:
        lines["surrogate"] = sampling
    return "\n".join(f"{name:<12}{line}" for name, line in lines.items())


def main() -> None:
    """Entry point; turns the package's errors into one sentence and exit code 1."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may hold what a terminal's encoding has not
    try:
        app()
    except HyperPowerError as error:
        say(f"error: {error}")
        sys.exit(EXIT_ERROR)
    except OSError as error:  # a full disk, a directory that may not be written
        where = error.filename2 or error.filename or "the system"  # of a rename, the name that was wanted
        say(f"error: {where}: {error.strerror or error}; what is on disk is whole, so mend this and resume")
        sys.exit(EXIT_ERROR)


if __name__ == "__main__":
    main()

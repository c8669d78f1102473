"""The commands that concern the device: measure it (`profile`), and model what was measured (`fit`)."""

from __future__ import annotations

import contextlib
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from hyperpower_runner.control_commands import check_idle
from hyperpower_runner.terminal import EXIT_INTERRUPTED, Directory, Json, opened, say, show

if TYPE_CHECKING:  # imported where they are used, so that --help stays fast
    from hyperpower_runner.config import ExperimentConfig
    from hyperpower_runner.experiment import Experiment
    from hyperpower_runner.hardware.bench import Bench


def profile(
    directory: Directory,
    samples: Annotated[
        int | None, typer.Option(help="How many structures to measure (config: profiling.samples).")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Short windows, one repeat; recorded as such.")] = False,
    as_json: Json = False,
) -> None:
    """Measure power and memory of randomly drawn structures on the platform; resumes where it was stopped.

    Each is built and run by the objective's inference step in a fresh process; nothing is trained.
    """
    from hyperpower_runner.errors import MeterError, ProfileError
    from hyperpower_runner.hardware.from_profile import FOLDS
    from hyperpower_runner.hardware.measurement import quickened
    from hyperpower_runner.hardware.profiling import Profiler
    from hyperpower_runner.launchers.interrupts import ended_by_signals
    from hyperpower_runner.locks import device_lock
    from hyperpower_runner.profile_view import ProfileLines, profile_json, profile_text

    experiment, config = opened(directory)
    experiment.check_command(config)
    count = samples if samples is not None else config.samples
    if count < FOLDS:
        raise ProfileError(
            f"{count} samples are too few: fit needs {FOLDS} structures or more for its cross-validation; raise"
            " --samples or profiling.samples"
        )
    protocol = quickened(config.protocol) if quick else config.protocol
    options = ([f"--samples {samples}"] if samples is not None else []) + (["--quick"] if quick else [])
    again = " ".join(["hyperpower-runner profile", shlex.quote(str(directory)), *options])
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(experiment.lock("profiling", say))
            stack.enter_context(ended_by_signals())
            check_idle(experiment, directory)
            stack.enter_context(device_lock(config.platform, say))
            bench = stack.enter_context(contextlib.closing(_bench(experiment, config)))
            view = stack.enter_context(ProfileLines(config))
            found = Profiler(experiment, config, bench, protocol, count, view).run()
            stopped = experiment.stop_request() is not None
    except KeyboardInterrupt:
        say(f"Interrupted: what was measured is kept in {experiment.profile_file}.\nResume with: {again}")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except MeterError as error:
        kept = f" (what was measured is kept; resume with: {again})" if experiment.profile_file.exists() else ""
        raise MeterError(f"{error}{kept}") from None
    content = profile_json(found, protocol)
    show({**content, "file": str(experiment.profile_file)}, as_json, profile_text(content))
    if stopped:
        say(f"Stopped on request: what was measured is kept.\nResume with: {again}")
        return
    say(f"Next: hyperpower-runner fit {shlex.quote(str(directory))}")


def fit(
    directory: Directory,
    form: Annotated[
        list[str] | None,
        typer.Option(help="FORM for all metrics, or METRIC=FORM (default: the simplest of nearly the least error)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fit hardware models to the profile by 10-fold cross-validation, and write hardware/models.json.

    RMSPE is the root mean square percentage error on structures that were left out; beside it, what predicting one
    constant would give.
    """
    from hyperpower_runner.hardware.from_profile import fit_profile
    from hyperpower_runner.hardware.platforms import is_simulated
    from hyperpower_runner.job_files import write_json
    from hyperpower_runner.profile_view import models_text

    experiment, config = opened(directory)
    found, features = experiment.read_profile(config), experiment.read_features(config)
    models = fit_profile(found, config, features, _forms(form or []), str(experiment.profile_file), say)
    content = models.to_json()
    write_json(experiment.models_file, content)
    label = {"simulated": True} if is_simulated(models.platform) else {}
    printed = {metric: {**model, **label} for metric, model in content["models"].items()}
    show(printed, as_json, models_text(content))
    say(f"Next: hyperpower-runner run {shlex.quote(str(directory))}")


def _bench(experiment: Experiment, config: ExperimentConfig) -> Bench:
    from hyperpower_runner.hardware.bench import make_bench

    return make_bench(config.platform, experiment.root, experiment.read_features(config))


def _forms(words: list[str]) -> dict[str, str]:
    """What --form says, by metric; "" for all that are not named."""
    return {metric: form for metric, _, form in (word.rpartition("=") for word in words)}

"""What a wrapper script imports to talk to the worker: the job, its progress, its metrics.

    from hyperpower_runner import objective

    def evaluate(job):                       # train and test one configuration
        for epoch in range(job.epochs):
            ...
            job.report(epoch=epoch, error=error, loss=loss)
            if job.should_stop():            # diverging, or the driver asked
                break
        return {"error": error}

    def inference(job):                      # optional: what power and memory are measured of
        model, batch = ...
        return lambda: model(batch)

    def features(params):                    # optional: what they are predicted from, beside params
        return {"parameters": ..., "macs": ..., "activations": ...}

    if __name__ == "__main__":
        objective.run(evaluate, inference)

A script that uses `run` is called with the path of a job.json as its last argument, as the worker does, or by hand with
parameters (`train.py fc_units=300 learning_rate=0.01 --epochs 2`), and explains itself with `--help`.

    python -m hyperpower_runner.objective MAIN_FILE JOB_JSON

runs Spearmint's `main(job_id, params)` from MAIN_FILE. Standard library only; it starts and supervises no process.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpower_runner import stopping, trial
from hyperpower_runner.errors import HyperPowerError, ObjectiveError, shortened
from hyperpower_runner.job_files import JobFiles, append_json_line, read_json, strict

if TYPE_CHECKING:
    import argparse

Metrics = Mapping[str, Any] | float

MARKS = 1000  # of how many steps were made, over the seconds asked for
LONGEST_WARM_UP = 3  # times the seconds asked for, at most, for the warm-up steps of a slow network


class Job:
    """One configuration to evaluate, as a wrapper script sees it.

    job_id, params (natural units, by name), seed, threads (how many this job may use, or None), metric (the one to
    report), options (what the script's own parser parsed), task ("evaluate", or "profile" where only the inference step
    is run, for `seconds` and at least `warm_up_steps` times; the last `window_s` count), batch_size and dtype (of that
    step, from "platform" of config.json, or None where it says nothing), facts (see `describe`).
    """

    def __init__(self, content: trial.Job, files: JobFiles | None, options: argparse.Namespace) -> None:
        self.job_id = content.job_id
        self.params = content.params
        self.seed = content.seed
        self.threads = content.threads
        self.metric = content.metric
        self.task = content.task
        self.options = options
        self.batch_size: int | None = content.platform.get("batch-size")
        self.dtype: str | None = content.platform.get("dtype")
        self.seconds = content.seconds or 0.0
        self.warm_up_steps = content.warm_up_steps or 0
        self.window_s = content.window_s or self.seconds
        self.facts: dict[str, Any] = {}
        self._content = content
        self._files = files
        self._started_s = time.monotonic()
        self._told_of_loss = False
        rule = content.stopping_rule
        self._curve = stopping.WatchedCurve(stopping.StoppingRule.from_json(rule)) if rule is not None else None

    @property
    def epochs(self) -> int:
        """How many epochs to train, from `objective.epochs` of config.json."""
        if self._content.epochs is None:
            raise ObjectiveError('job.epochs is not set: add "epochs" to "objective" in config.json, or give --epochs')
        return self._content.epochs

    def report(
        self, *, epoch: float, error: float | None = None, loss: float | None = None, **more: float | None
    ) -> None:
        """Append one point of the learning curve to progress.jsonl; `epoch` counts as the script likes.

        A point that cannot be written, as on a full disk, is left out of the file: it is worth less than the training.
        """
        epoch = epoch if isinstance(epoch, int | float) else float(epoch)
        error, loss = _plain(error), _plain(loss)
        if self._curve is not None:
            self._curve.add(stopping.CurvePoint(epoch, error, loss))
        line = {"epoch": epoch, "error": error, "loss": loss, "time_s": self._age_s()}
        line.update({name: _plain(value) for name, value in more.items()})
        if self._files is None:
            print(json.dumps(strict(line)), file=sys.stderr, flush=True)
            return
        try:
            append_json_line(self._files.progress, {"id": self.job_id, **line})
        except OSError as reason:
            if not self._told_of_loss:
                print(f"warning: {self._files.progress}: points are left out ({reason})", file=sys.stderr, flush=True)
            self._told_of_loss = True

    def describe(self, **facts: Any) -> None:
        """Say what the inference step is really run with, such as `batch_size` and `dtype`: measurements carry it."""
        self.facts.update(facts)

    def _age_s(self) -> float:
        return round(time.monotonic() - self._started_s, 3)

    def mark_inference(self) -> None:
        """Say in progress.jsonl that from now on nothing but inference steps run."""
        if self._files is not None:
            append_json_line(self._files.progress, {"inference": True, "time_s": self._age_s()})

    def decision(self) -> stopping.Decision:
        """What the stopping rule (3.2) says of the curve reported so far."""
        return self._curve.decision if self._curve is not None else stopping.CONTINUE

    def should_stop(self) -> bool:
        """True when the training diverges, or when somebody asked this job to stop: return what there is soon."""
        if self.decision().stop or self._files is None:
            return self.decision().stop
        try:
            return self._files.stop.exists()
        except OSError:  # a shared file system is away
            return False

    def predict(self) -> dict[str, float]:
        """What the hardware models predict for these params, by metric; empty where there are no models."""
        return dict(self._content.predictions)


def run(
    evaluate: Callable[[Job], Metrics],
    inference: Callable[[Job], Callable[[], object]] | None = None,
    *,
    parser: argparse.ArgumentParser | None = None,
    argv: list[str] | None = None,
) -> None:
    """Evaluate the job named on the command line and print its metrics as the last line of stdout.

    evaluate: takes a `Job`; returns its metrics as a dict, or one number for the metric that the search minimises.
    inference: optional; takes a `Job` and returns a function that runs one inference step, and waits for it. It is what
        `hyperpower-runner profile` runs, back to back, while the device is measured.
    parser: the script's own options, which reach it as `job.options`; its description heads `--help`.
    """
    import argparse  # here, so that importing this module stays cheap

    parser = parser or argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    _add_arguments(parser)
    arguments = parser.parse_intermixed_args(argv)
    try:
        job = _job_from(arguments)
        if job.task == trial.PROFILE:
            _deliver(_run_inference(job, inference, job.seconds, job.window_s, job.warm_up_steps), job.metric)
        elif arguments.inference_s is not None:
            _deliver(_run_inference(job, inference, arguments.inference_s, math.inf), job.metric)
        else:
            _deliver(evaluate(job), job.metric)
    except HyperPowerError as error:
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        advice = 'pip install "hyperpower_runner[cnn]"' if error.name == "torch" else f"install it for {sys.executable}"
        sys.exit(f'error: there is no module "{error.name}" in this Python; {advice}')


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "job",
        nargs="*",
        metavar="JOB_JSON | NAME=VALUE",
        help="a job.json, as the worker passes it (default: $HYPERPOWER_JOB), or parameters to try by hand",
    )
    by_hand = parser.add_argument_group("by hand, with NAME=VALUE")
    by_hand.add_argument("--epochs", type=int, help="epochs to train")
    by_hand.add_argument("--seed", type=int, default=0, help="seed of the training (default: 0)")
    by_hand.add_argument(
        "--inference",
        type=float,
        dest="inference_s",
        metavar="SECONDS",
        help="run the inference step for so long instead of training, and print how many steps were made",
    )


def _job_from(arguments: argparse.Namespace) -> Job:
    words: list[str] = arguments.job or [os.environ.get("HYPERPOWER_JOB", "")]
    if words == [""]:
        raise ObjectiveError("no job: give the path of a job.json, or parameters as NAME=VALUE (see --help)")
    if all("=" in word for word in words) and not Path(words[0]).exists():
        params = dict(_parameter(word) for word in words)
        content = trial.Job(job_id=0, params=params, seed=arguments.seed, epochs=arguments.epochs)
        return Job(content, None, arguments)
    if len(words) > 1:
        raise ObjectiveError(f"one job.json was expected, found {len(words)} arguments: {' '.join(words)}")
    path = Path(words[0])
    return Job(read_job(path), JobFiles(path.resolve().parent), arguments)


def read_job(path: Path) -> trial.Job:
    """Read a job.json, as `trial.Job`."""
    try:
        content = read_json(path)
    except OSError as error:
        raise ObjectiveError(f"{path}: cannot be read ({error}); try again") from None
    if content is None:
        raise ObjectiveError(f"{path}: there is no such file; a job.json was expected")
    try:
        return trial.Job.from_json(content)
    except (KeyError, TypeError, ValueError) as error:
        raise ObjectiveError(f"{path}: is not a job file ({shortened(str(error))})") from None


def _parameter(word: str) -> tuple[str, Any]:
    name, _, text = word.partition("=")
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text


def _run_inference(
    job: Job,
    inference: Callable[[Job], Callable[[], object]] | None,
    seconds: float,
    window_s: float,
    warm_up_steps: int = 0,
) -> dict[str, Any]:
    """Run the inference step back to back for so many seconds; say how many steps the last `window_s` of them had.

    Before these, so many steps are made, which may take longer, but not several times the seconds. A first line in
    progress.jsonl tells whoever measures that what follows is inference only.
    """
    if inference is None:
        raise ObjectiveError("this script has no inference step: pass one to objective.run(evaluate, inference)")
    step = inference(job)
    step()  # the first one pays for what is set up lazily
    job.mark_inference()
    begun_s = now_s = time.perf_counter()
    window_from_s = begun_s + max(0.0, seconds - window_s)
    marks, steps = [(begun_s, 0)], 0  # now and then only: the times of all fast steps would be memory that is measured
    while now_s < window_from_s + min(window_s, seconds):
        step()
        steps, now_s = steps + 1, time.perf_counter()
        if steps <= warm_up_steps and now_s - begun_s < LONGEST_WARM_UP * seconds:
            window_from_s = max(window_from_s, now_s)
        if now_s - marks[-1][0] >= seconds / MARKS:
            marks.append((now_s, steps))
    before = [mark for mark in marks if mark[1] < steps] or marks
    from_s, first = next((mark for mark in before if mark[0] >= window_from_s), before[-1])
    return {"steps": steps - first, "duration_s": now_s - from_s, **_framework(job)}


def _framework(job: Job) -> dict[str, Any]:
    """What ran the inference step, and what its allocator says, where that is torch."""
    said: dict[str, Any] = {"framework": f"Python {sys.version.split()[0]}"}
    if job.batch_size is not None:
        said["batch_size"] = job.batch_size
    said.update(job.facts)
    torch = sys.modules.get("torch")
    if torch is not None:
        said["framework"] = f"torch {torch.__version__}"
        if torch.cuda.is_initialized():
            said["device"] = torch.cuda.get_device_name()
            said["torch_allocated_bytes"] = torch.cuda.max_memory_allocated()
            said["torch_reserved_bytes"] = torch.cuda.max_memory_reserved()
    return said


def _plain(value: Any) -> float | None:
    """A number of any library (numpy, torch) as a float."""
    return None if value is None else float(value)


def _deliver(metrics: Metrics, metric: str) -> None:
    """Print the metrics as one JSON object, the last line of stdout, which the worker reads."""
    named = metrics if isinstance(metrics, Mapping) else {metric: metrics}
    plain: dict[str, Any] = {}
    for name, value in named.items():
        try:
            plain[name] = None if value is None else value if isinstance(value, str | bool) else float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # the last is torch's, for more than one element
            plain[name] = repr(value)
    sys.stderr.flush()
    print("\n" + json.dumps(strict(plain)), flush=True)


def _enum_names(config_file: Path) -> set[str]:
    """The ENUM variables of an experiment, which job.json does not tell from the others."""
    variables = (read_json(config_file) or {}).get("variables", {})
    return {name for name, variable in variables.items() if variable.get("type") == "ENUM"}


def run_spearmint_main(main_file: str, job_file: str) -> None:
    """Call Spearmint's `main(job_id, params)`: params are 1-d arrays of length `size`, lists for ENUM.

    It returns a number (for the metric that the search minimises), NaN for a failed evaluation, or a dict of numbers
    by task name.
    """
    import importlib.util

    import numpy as np  # the interface that Spearmint's scripts expect; nothing else here needs it

    job = read_job(Path(job_file))
    if job.task == trial.PROFILE:
        raise ObjectiveError(
            f"{main_file}: Spearmint's main(job_id, params) has no inference step to profile; write the script with"
            " objective.run(evaluate, inference), and name it in objective.command"
        )
    specification = importlib.util.spec_from_file_location("spearmint_main", main_file)
    if specification is None or specification.loader is None:
        raise ObjectiveError(f"{main_file}: cannot be imported as Python; main-file names a .py file")
    if not Path(main_file).is_file():
        raise ObjectiveError(f"{main_file}: there is no such file; main-file names a .py file")
    sys.path.insert(0, str(Path(main_file).resolve().parent))
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses and pickle look there
    specification.loader.exec_module(module)
    if not callable(getattr(module, "main", None)):
        raise ObjectiveError(f"{main_file}: has no function main(job_id, params)")
    enums = _enum_names(Path(job_file).resolve().parent.parent.parent / "config.json")
    params = {}
    for name, value in job.params.items():
        items = value if isinstance(value, list) else [value]
        params[name] = items if name in enums else np.array(items)
    value = module.main(job.job_id, params)
    numbers = {}
    for name, item in (value if isinstance(value, Mapping) else {job.metric: value}).items():
        try:
            numbers[name] = math.nan if item is None else float(np.squeeze(item))
        except (TypeError, ValueError):
            raise ObjectiveError(f"{main_file}: main returned {name} as {item!r}, but a number was expected") from None
    _deliver(numbers, job.metric)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m hyperpower_runner.objective MAIN_FILE JOB_JSON")
    try:
        run_spearmint_main(sys.argv[1], sys.argv[2])
    except HyperPowerError as error:
        sys.exit(f"error: {error}")

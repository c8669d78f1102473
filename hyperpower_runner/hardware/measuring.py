"""Measures the network of one completed job, briefly; the worker starts it after the training.

    python -m hyperpower_runner.hardware.measuring EXPERIMENT JOB

prints one JSON object: "metrics" where the device could be measured, "flags", "platform", and "mismatch" where the
models belong to another one; else the "reason" why not. Only one measurement at a time is made in an experiment, since
two would disturb each other.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from hyperpower_runner import processes
from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.errors import HyperPowerError
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.hardware.bench import make_bench
from hyperpower_runner.hardware.measurement import Window, quickened, summarise
from hyperpower_runner.hardware.platforms import MEMORY, SHARED, disagreement
from hyperpower_runner.hardware.profiling import measure_network, profile_job
from hyperpower_runner.job_files import strict
from hyperpower_runner.locks import device_lock

LOOKS = 3  # windows at most, where one does not tell on which side of a budget a network is
NEAR = 0.02  # of the budget
AFTER_JOB = 6  # second word of seeds, beside those of profiling


def measure(experiment: Experiment, job_id: int) -> dict[str, Any]:
    """What one short window on the platform of config.json says of a job's network, or some where it decides."""
    config = experiment.read_config()
    trial = experiment.read_trial(job_id)
    if trial is None:
        return {"reason": f"{experiment.job_files(job_id).job}: there is no such file"}
    # The machine is asked and not the directory, where each job would be looked at; it also knows of other searches.
    if config.platform.get("meter") in SHARED and processes.workers_beside():
        return {"reason": "other jobs run on the same device; with one at a time on this machine it is measured"}
    folder = experiment.state / "measuring" / f"{job_id:06d}"
    protocol = quickened(config.protocol)
    job, words = profile_job(config, job_id, trial.params), [config.seed, AFTER_JOB, job_id]
    with device_lock(config.platform):
        bench = make_bench(config.platform, experiment.root, experiment.read_features(config))
        try:
            windows: list[Window] = []
            while len(windows) < LOOKS and (not windows or _is_near(windows, config)):
                window, platform = measure_network(bench, job, protocol, folder, [*words, len(windows)])
                windows.append(window)
        finally:
            bench.close()
    shutil.rmtree(folder, ignore_errors=True)
    estimate = summarise(windows, protocol)
    metrics = {name: value for name, value in estimate.metrics.items() if value is not None}
    half_widths = {name: value for name, value in estimate.half_widths.items() if value is not None}
    found: dict[str, Any] = {"metrics": metrics, "half_width": half_widths, "windows": len(windows)}
    found.update(flags=list(estimate.flags), platform=platform)
    if "all-discarded" in estimate.flags:  # the peak of memory is one, whatever the power did
        found["metrics"] = {name: value for name, value in metrics.items() if name == MEMORY}
        found["discarded"] = metrics
        found["reason"] = f"every window of its power was to be discarded ({', '.join(windows[-1].flags)})"
    try:
        wrong = disagreement(platform, experiment.read_models(config).platform)
    except (HyperPowerError, OSError) as error:  # what was measured stands all the same
        return {**found, "mismatch": f"the hardware models cannot be read: {error}"}
    return {**found, "mismatch": f"the hardware models belong to another platform: {wrong}"} if wrong else found


def _is_near(windows: list[Window], config: ExperimentConfig) -> bool:
    """Whether what was measured lies so near to a budget that one short window cannot tell the side."""
    last = windows[-1]
    pairs = ((last.metrics.get(metric), bound) for metric, bound in config.constraints.items())
    return last.usable and any(value is not None and abs(value - bound) <= NEAR * abs(bound) for value, bound in pairs)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # so that the inference process is ended on the way out


def main(root: str, job_id: str) -> None:
    """Measure, and print what came of it; a user's mistake is a reason as well, and so is what the system lacks."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        content = measure(Experiment(Path(root)), int(job_id))
    except (HyperPowerError, OSError) as error:
        content = {"reason": str(error)}
    except KeyboardInterrupt:
        content = {"reason": "it was asked to stop"}
    print(json.dumps(strict(content)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

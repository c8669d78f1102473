"""Measures the network of one completed job, briefly; the worker starts it after the training.

    python -m hyperpower_runner.hardware.measuring EXPERIMENT JOB

prints one JSON object: "metrics" where the device could be measured, "flags", "platform", and else the "reason" why
not. Only one measurement at a time is made in an experiment, since two would disturb each other.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from hyperpower_runner.errors import HyperPowerError
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.hardware.bench import make_bench
from hyperpower_runner.hardware.measurement import assess, quickened
from hyperpower_runner.hardware.profiling import check_task, profile_job, provenance
from hyperpower_runner.job_files import strict


def measure(experiment: Experiment, job_id: int) -> dict[str, Any]:
    """What one short window on the platform of config.json says of a job's network."""
    config = experiment.read_config()
    trial = experiment.read_trial(job_id)
    if trial is None:
        return {"reason": f"{experiment.job_files(job_id).job}: there is no such file"}
    protocol = quickened(config.protocol)
    folder = experiment.state / "measuring" / f"{job_id:06d}"
    with experiment.device_lock():
        bench = make_bench(config.platform, experiment.root, experiment.read_features(config))
        try:
            warm_up_s = protocol.warm_up_s
            for _ in range(protocol.most_redos + 1):
                job = profile_job(config, job_id, trial.params, trial.job.seed, protocol, warm_up_s)
                trace = bench.run(replace(job, threads=trial.job.threads), folder, warm_up_s, protocol)
                check_task(job, trace)
                window = assess(trace, protocol, bench.metrics)
                if window.usable:
                    break
                warm_up_s = min(2 * warm_up_s, protocol.longest_warm_up_s)
        finally:
            bench.close()
    shutil.rmtree(folder, ignore_errors=True)
    metrics = {name: value for name, value in window.metrics.items() if value is not None}
    return {
        "metrics": metrics,
        "flags": list(window.flags),
        "platform": provenance(config.platform, bench.platform, trace),
    }


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # so that the inference process is ended on the way out


def main(root: str, job_id: str) -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        content = measure(Experiment(Path(root)), int(job_id))
    except HyperPowerError as error:
        content = {"reason": str(error)}
    except KeyboardInterrupt:
        content = {"reason": "it was asked to stop"}
    print(json.dumps(strict(content)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

"""What the driver costs: idle slots, start-up, imports, memory. Prints a table.

    python benchmarks/driver.py [--jobs 40] [--rounds 5] [--finished 1000]

A slot is idle between the end of one job and the start of the next. The period of one no-op job in a search with one
slot and many finished jobs is compared with that of a bare loop, in turn, so that a noisy machine harms both alike. The
bare loop starts the same two processes, a Python that imports what the worker imports and the script, and waits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hyperpower_runner.experiment import Experiment
from hyperpower_runner.trial import Job, Result, Status

SCRIPT = "#!/bin/sh\necho '{\"error\": 0.5}'\n"
CONFIG = {
    "objective": {"command": ["./noop.sh"]},
    "variables": {
        **{f"conv{block}_{name}": {"type": "INT", "min": low, "max": high}
           for block in (1, 2, 3) for name, low, high in (("features", 20, 80), ("kernel", 2, 5), ("pool", 1, 3))},
        "fc_units": {"type": "INT", "min": 200, "max": 700},
        "learning_rate": {"type": "FLOAT", "min": 0.001, "max": 0.1, "scale": "log"},
        "momentum": {"type": "FLOAT", "min": 0.8, "max": 0.95},
        "weight_decay": {"type": "FLOAT", "min": 0.0001, "max": 0.01, "scale": "log"},
    },
    "method": "rand",
    "max-concurrent": 1,
}  # fmt: skip
BARE_WORKER = """
import os, subprocess, sys, hyperpower_runner.worker
subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
os._exit(0)
"""


def make_experiment(root: Path, finished: int) -> Experiment:
    """An experiment with many finished jobs of the CIFAR-10 space."""
    (root / "config.json").write_text(json.dumps(CONFIG))
    (root / "noop.sh").write_text(SCRIPT)
    (root / "noop.sh").chmod(0o755)
    experiment = Experiment(root)
    space = experiment.read_config().space
    import numpy as np

    values = space.sample(np.random.default_rng(0), finished)
    for number in range(1, finished + 1):
        experiment.write_job(Job(job_id=number, params=space.to_params(values[number - 1]), seed=number))
        experiment.write_result(number, Result(Status.COMPLETED, {"error": 0.5}, started_s=number, ended_s=number + 1))
    return experiment


def search_period_s(experiment: Experiment, jobs: int) -> tuple[float, float]:
    """Seconds from one job's start to the next in a search, and the driver's peak memory in MB."""
    before = len(experiment.read_history())
    command = [
        sys.executable,
        "-m",
        "hyperpower_runner",
        "run",
        str(experiment.root),
        "--evaluations",
        str(before + jobs),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0  # it was waited for above
    history = experiment.read_history().trials[before:]
    started = [trial.result.started_s for trial in history if trial.result is not None]
    if len(started) != jobs:
        raise SystemExit(f"{len(started)} of {jobs} jobs ended; see {experiment.jobs}")
    return (started[-1] - started[0]) / (jobs - 1), usage.ru_maxrss / 1024


def bare_period_s(root: Path, jobs: int) -> float:
    """Seconds for each turn of a loop that only starts the same processes and waits for them."""
    begun = time.perf_counter()
    for _ in range(jobs):
        subprocess.run([sys.executable, "-c", BARE_WORKER, str(root / "noop.sh")], check=True)
    return (time.perf_counter() - begun) / jobs


def median_s(command: list[str], rounds: int) -> float:
    def once() -> float:
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begun

    once()  # fills the file cache
    return statistics.median(once() for _ in range(rounds))


def import_ms(rounds: int) -> float:
    """Milliseconds that a wrapper script pays for `import hyperpower_runner.objective`."""
    code = "import time; t = time.perf_counter(); import hyperpower_runner.objective; print(time.perf_counter() - t)"
    times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(rounds + 1)]
    return 1000 * statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=40, help="no-op jobs in each round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of search and bare loop in turn")
    parser.add_argument("--finished", type=int, default=1000, help="finished jobs in the directory before")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        experiment = make_experiment(Path(folder), arguments.finished)
        pairs, memory_mb = [], 0.0
        for _ in range(arguments.rounds):
            searched_s, memory_mb = search_period_s(experiment, arguments.jobs)
            pairs.append((searched_s, bare_period_s(experiment.root, arguments.jobs)))
    idle_ms = [1000 * (searched - bare) for searched, bare in pairs]
    table = Table("what", "measured", "aim", title=f"driver, {arguments.finished:,} finished jobs, one slot")
    table.add_row("period of a no-op job, search", f"{1000 * statistics.median(p[0] for p in pairs):.0f} ms", "")
    table.add_row("period of a no-op job, bare loop", f"{1000 * statistics.median(p[1] for p in pairs):.0f} ms", "")
    spread = f"{statistics.median(idle_ms):.1f} ms ({min(idle_ms):.1f} to {max(idle_ms):.1f})"
    table.add_row("idle over the cost of the processes", spread, "20 ms")
    table.add_row("peak memory of the driver", f"{memory_mb:.0f} MB", "150 MB")
    help_s = median_s([sys.executable, "-m", "hyperpower_runner", "--help"], 2 * arguments.rounds)
    table.add_row("hyperpower-runner --help", f"{help_s:.2f} s", "0.5 s")
    table.add_row("import hyperpower_runner.objective", f"{import_ms(2 * arguments.rounds):.0f} ms", "50 ms")
    Console().print(table)


if __name__ == "__main__":
    main()

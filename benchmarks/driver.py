"""What the driver costs: idle slots, jobs per second beside a bare loop and Optuna, resume, one step, start-up, memory.

    python benchmarks/driver.py                                # all of it; the last two make 100,000 jobs: minutes
    python benchmarks/driver.py --parts throughput --optuna VENV/bin/python
    python benchmarks/driver.py --parts resume step --sizes 10000 100000

What is compared runs in turn, so that a noisy machine harms all alike, and ratios are of one round each. The bare loop
is a small Python process that has the worker's modules, and forks a child for each job which starts the script and
waits for it. So it starts and waits for the processes that a search does, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hyperpower_runner.config import parse
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.history import History
from hyperpower_runner.search import Search
from hyperpower_runner.trial import Job, Params, Result, Status, Trial

PARTS = ("idle", "throughput", "resume", "step")
SCRIPT = "#!/bin/sh\necho '{\"error\": 0.5}'\n"
CONFIG: dict[str, Any] = {
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
}  # fmt: skip

# Both are given the script, how many jobs, how many at a time, and what they need besides; both print when each began.
BARE = """
import json, os, subprocess, sys, time
import hyperpower_runner.worker
script, jobs, slots = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
started = []
for number in range(jobs):
    if number >= slots:
        os.wait()
    started.append(time.time())
    if os.fork() == 0:
        subprocess.run([script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        os._exit(0)
for _ in range(min(slots, jobs)):
    os.wait()
print(json.dumps(started))
"""
# A small process that starts another, since one that is forked by a large process counts as large.
WATCHED = """
import resource, subprocess, sys, time
begun_s = time.time()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(begun_s, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
OPTUNA = """
import json, subprocess, sys, optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
script, jobs, slots, journal = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
variables = json.loads(sys.argv[5])

def objective(trial):
    for name, variable in variables.items():
        if variable["type"] == "INT":
            trial.suggest_int(name, variable["min"], variable["max"])
        else:
            trial.suggest_float(name, variable["min"], variable["max"], log=variable.get("scale") == "log")
    answer = subprocess.run([script], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])["error"]

optuna.logging.set_verbosity(optuna.logging.WARNING)
storage = JournalStorage(JournalFileBackend(journal))
study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
study.optimize(objective, n_trials=jobs, n_jobs=slots)
print(json.dumps([trial.datetime_start.timestamp() for trial in study.trials]))
"""


# --- directories


def make_experiment(root: Path, finished: int = 0) -> Experiment:
    """An experiment with so many finished jobs: a real one, and others with its files, written as fast as it goes."""
    root.mkdir(parents=True)
    (root / "config.json").write_text(json.dumps(CONFIG))
    (root / "noop.sh").write_text(SCRIPT)
    (root / "noop.sh").chmod(0o755)
    experiment = Experiment(root)
    if finished:
        run_search(experiment, 1, 1)
        real = {path.name: path.read_bytes() for path in experiment.job_files(1).folder.iterdir()}
        for number, params in enumerate(points(finished - 1), start=2):
            write_files(experiment.job_files(number).folder, real, number, params)
    return experiment


def points(count: int) -> Iterator[Params]:
    """Params of the space of the paper's CIFAR-10 network."""
    space = parse(CONFIG).space
    return map(space.to_params, space.sample(np.random.default_rng(0), count))


def write_files(folder: Path, real: dict[str, bytes], number: int, params: Params) -> None:
    """The files of a finished job, after those of a real one."""
    job, result = (json.loads(real[name]) for name in ("job.json", "result.json"))
    began_s = job["created_s"] + number / 8
    job |= {"id": number, "params": params, "seed": number, "created_s": began_s}
    result |= {"id": number, "started_s": began_s, "ended_s": began_s + 0.01}
    result["metrics"]["error"] = 0.5 + 1 / number
    folder.mkdir()
    for name, content in (real | {"job.json": as_json(job), "result.json": as_json(result)}).items():
        (folder / name).write_bytes(content)


def as_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


# --- running


def run_search(experiment: Experiment, until: int, slots: int) -> tuple[float, float]:
    """Run until so many jobs were started; when that began, in seconds since the epoch, and the driver's peak MB."""
    words = ["run", str(experiment.root), "--evaluations", str(until), "--max-concurrent", str(slots)]
    command = [sys.executable, "-c", WATCHED, sys.executable, "-m", "hyperpower_runner", *words]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(answer.stderr)
    begun_s, memory_kb = map(float, answer.stdout.split())
    return begun_s, memory_kb / 1024


def starts_of(experiment: Experiment, first: int, last: int) -> list[float]:
    """When each of some jobs was started."""
    results = [experiment.read_result(job_id) for job_id in range(first, last + 1)]
    return [result.started_s for result in results if result is not None]


def rate(started: list[float], slots: int) -> float:
    """Jobs a second while all slots were in use: each start after the first ones follows an end."""
    started = sorted(started)
    return (len(started) - slots) / (started[-1] - started[slots - 1])


def search_rate(root: Path, jobs: int, slots: int, finished: int = 0) -> tuple[float, float]:
    """Jobs a second of a search, and its driver's peak memory in MB."""
    experiment = make_experiment(root, finished)
    _, memory_mb = run_search(experiment, finished + jobs, slots)
    started = starts_of(experiment, finished + 1, finished + jobs)
    if len(started) != jobs:
        raise SystemExit(f"{len(started)} of {jobs} jobs ended; see {experiment.jobs}")
    return rate(started, slots), memory_mb


def printed_rate(python: str, program: str, script: Path, jobs: int, slots: int, *more: str) -> float:
    """Jobs a second of a program that prints when it started each."""
    command = [python, "-c", program, str(script), str(jobs), str(slots), *more]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return rate(json.loads(answer.stdout), slots)


def median_s(command: list[str], rounds: int) -> float:
    def once() -> float:
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begun

    once()  # fills the file cache
    return statistics.median(once() for _ in range(rounds))


def spread(values: list[float], form: str) -> str:
    low, middle, high = (format(value, form) for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


# --- parts


def idle(arguments: argparse.Namespace, folder: Path) -> Table:
    """How long one slot is idle between two jobs, over the cost of the processes; start-up, imports, memory."""
    pairs, memory_mb = [], 0.0
    for number in range(arguments.rounds):
        root = folder / f"idle-{number}"
        found, memory_mb = search_rate(root, arguments.jobs, 1, arguments.finished)
        pairs.append((1 / found, 1 / printed_rate(sys.executable, BARE, root / "noop.sh", arguments.jobs, 1)))
    table = Table("what", "measured", "aim", title=f"driver, {arguments.finished:,} finished jobs, one slot")
    for name, column in (("search", 0), ("bare loop", 1)):
        table.add_row(f"period of a no-op job, {name}", f"{spread([1000 * pair[column] for pair in pairs], '.1f')} ms")
    over = spread([1000 * (searched - bare) for searched, bare in pairs], ".1f")
    table.add_row("idle over the cost of the processes", f"{over} ms", "20 ms")
    table.add_row("peak memory of the driver", f"{memory_mb:.0f} MB", "150 MB")
    help_s = median_s([sys.executable, "-m", "hyperpower_runner", "--help"], 2 * arguments.rounds)
    table.add_row("hyperpower-runner --help", f"{help_s:.2f} s", "0.5 s")
    code = "import time; t = time.perf_counter(); import hyperpower_runner.objective; print(time.perf_counter() - t)"
    imports = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(2 * arguments.rounds + 1)]
    table.add_row("import hyperpower_runner.objective", f"{1000 * statistics.median(imports[1:]):.0f} ms", "50 ms")
    return table


def throughput(arguments: argparse.Namespace, folder: Path) -> Table:
    """No-op jobs a second, beside the bare loop and Optuna."""
    has_optuna = subprocess.run([arguments.optuna, "-c", "import optuna"], capture_output=True).returncode == 0
    if not has_optuna:
        print(f"{arguments.optuna} has no Optuna: name one that has with --optuna VENV/bin/python", file=sys.stderr)
    jobs, script = arguments.jobs, make_experiment(folder / "throughput").root / "noop.sh"
    table = Table("jobs a second", "search", "bare loop", "Optuna", "bare / search", "search / Optuna")
    table.title = f"rand, {jobs} no-op jobs a round, {arguments.rounds} rounds"
    for slots in arguments.slots:
        rates: dict[str, list[float]] = {"search": [], "bare": [], "optuna": []}
        for number in range(arguments.rounds):
            journal = folder / f"journal-{slots}-{number}"
            more = (str(journal), json.dumps(CONFIG["variables"]))
            turns: dict[str, Callable[[], float]] = {
                "search": lambda: search_rate(folder / f"search-{slots}-{number}", jobs, slots)[0],  # noqa: B023
                "bare": lambda: printed_rate(sys.executable, BARE, script, jobs, slots),  # noqa: B023 called here
                "optuna": lambda: printed_rate(arguments.optuna, OPTUNA, script, jobs, slots, *more),  # noqa: B023
            }
            names = [name for name in turns if has_optuna or name != "optuna"]
            for name in names[number % len(names) :] + names[: number % len(names)]:
                rates[name].append(turns[name]())
        shown = [spread(values, ".1f") if values else "not here" for values in rates.values()]
        bare = spread([one / other for one, other in zip(rates["bare"], rates["search"], strict=True)], ".2f")
        both = zip(rates["search"], rates["optuna"], strict=False)
        peer = spread([one / other for one, other in both], ".2f") if has_optuna else "not here"
        table.add_row(f"max-concurrent {slots}", *shown, f"{bare}; aim 1.5", f"{peer}; aim 1")
    return table


def resume(arguments: argparse.Namespace, folder: Path) -> Table:
    """From the start of `run` to the start of its first job, and `status`, with and without the cache."""
    table = Table("finished jobs", "cache", "run until its first job", "status", "driver's peak memory", "aim")
    table.title = f"resume, {arguments.rounds} rounds"
    aims = {10_000: "1 s, 150 MB", 100_000: "10 s, 500 MB"}
    for size in arguments.sizes:
        experiment = make_experiment(folder / f"resume-{size}", size)
        found: dict[str, list[list[float]]] = {"none": [], "there": []}
        for number in range(2 * arguments.rounds):
            cache = ("none", "there")[number % 2]
            if cache == "none":
                shutil.rmtree(experiment.state, ignore_errors=True)
            status_s = median_s([sys.executable, "-m", "hyperpower_runner", "status", str(experiment.root)], 1)
            begun_s, memory_mb = run_search(experiment, size + number + 1, 1)
            (started_s,) = starts_of(experiment, size + number + 1, size + number + 1)
            found[cache].append([started_s - begun_s, status_s, memory_mb])
        for cache, rows in found.items():
            times = [f"{spread([row[column] for row in rows], '.2f')} s" for column in (0, 1)]
            shown = [*times, f"{max(row[2] for row in rows):.0f} MB"]
            table.add_row(f"{size:,}", cache, *shown, aims.get(size, ""))
        shutil.rmtree(experiment.root)
    return table


def step(arguments: argparse.Namespace, folder: Path) -> Table:
    """The time in which a search proposes a job, takes it in, and ends it."""
    table = Table("finished jobs", *(f"{method}, ms" for method in ("rand", "rand-walk")), title="one step of a search")
    for size in sorted({100, *arguments.sizes}):
        ended = Result(Status.COMPLETED, {"error": 0.5})
        jobs = (Job(number, params, number) for number, params in enumerate(points(size), start=1))
        history, shown = History(Trial(job, ended) for job in jobs), []
        for method in ("rand", "rand-walk"):
            search, times_ms = Search({**CONFIG, "method": method}, history=history), []
            for _ in range(200):
                begun = time.perf_counter()
                job, _ = search.propose()
                search.add(job)
                search.end(job.job_id, ended)
                times_ms.append(1000 * (time.perf_counter() - begun))
            shown.append(f"{statistics.median(times_ms):.2f} (the first {times_ms[0]:.0f})")
        table.add_row(f"{size:,}", *shown)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="which tables")
    parser.add_argument("--jobs", type=int, default=100, help="no-op jobs in each round of idle and throughput")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in turn")
    parser.add_argument("--finished", type=int, default=1000, help="idle: finished jobs in the directory before")
    parser.add_argument("--slots", type=int, nargs="+", default=[2, 8], help="throughput: max-concurrent")
    parser.add_argument("--optuna", default=sys.executable, help="throughput: a python that has Optuna 5")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000], help="resume, step: finished jobs")
    parser.add_argument("--folder", type=Path, help="where to make directories; default: a temporary one")
    arguments = parser.parse_args()
    parts = {"idle": idle, "throughput": throughput, "resume": resume, "step": step}
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # where it is set, each start of a driver compiles the package anew
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for name in arguments.parts:
            Console().print(parts[name](arguments, Path(folder)))


if __name__ == "__main__":
    main()

"""How long one proposal takes, and how much memory, beside peers: the 13 variables of CIFAR-10 with a power budget.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 python -m benchmarks.suggest --store suggest.jsonl
    python -m benchmarks.suggest --tables --store benchmarks/results/suggest.jsonl     # runs nothing

Each library runs in a process of its own, all with the same feasible random observations, in turn, so that a noisy
machine harms all alike: the ratio is the median over rounds of ours to the peer's in the same round. GPSampler begins
its fit where the last one ended, so the first proposal of a process takes longer; the figures to compare are of the
proposals after it, each with one more observation told, and the first is shown too. GPSampler may propose what violates
the budget, which is timed as one proposal all the same; "relaxed" gives it floats for integers. Peak memory is of the
whole process; "added" is what it grew by after the imports.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.peers import INITIAL, BoTorch, distributions
from benchmarks.problem import Outcome
from benchmarks.problems import PROBLEMS, cifar10_error
from hyperpower_runner.trial import Params

STORE = Path(__file__).parent / "results" / "suggest.jsonl"
SIZES = (20, 50, 100, 200, 500, 1000)
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
OURS = "hw-ieci"


@dataclass(frozen=True)
class Timing:
    """first_s: of the first proposal; steady_s: median of the later ones; peak_mb, added_mb: of memory."""

    library: str
    observations: int
    round: int
    first_s: float
    steady_s: float
    peak_mb: float
    added_mb: float


class Ours:
    def __init__(self, seed: int) -> None:
        from hyperpower_runner.search import Search

        problem = PROBLEMS["cifar10"]
        self.search = Search({**problem.config, "method": OURS, "seed": seed}, models=problem.models)

    def observe(self, params: Params, error: float) -> None:
        self.search.observe(params, error=error)

    def ask(self) -> Params:
        self.job = self.search.ask()
        return self.job.params

    def tell(self, error: float) -> None:
        self.search.tell(self.job.job_id, error=error)


class GPSampler:
    """As it comes: most of its time goes into the search of its acquisition over integers."""

    def __init__(self, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = optuna.create_study(sampler=optuna.samplers.GPSampler(seed=seed, n_startup_trials=INITIAL))
        self.distributions = distributions(PROBLEMS["cifar10"])

    def observe(self, params: Params, error: float) -> None:
        from optuna.trial import create_trial

        self.study.add_trial(create_trial(params=params, distributions=self.distributions, value=error))

    def ask(self) -> Params:
        self.trial = self.study.ask(fixed_distributions=self.distributions)
        params: Params = dict(self.trial.params)
        return params

    def tell(self, error: float) -> None:
        self.study.tell(self.trial, error)


class RelaxedGPSampler(GPSampler):
    """With every integer as a float, which a user would round: what the fit and a search by gradients alone take."""

    def __init__(self, seed: int) -> None:
        from optuna.distributions import FloatDistribution

        super().__init__(seed)
        self.distributions = {
            name: FloatDistribution(each.low, each.high, log=each.log) for name, each in self.distributions.items()
        }


class FeasiblePool:
    """BoTorch over feasible candidates, as in `peers`."""

    def __init__(self, seed: int) -> None:
        self.peer = BoTorch(PROBLEMS["cifar10"], seed)

    def observe(self, params: Params, error: float) -> None:
        self.peer.tell(params, Outcome({"error": error}, error))

    def ask(self) -> Params:
        self.params = self.peer.ask()
        return self.params

    def tell(self, error: float) -> None:
        self.observe(self.params, error)


LIBRARIES: dict[str, Callable[[int], Ours | GPSampler | FeasiblePool]] = {
    OURS: Ours,
    "optuna-gp": GPSampler,
    "optuna-gp, relaxed": RelaxedGPSampler,
    "botorch": FeasiblePool,
}


def smooth_error(params: Params, rng: np.random.Generator) -> float:
    """The stand-in without its divergence, and noise: how long a fit takes should not hang on outliers."""
    return float(cifar10_error(params, shift=-np.inf)) + 0.005 * float(rng.standard_normal())


def measure(library: str, observations: int, seed: int, asks: int) -> Timing:
    """Time the proposals of one library; to be called in a process of its own."""
    problem, rng = PROBLEMS["cifar10"], np.random.default_rng(seed)
    search = LIBRARIES[library](seed)
    points = [problem.space.to_params(point) for point in problem.feasible_points(rng, observations)]
    for params in points[:INITIAL]:
        search.observe(params, smooth_error(params, rng))
    search.tell(smooth_error(search.ask(), rng))  # imports what it imports late
    before_mb = peak_mb()
    for params in points[INITIAL:]:
        search.observe(params, smooth_error(params, rng))
    times = []
    for _ in range(asks + 1):
        begun = time.perf_counter()
        params = search.ask()
        times.append(time.perf_counter() - begun)
        search.tell(smooth_error(params, rng))
    peak = peak_mb()
    return Timing(library, observations, seed, times[0], statistics.median(times[1:]), peak, peak - before_mb)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_apart(library: str, observations: int, seed: int, asks: int) -> Timing:
    """The same in a new process with one thread."""
    words = ["--one", library, str(observations), str(seed), "--asks", str(asks)]
    output = subprocess.check_output(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.suggest", *words],
        env={**os.environ, **dict.fromkeys(THREADS, "1")},
        text=True,
    )
    return Timing(**json.loads(output))


def print_tables(timings: list[Timing], libraries: list[str]) -> None:
    found = {(timing.library, timing.observations, timing.round): timing for timing in timings}
    sizes, rounds = sorted({size for _, size, _ in found}), sorted({turn for _, _, turn in found})

    def cell(library: str, size: int, value: Callable[[Timing], float]) -> str:
        return _median([value(found[library, size, turn]) for turn in rounds if (library, size, turn) in found])

    def ratio(peer: str, size: int) -> str:
        pairs = [(found.get((OURS, size, turn)), found.get((peer, size, turn))) for turn in rounds]
        return _median([ours.steady_s / theirs.steady_s for ours, theirs in pairs if ours and theirs])

    peers = [library for library in libraries if library != OURS]
    _print_row("n", [f"{library}, s" for library in libraries] + [f"{OURS} / {peer}" for peer in peers])
    print("|" + "---:|" * (1 + len(libraries) + len(peers)))
    for size in sizes:
        steady = [cell(library, size, lambda timing: timing.steady_s) for library in libraries]
        _print_row(f"{size:,}", steady + [ratio(peer, size) for peer in peers])
    print("\nThe first proposal of a process, and peak memory (of it added after the imports):\n")
    _print_row("n", [f"{library}, {unit}" for unit in ("s", "MB") for library in libraries])
    print("|" + "---:|" * (1 + 2 * len(libraries)))
    for size in sizes:
        first = [cell(library, size, lambda timing: timing.first_s) for library in libraries]
        peak = [cell(library, size, lambda timing: timing.peak_mb) for library in libraries]
        added = [cell(library, size, lambda timing: timing.added_mb) for library in libraries]
        _print_row(f"{size:,}", first + [f"{one} ({other})" for one, other in zip(peak, added, strict=True)])


def _print_row(head: str, cells: list[str]) -> None:
    print(f"| {head} | {' | '.join(cells)} |")


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):.3g}" if values else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of observations")
    parser.add_argument("--rounds", type=int, default=5, help="with other observations each")
    parser.add_argument("--asks", type=int, default=5, help="proposals after the first, in each round")
    parser.add_argument("--store", type=Path, default=STORE, help="a line of JSON for each round; those are not rerun")
    parser.add_argument("--tables", action="store_true", help="only print the table of the store")
    parser.add_argument("--one", nargs=3, metavar=("LIBRARY", "SIZE", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        library, size, seed = arguments.one
        print(json.dumps(asdict(measure(library, int(size), int(seed), arguments.asks))))
        return
    if not arguments.tables:
        done = {(timing.library, timing.observations, timing.round) for timing in read(arguments.store)}
        for size in arguments.sizes:
            for turn in range(arguments.rounds):
                for library in arguments.libraries:
                    if (library, size, turn) not in done:
                        timing = measure_apart(library, size, turn, arguments.asks)
                        with arguments.store.open("a") as store:
                            store.write(json.dumps(asdict(timing)) + "\n")
    print_tables(read(arguments.store), arguments.libraries)


def read(store: Path) -> list[Timing]:
    return [Timing(**json.loads(line)) for line in store.read_text().splitlines()] if store.exists() else []


if __name__ == "__main__":
    main()

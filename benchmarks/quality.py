"""How good the best feasible value is after 10, 20 and 40 evaluations, beside peers. Prints tables.

    python -m benchmarks.quality --seeds 10 --evaluations 40 --store benchmarks/results/quality.jsonl
    python -m benchmarks.quality --tables --store benchmarks/results/quality.jsonl     # runs nothing

Finished runs, one of (problem, method, seed) in each line of the store, are not run again. The best of a noisy problem
is the value without noise where the least noisy value was seen. The i-th evaluation of a seed has the same noise for
every method. Aware or not, every evaluation counts, and only what meets all constraints can be the best.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.peers import PEERS, SEARCHERS
from benchmarks.problem import Problem
from benchmarks.problems import PROBLEMS
from hyperpower_runner.errors import SpaceExhaustedError

STORE = Path(__file__).parent / "results" / "quality.jsonl"
MARKS = (10, 20, 40)


@dataclass(frozen=True)
class Run:
    """One search. best: [evaluation, value] at each change of the best feasible one, evaluations from 1.

    unfinished: evaluations that gave no error; ask_s: median seconds of an ask after the sixth.
    """

    problem: str
    method: str
    seed: int
    evaluations: int
    best: list[tuple[int, float]]
    violations: int
    unfinished: int
    ask_s: float

    def best_at(self, evaluations: int) -> float:
        """The best value after so many evaluations; infinite where none was feasible."""
        return next((value for number, value in reversed(self.best) if number <= evaluations), np.inf)


def run(problem: Problem, method: str, seed: int, evaluations: int) -> Run:
    searcher = SEARCHERS[method](problem, seed)
    best: list[tuple[int, float]] = []
    ask_s, lowest, violations, unfinished, number = [], np.inf, 0, 0, 0
    for number in range(1, evaluations + 1):
        begun = time.perf_counter()
        try:
            params = searcher.ask()
        except SpaceExhaustedError:
            break
        ask_s.append(time.perf_counter() - begun)
        outcome = problem.evaluate(params, np.random.default_rng([seed, number, zlib.crc32(problem.name.encode())]))
        values = problem.space.from_params(params)[np.newaxis]
        feasible = bool(problem.feasible(values)[0])
        violations += not feasible
        unfinished += outcome.status != "completed"
        if feasible and outcome.metrics.get("error", np.inf) < lowest:
            lowest = outcome.metrics["error"]
            best.append((number, float(f"{outcome.truth:.7g}")))
        searcher.tell(params, outcome)
    median_s = round(statistics.median(ask_s[6:] or ask_s), 5)
    return Run(problem.name, method, seed, evaluations, best, violations, unfinished, median_s)


def read(store: Path) -> list[Run]:
    lines = store.read_text().splitlines() if store.exists() else []
    return [Run(**json.loads(line)) for line in lines]


def is_pointless(problem: Problem, method: str) -> bool:
    """An unaware counterpart differs only where there are constraints on metrics."""
    return method.endswith("-unaware") and not problem.parsed.constraints


def run_missing(arguments: argparse.Namespace) -> None:
    enough = [found for found in read(arguments.store) if found.evaluations >= arguments.evaluations]
    done = {(found.problem, found.method, found.seed) for found in enough}
    for seed in range(arguments.seeds):
        for name in arguments.problems:
            for method in arguments.methods:
                if (name, method, seed) in done or is_pointless(PROBLEMS[name], method):
                    continue
                begun = time.perf_counter()
                found = run(PROBLEMS[name], method, seed, arguments.evaluations)
                with arguments.store.open("a") as store:
                    store.write(json.dumps(asdict(found)) + "\n")
                print(f"{name} {method} {seed}: {time.perf_counter() - begun:.1f} s", file=sys.stderr)


def by_method(runs: Iterable[Run], problem: str) -> dict[str, list[Run]]:
    """The runs of a problem by method, in the order of SEARCHERS, each by seed."""
    ordered = sorted((found for found in runs if found.problem == problem), key=lambda found: found.seed)
    grouped = {method: [found for found in ordered if found.method == method] for method in SEARCHERS}
    return {method: found for method, found in grouped.items() if found}


def print_problem(problem: Problem, runs: dict[str, list[Run]]) -> None:
    print(f"\n### {problem.name}: least feasible {problem.optimum:.6g}\n")
    last = MARKS[-1]
    heads = [*(f"best at {mark}" for mark in MARKS), f"mean at {last}", f"regret at {last}", "violations", "s per ask"]
    print(f"| method | seeds | {' | '.join(heads)} |\n|---|{'---:|' * (1 + len(heads))}")
    for method, found in runs.items():
        cells = [f"{median_at(found, mark):.4g}" for mark in MARKS]
        ends = [one.best_at(last) for one in found]
        cells += [f"{statistics.fmean(ends):.4g}", f"{statistics.median(ends) - problem.optimum:.3g}"]
        cells += [f"{statistics.fmean(one.violations for one in found):.1f}"]
        cells += [f"{statistics.median(one.ask_s for one in found):.3f}"]
        print(f"| {method} | {len(found)} | {' | '.join(cells)} |")


def print_summary(runs: list[Run], early: int = 20, late: int = 40) -> None:
    """Ours after `early` evaluations against the peer whose median is best after `late`, paired by seed."""
    print(f"\n### Regret of ours after {early} evaluations beside the best peer's after {late}\n")
    heads = [f"its regret at {late}", "method", f"regret at {early}", f"at {late}", f"won, tied, lost at {early}"]
    heads += ["sign test", "difference of medians, 90 %"]
    print(f"| problem | best peer | {' | '.join(heads)} |\n|---|---|---:|---|---:|---:|---:|---:|---:|")
    for name, problem in PROBLEMS.items():
        grouped = by_method(runs, name)
        regret = {(method, mark): median_at(found, mark) - problem.optimum
                  for method, found in grouped.items() for mark in (early, late)}  # fmt: skip
        peer = min((m for m in grouped if m in PEERS), key=lambda method: regret[method, late], default=None)
        if peer is None:
            continue
        theirs = {one.seed: one.best_at(late) for one in grouped[peer]}
        for method in [method for method in grouped if method.startswith("hw-")]:
            pairs = [(one.best_at(early), theirs[one.seed]) for one in grouped[method] if one.seed in theirs]
            if not pairs:
                continue
            won, lost = sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
            row = [name, peer, f"{regret[peer, late]:.3g}", method]
            row += [f"{regret[method, mark]:.3g}" for mark in (early, late)]
            row += [f"{won}, {len(pairs) - won - lost}, {lost}", f"{sign_test(won, lost):.2g}"]
            print(f"| {' | '.join(row)} | {' to '.join(f'{end:.3g}' for end in bootstrap(pairs))} |")


def median_at(runs: list[Run], evaluations: int) -> float:
    return statistics.median(one.best_at(evaluations) for one in runs)


def sign_test(won: int, lost: int) -> float:
    """How likely so uneven a result is, either way, if a win were as likely as a loss."""
    count = won + lost
    return min(1.0, sum(math.comb(count, fewer) for fewer in range(min(won, lost) + 1)) / 2.0 ** (count - 1))


def bootstrap(pairs: list[tuple[float, float]], draws: int = 4000) -> tuple[float, float]:
    """The 90 % interval of the difference of medians, ours less theirs, seeds drawn together."""
    drawn = np.array(pairs)[np.random.default_rng(0).integers(len(pairs), size=(draws, len(pairs)))]
    ours, theirs = np.median(drawn, axis=1).T
    low, high = np.nanquantile(ours - theirs, [0.05, 0.95])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", choices=SEARCHERS, default=list(SEARCHERS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--store", type=Path, default=STORE, help="a line of JSON for each finished run")
    parser.add_argument("--tables", action="store_true", help="only print the tables of the store")
    arguments = parser.parse_args()
    if not arguments.tables:
        run_missing(arguments)
    longest = sorted(read(arguments.store), key=lambda found: found.evaluations)
    runs = list({(found.problem, found.method, found.seed): found for found in longest}.values())
    for name in arguments.problems:
        print_problem(PROBLEMS[name], by_method(runs, name))
    print_summary(runs)


if __name__ == "__main__":
    main()

"""All trials of a search, and what each step asks of them, kept up as they are added and end; pure, no files.

A search may come to 100,000 trials, and a step must not cost more for it. So counts, the keys of what was tried, and
the incumbent are updated by each trial that comes or ends, and are not computed from all of them again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Set

from hyperpower_runner.trial import Status, Trial


class History:
    """Trials in the order of their job ids.

    It is live: `put` changes it, which only the one who owns it may do. `Search` owns one, shows it to methods and the
    driver while it grows, and hands out a copy, `History(history)`, to everybody else.
    """

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        self._trials: dict[int, Trial] = {}
        self._counts: dict[Status, int] = {}
        self._unfinished: set[int] = set()
        # Made by the first question, and kept up from then on: a summary never asks what was tried.
        self._tried: dict[bytes, int] | None = None
        self._best: dict[tuple[tuple[str, float], ...], Trial | None] = {}
        for trial in sorted(trials, key=lambda trial: trial.job_id):
            self.put(trial)

    def put(self, trial: Trial) -> None:
        """Add a trial, or replace the one of the same job, which has ended."""
        before = self._trials.get(trial.job_id)
        in_order = before is not None or trial.job_id > self.last_id
        self._trials[trial.job_id] = trial
        if not in_order:
            self._trials = dict(sorted(self._trials.items()))
        if before is not None:
            self._count(before, -1)
        self._count(trial, 1)
        self._improve(before, trial)

    def __len__(self) -> int:
        return len(self._trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, History) and self._trials == other._trials

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"History of {len(self)} trials"

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All of them, copied at each call."""
        return tuple(self._trials.values())

    @property
    def last_id(self) -> int:
        """The highest job id; 0 before the first."""
        return next(reversed(self._trials), 0)

    def get(self, job_id: int) -> Trial | None:
        """The trial of a job, or None."""
        return self._trials.get(job_id)

    def trial(self, job_id: int) -> Trial:
        """The trial of a job; raises KeyError where there is none."""
        return self._trials[job_id]

    @property
    def counts(self) -> Mapping[Status, int]:
        """Ended trials by status; those of count 0 are left out."""
        return {status: count for status, count in self._counts.items() if count}

    @property
    def unfinished(self) -> list[Trial]:
        """The trials without a result."""
        return [self._trials[job_id] for job_id in sorted(self._unfinished)]

    @property
    def failures(self) -> list[Trial]:
        """The trials that gave nothing although nobody asked them to end."""
        return [trial for trial in self if trial.result is not None and trial.result.status.is_failure]

    @property
    def seen(self) -> Set[bytes]:
        """The keys of all params tried or being tried, as they stand at each look.

        A cancelled trial told nothing and does not count.
        """
        if self._tried is None:
            self._tried = {}
            for trial in self:
                self._try(trial, 1)
        return self._tried.keys()

    def best(self, constraints: Mapping[str, float]) -> Trial | None:
        """The incumbent: least objective among the completed trials that meet `constraints`; the first of equals."""
        key = tuple(constraints.items())
        if key not in self._best:
            best, lowest = None, math.inf
            for trial in self:
                value = trial.objective
                if value is not None and value < lowest and trial.is_feasible(constraints):
                    best, lowest = trial, value
            self._best[key] = best
        return self._best[key]

    def _count(self, trial: Trial, by: int) -> None:
        if trial.result is not None:
            self._counts[trial.result.status] = self._counts.get(trial.result.status, 0) + by
        elif by > 0:
            self._unfinished.add(trial.job_id)
        else:
            self._unfinished.discard(trial.job_id)
        if self._tried is not None:
            self._try(trial, by)

    def _try(self, trial: Trial, by: int) -> None:
        """Several trials may have had the same params, so that a key stays until the last of them is cancelled."""
        assert self._tried is not None
        if trial.result is None or trial.result.status is not Status.CANCELLED:
            key = trial.key
            count = self._tried.get(key, 0) + by
            if count:
                self._tried[key] = count
            else:
                del self._tried[key]

    def _improve(self, before: Trial | None, trial: Trial) -> None:
        for key, best in list(self._best.items()):
            if best is not None and before is best:
                del self._best[key]  # the incumbent itself was replaced, so that all must be looked at again
            elif _rank(trial) < _rank(best) and trial.is_feasible(dict(key)):
                self._best[key] = trial


def _rank(trial: Trial | None) -> tuple[float, int]:
    """By which of two trials is the better one; infinite for one that is none."""
    value = trial.objective if trial is not None else None
    return (value, trial.job_id) if trial is not None and value is not None else (math.inf, 0)

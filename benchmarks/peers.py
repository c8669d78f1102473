"""Searches behind one interface: peers from other libraries, and this package's own `Search`.

A `Searcher` is asked for params and told what became of them. Each gets what a careful user of its library would give
it. Whatever it proposes that is known beforehand to violate a constraint costs no evaluation. Searches that model
begin with the same six feasible random points for a seed; a training that diverged and gave no error is told as the
worst value so far. The libraries are imported only where they are used.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from benchmarks.problem import Outcome, Problem
from benchmarks.problems import CHANCE_LEVEL
from hyperpower_runner.space import Array
from hyperpower_runner.trial import Params, params_key

INITIAL = 6
MOST_REJECTED = 200  # for one proposal; then a feasible random point takes its place
MOST_REJECTED_GP = 30  # where each proposal takes a fit of several Gaussian processes
POOL = 2000  # candidates of BoTorch, and as many near each of the three best, before the constraints
CHUNK = 512  # candidates at a time, for memory


class Searcher(Protocol):
    def ask(self) -> Params:
        """Propose the next params."""
        ...

    def tell(self, params: Params, outcome: Outcome) -> None:
        """Learn what the last proposal gave."""
        ...


class FeasibleRandom:
    """Uniform among what is known to be allowed."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        self.rng = np.random.default_rng(seed)

    def ask(self) -> Params:
        return self.problem.space.to_params(self.problem.feasible_points(self.rng, 1)[0])

    def tell(self, params: Params, outcome: Outcome) -> None:
        pass


class Modelling(FeasibleRandom):
    """What peers with a model share: the first points, and what they are told of evaluations without an error."""

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self.errors: list[float] = []

    def ask(self) -> Params:
        return super().ask() if len(self.errors) < INITIAL else self.propose()

    def propose(self) -> Params:
        raise NotImplementedError

    def record(self, outcome: Outcome) -> float:
        """The value to model: where there is none, the worst so far."""
        error = outcome.metrics.get("error", max(self.errors, default=CHANCE_LEVEL))
        self.errors.append(error)
        return error


class Optuna(Modelling):
    """A sampler of Optuna, which knows of constraints by what it is told.

    rejected: how a proposal that is known to be forbidden is told. "fail": as failed, which samplers skip;
        "constraint": as completed, with the amounts by which constraints are exceeded and the median error so far, so
        that the sampler models the constraints themselves. Measured on three problems, the first served TPE better, and
        the second GPSampler, which otherwise proposes the same forbidden region again.
    """

    def __init__(self, problem: Problem, seed: int, sampler: Any, rejected: str, most_rejected: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        super().__init__(problem, seed)
        self.rejected, self.most_rejected = rejected, most_rejected
        self.study = optuna.create_study(sampler=sampler)
        self.distributions = distributions(problem)
        self.proposal: Any = None
        self.known: dict[bytes, Outcome] = {}

    def propose(self) -> Params:
        for _ in range(self.most_rejected):
            self.proposal = self.study.ask(fixed_distributions=self.distributions)
            values = self._values(self.proposal.params)
            params = self.problem.space.to_params(values)
            if not self.problem.acceptable(values[np.newaxis])[0]:
                self._reject(values)
            elif params_key(params) in self.known:  # answered from memory, at no cost
                self._finish(self.proposal, params, self.known[params_key(params)])
            else:
                return params
        self.proposal = None
        return FeasibleRandom.ask(self)

    def tell(self, params: Params, outcome: Outcome) -> None:
        self.known[params_key(params)] = outcome
        trial = self.proposal
        if trial is None:  # from elsewhere: it enters the study as it is
            self.study.enqueue_trial(self._by_dimension(params))
            trial = self.study.ask(fixed_distributions=self.distributions)
        self._finish(trial, params, outcome)
        self.proposal = None

    def _finish(self, trial: Any, params: Params, outcome: Outcome) -> None:
        for metric, bound in self.problem.parsed.constraints.items():
            if metric in outcome.metrics:
                trial.set_constraint(metric, outcome.metrics[metric] - bound)
        if self.rejected == "constraint":
            self._set_known(trial, self.problem.space.from_params(params))
        self.study.tell(trial, self.record(outcome))

    def _reject(self, values: Array) -> None:
        import optuna

        if self.rejected == "fail":
            self.study.tell(self.proposal, state=optuna.trial.TrialState.FAIL)
            return
        self._set_known(self.proposal, values)
        self.study.tell(self.proposal, statistics.median(self.errors))

    def _set_known(self, trial: Any, values: Array) -> None:
        for index, amount in enumerate(self.problem.exceeded(values[np.newaxis])[0]):
            trial.set_constraint(f"known {index}", float(amount))

    def _values(self, by_dimension: Mapping[str, Any]) -> Array:
        space = self.problem.space
        pairs = zip(space.names, space.by_dimension, strict=True)
        return np.array([
            variable.options.index(by_dimension[name]) if variable.kind == "ENUM" else by_dimension[name]
            for name, variable in pairs
        ], dtype=float)  # fmt: skip

    def _by_dimension(self, params: Params) -> dict[str, Any]:
        items: list[Any] = []
        for variable in self.problem.space.variables:
            items.extend(params[variable.name] if variable.size > 1 else [params[variable.name]])
        return dict(zip(self.problem.space.names, items, strict=True))


def distributions(problem: Problem) -> dict[str, Any]:
    """The variables in Optuna's terms, by the name of the dimension."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for name, variable in zip(problem.space.names, problem.space.by_dimension, strict=True):
        log = variable.scale == "log"
        if variable.kind == "ENUM":
            found[name] = CategoricalDistribution(list(variable.options))
        elif variable.kind == "INT":
            found[name] = IntDistribution(int(variable.low), int(variable.high), log=log)
        else:
            found[name] = FloatDistribution(variable.low, variable.high, log=log)
    return found


def optuna_tpe(problem: Problem, seed: int, rejected: str = "fail") -> Searcher:
    import optuna

    return Optuna(problem, seed, optuna.samplers.TPESampler(seed=seed), rejected, MOST_REJECTED)


def optuna_gp(
    problem: Problem, seed: int, rejected: str = "constraint", most_rejected: int = MOST_REJECTED_GP
) -> Searcher:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deterministic_objective is called experimental
        sampler = optuna.samplers.GPSampler(
            seed=seed, n_startup_trials=INITIAL, deterministic_objective=problem.parsed.noiseless
        )
    return Optuna(problem, seed, sampler, rejected, most_rejected)


class BoTorch(Modelling):
    """SingleTaskGP as it comes, log EI over feasible candidates; a GP for power where only measurements tell it."""

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self.values: list[Array] = []
        self.power_w: list[float] = []

    def tell(self, params: Params, outcome: Outcome) -> None:
        self.values.append(self.problem.space.from_params(params))
        self.record(outcome)
        if self.problem.measured is not None:
            self.power_w.append(outcome.metrics["power_w"])

    def propose(self) -> Params:
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of jitter, and of fits that were tried again
            torch.manual_seed(int(self.rng.integers(2**31)))
            candidates = self._candidates()
            acquisition = self._acquisition()
            with torch.no_grad():
                chunks = self._features(candidates).unsqueeze(1).split(CHUNK)
                gains = torch.cat([acquisition(chunk) for chunk in chunks])
        return self.problem.space.to_params(candidates[int(gains.argmax())])

    def _candidates(self) -> Array:
        """Feasible random points, and feasible ones near the three best."""
        space = self.problem.space
        pool = self.problem.feasible_points(self.rng, POOL)
        met = [power <= self.problem.parsed.constraints["power_w"] for power in self.power_w] or [True] * len(
            self.errors
        )
        order = sorted(range(len(self.errors)), key=lambda index: (not met[index], self.errors[index]))
        x = np.repeat(space.encode(np.array(self.values)[order[:3]]), POOL, axis=0)
        moved = self.rng.random(x.shape) < self.rng.choice([0.2, 0.5, 1.0], (len(x), 1))
        steps = 10 ** self.rng.uniform(-3, -0.3, (len(x), 1)) * self.rng.standard_normal(x.shape)
        near = space.decode(np.clip(x + moved * steps, 0, 1))
        pool = np.concatenate([pool, near[self.problem.acceptable(near)]])
        known = {value.tobytes() for value in self.values}
        fresh = [index for index, value in enumerate(pool) if value.tobytes() not in known]
        return pool[fresh] if fresh else pool

    def _features(self, values: Array) -> Any:
        """The unit cube, with a column for each option of an ENUM."""
        import torch

        x, columns = self.problem.space.encode(values), []
        for column, variable in enumerate(self.problem.space.by_dimension):
            if variable.kind == "ENUM":
                columns.append(np.eye(len(variable.options))[values[:, column].astype(int)])
            else:
                columns.append(x[:, [column]])
        return torch.as_tensor(np.concatenate(columns, axis=1))

    def _acquisition(self) -> Any:
        from botorch.acquisition import LogExpectedImprovement
        from botorch.acquisition.analytic import LogConstrainedExpectedImprovement, LogProbabilityOfFeasibility
        from botorch.models import ModelListGP

        error = self._model(self.errors)
        if not self.power_w:
            return LogExpectedImprovement(error, best_f=min(self.errors), maximize=False)
        bound = self.problem.parsed.constraints["power_w"]
        met = [value for value, power in zip(self.errors, self.power_w, strict=True) if power <= bound]
        models = ModelListGP(error, self._model(self.power_w))
        if not met:
            return LogProbabilityOfFeasibility(models, constraints={1: (None, bound)})
        return LogConstrainedExpectedImprovement(models, min(met), 0, {1: (None, bound)}, maximize=False)

    def _model(self, targets: list[float]) -> Any:
        import torch
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from gpytorch.mlls import ExactMarginalLogLikelihood

        model = SingleTaskGP(self._features(np.array(self.values)), torch.tensor(targets, dtype=torch.float64)[:, None])
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))  # outcomes are standardised by default
        return model


class Ours:
    """This package's `Search`."""

    def __init__(self, problem: Problem, seed: int, method: str, aware: bool) -> None:
        from hyperpower_runner.search import Search

        config = {"objective": {"command": ["none"]}, **problem.config, "method": method, "hardware-aware": aware}
        self.search = Search({**config, "seed": seed}, models=problem.models)
        self.job_id = 0

    def ask(self) -> Params:
        job = self.search.ask()
        self.job_id = job.job_id
        return job.params

    def tell(self, params: Params, outcome: Outcome) -> None:
        metrics = dict(outcome.metrics)
        if outcome.status == "completed":  # a meter would find what the model predicts: the unaware learn from it
            metrics |= self.search.models.predict_point(self.search.config.space.from_params(params))
        self.search.tell(self.job_id, status=outcome.status, **metrics)


def _ours(method: str, aware: bool) -> Callable[[Problem, int], Searcher]:
    return lambda problem, seed: Ours(problem, seed, method, aware)


PEERS: dict[str, Callable[[Problem, int], Searcher]] = {
    "random": FeasibleRandom,
    "optuna-tpe": optuna_tpe,
    "optuna-gp": optuna_gp,
    "botorch": BoTorch,
}
OURS: dict[str, Callable[[Problem, int], Searcher]] = {
    name + ("" if aware else "-unaware"): _ours(name, aware)
    for name in ("rand", "rand-walk", "hw-ieci", "hw-cwei")
    for aware in (True, False)
}
SEARCHERS = PEERS | OURS

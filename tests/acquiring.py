"""What a search is about to maximise, for the tests of its acquisition functions."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpower_runner.acquisition import Product, Term
from hyperpower_runner.maximisation import Maximisation
from hyperpower_runner.methods import bayesian
from hyperpower_runner.search import Search
from hyperpower_runner.trial import Job


def next_maximised(search: Search, monkeypatch: pytest.MonkeyPatch) -> tuple[Job, Maximisation]:
    """The next job, and what it maximises."""
    made: list[Maximisation] = []

    def remembered(*arguments: Any, **named: Any) -> Maximisation:
        made.append(Maximisation(*arguments, **named))
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(bayesian, "Maximisation", remembered)
        job, _ = search.propose()
    assert len(made) == 1
    return job, made[0]


def factors(maximisation: Maximisation) -> list[Term]:
    assert isinstance(maximisation.term, Product)
    return list(maximisation.term.terms)

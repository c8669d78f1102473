"""What the tests of the wrapper scripts share: where the scripts are, jobs as the worker writes them, and images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hyperpower_runner import objective, trial
from hyperpower_runner.job_files import JobFiles

if TYPE_CHECKING:
    import datasets

OBJECTIVES = Path(__file__).parents[2] / "objectives"
sys.path.insert(0, str(OBJECTIVES))  # where the scripts find each other when they are run


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., objective.Job]:
    """Make a job whose files are in tmp_path; keywords are the fields of `trial.Job`."""

    def make(params: dict[str, Any], **fields: Any) -> objective.Job:
        content = trial.Job(**{"job_id": 1, "params": params, "seed": 7, "epochs": 2, "threads": 1, **fields})
        return objective.Job(content, JobFiles(tmp_path), argparse.Namespace(batch_size=32))

    return make


@pytest.fixture(scope="session")
def few_images() -> datasets.ImageSet:
    """Real MNIST: 320 training and 200 test images."""
    import datasets

    sample = datasets.mnist_sample().first(320)
    return replace(sample, test_x=sample.test_x[:200], test_y=sample.test_y[:200])

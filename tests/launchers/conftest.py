"""A Slurm cluster for the tests of launchers: one for each process that runs tests, whole again after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clusters import Cluster, UnavailableError, slurm_cluster


@pytest.fixture(scope="session")
def _cluster() -> Iterator[Cluster]:
    try:
        with slurm_cluster() as cluster:
            yield cluster
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def cluster(_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Three nodes with two slots each, which the commands of Slurm find from here."""
    monkeypatch.setenv("SLURM_CONF", str(_cluster.conf))
    yield _cluster
    _cluster.heal()

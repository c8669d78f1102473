"""Cells of convolutional networks with five vertices, as encodings: their measured power and validation error.

The data (data/README.md) name each cell once. Here a cell is encoded as its user would: ten possible edges, three
operations of inner vertices. Vertices that lie on no path from the input to the output do nothing, and inner vertices
can be numbered otherwise, so that many encodings are the same cell. It knows no constraints and no problems.
"""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner.space import Array, Space

DATA = Path(__file__).parent / "data" / "ecnas.csv"
EDGES = tuple(f"edge_{i}{j}" for i, j in itertools.combinations(range(5), 2))
OPERATIONS = {"conv1x1": "1", "conv3x3": "3", "maxpool3x3": "m"}

Numbering = tuple[tuple[int, ...], str]  # inner vertices in their new order, and the adjacency matrix that this gives


class CellPower:
    """The table of measured powers as a hardware model; what is no cell has the highest power."""

    def predict(self, space: Space, values: Array) -> Array:
        columns = [values[:, space.names.index(name)] for name in (*EDGES, *(f"operation[{i}]" for i in range(3)))]
        power_w = cells()[0]
        found = power_w[tuple(np.array(columns, dtype=int))]
        return np.where(np.isnan(found), np.nanmax(power_w), found)


def numberings(edges: str, vertices: int) -> list[Numbering]:
    """All ways to number the vertices that lie on a path; none where input and output are not joined."""
    adjacent = np.zeros((vertices, vertices), dtype=int)
    adjacent[np.triu_indices(vertices, 1)] = [int(edge) for edge in edges]
    reach = np.linalg.matrix_power(np.eye(vertices, dtype=int) + adjacent, vertices) > 0
    if not reach[0, -1]:
        return []
    kept = [vertex for vertex in range(1, vertices - 1) if reach[0, vertex] and reach[vertex, -1]]
    found = []
    for order in itertools.permutations(kept):
        places = [0, *order, vertices - 1]
        found.append((order, "".join(map(str, adjacent[np.ix_(places, places)].ravel()))))
    return found


def cell_key(ways: list[Numbering], operations: str) -> str | None:
    """The same text for the same cell, None for none; operations: a letter for each inner vertex."""
    return min((bits + "".join(operations[vertex - 1] for vertex in order) for order, bits in ways), default=None)


@cache
def measured() -> dict[str | None, tuple[float, float]]:
    """Power in W and validation error of each cell of the data, by its key."""
    found: dict[str | None, tuple[float, float]] = {}
    for line in DATA.read_text().splitlines()[1:]:
        vertices, edges, operations, power_w, accuracy = line.split(",")
        found[cell_key(numberings(edges, int(vertices)), operations)] = float(power_w), 1 - float(accuracy)
    return found


@cache
def cells() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Power in W and validation error by encoding, nan where it is no cell: arrays of shape (2,) * 10 + (3,) * 3."""
    table = np.full((2,) * 10 + (3,) * 3 + (2,), np.nan)
    for edges in itertools.product((0, 1), repeat=10):
        ways = numberings("".join(map(str, edges)), 5)
        for chosen in itertools.product(range(3), repeat=3):
            letters = "".join(tuple(OPERATIONS.values())[choice] for choice in chosen)
            table[edges + chosen] = measured().get(cell_key(ways, letters), (np.nan, np.nan))
    return table[..., 0], table[..., 1]

"""The maximum of an acquisition function over a mixed feasible space.

From the best of a pool of feasible points: FLOAT and INT variables follow the gradient, and every variable is moved to
neighbours, alone and with others, at shrinking distances. A point is scored as it would be run, after rounding, and
only where it is feasible; the result is never infeasible. It knows neither models nor trials: `feasible` is a function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from hyperpower_runner.acquisition import Term
from hyperpower_runner.space import Array, Space, reflect
from hyperpower_runner.surrogate.embedding import Embedding

SHORTLIST = 256  # of the pool, by a rough score
STARTS = 4  # of those
APART = 0.15  # that starts shall be, in coordinates, times sqrt(D): they should not share one hill
NEIGHBOURS = 24  # of each start, in each round
ROUNDS = 6
LARGEST_STEP, SMALLEST_STEP = 0.2, 0.005  # of the first and the last round, in the unit cube
GRADIENT_ITERATIONS = 15
FRACTIONS = np.array([1.0, 0.7, 0.4, 0.2, 0.1, 0.05])  # of the way along the gradient, where its end is infeasible


@dataclass(frozen=True)
class Maximisation:
    """What is maximised, and where.

    feasible: which of n points, values of shape (n, D), may be proposed: booleans of shape (n,).
    """

    term: Term
    embedding: Embedding
    feasible: Callable[[Array], NDArray[np.bool_]]

    def scores(self, values: Array) -> Array:
        """The acquisition's logarithm at values, shape (n, D): shape (n,); -inf where infeasible (Eq. 3)."""
        result = np.full(len(values), -np.inf)
        allowed = np.flatnonzero(self.feasible(values))
        if len(allowed):
            result[allowed] = self.term(self.embedding(values[allowed]))
        return result

    def best(self, pool: Array, rng: np.random.Generator) -> tuple[Array, float]:
        """The best point found, values of shape (D,), and its score, beginning from a pool of feasible points."""
        rough = self.term.rough()(self.embedding(pool))
        pool = pool[np.argsort(-rough, kind="stable")[:SHORTLIST]]
        scores = self.term(self.embedding(pool))
        chosen = self._starts(self.embedding(pool), scores)
        points, scores = np.array(pool[chosen], order="F"), scores[chosen]
        points, scores = self._follow_gradient(points, scores)
        for step in np.geomspace(LARGEST_STEP, SMALLEST_STEP, ROUNDS):
            near = mutated(self.embedding.space, np.repeat(points, NEIGHBOURS, axis=0), step, rng)
            points, scores = self._improved(points, scores, near)
        points, scores = self._follow_gradient(points, scores)
        return points[np.argmax(scores)], float(np.max(scores))

    def _starts(self, u: Array, scores: Array) -> list[int]:
        """The places of the best points, shape (n, C), that lie apart; of the best ones where too few do."""
        order = np.argsort(-scores, kind="stable").tolist()
        chosen: list[int] = order[:1]
        for place in order[1:]:
            if len(chosen) == STARTS:
                break
            if np.linalg.norm(u[chosen] - u[place], axis=1).min() >= APART * self.embedding.dimensions**0.5:
                chosen.append(place)
        return [*chosen, *(place for place in order if place not in chosen)][:STARTS]

    def _follow_gradient(self, points: Array, scores: Array) -> tuple[Array, Array]:
        """Move FLOAT and INT uphill, all points at once, and then back as far as feasibility demands."""
        columns = [coordinate for _, coordinate in self.embedding.movable]
        if not columns:
            return points, scores
        begin = self.embedding(points)

        def negative(flat: Array) -> tuple[float, Array]:
            u = begin.copy()
            u[:, columns] = flat.reshape(len(begin), -1)
            value, gradient = self.term.with_gradient(u)
            return -float(np.sum(value)), -gradient[:, columns].ravel()

        found = optimize.minimize(
            negative,
            begin[:, columns].ravel(),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, 1.0)] * (len(begin) * len(columns)),
            options={"maxiter": GRADIENT_ITERATIONS},
        )
        way = np.zeros_like(begin)
        way[:, columns] = found.x.reshape(len(begin), -1) - begin[:, columns]
        along = begin[:, np.newaxis, :] + FRACTIONS[:, np.newaxis] * way[:, np.newaxis, :]
        repeated = np.repeat(points, len(FRACTIONS), axis=0)
        return self._improved(points, scores, self.embedding.moved(repeated, along.reshape(len(repeated), -1)))

    def _improved(self, points: Array, scores: Array, near: Array) -> tuple[Array, Array]:
        """Replace each point by the best of its neighbours, `near` in blocks of equal size, where that is better."""
        near_scores = self.scores(near).reshape(len(points), -1)
        chosen = np.argmax(near_scores, axis=1)
        rows = np.arange(len(points))
        better = near_scores[rows, chosen] > scores
        candidates = near.reshape(len(points), -1, near.shape[1])[rows, chosen]
        moved = np.where(better[:, np.newaxis], candidates, points)
        return moved, np.where(better, near_scores[rows, chosen], scores)


def mutated(space: Space, values: Array, step: float, rng: np.random.Generator) -> Array:
    """Neighbours of n points, values of shape (n, D): one to three variables of each are moved elsewhere.

    A FLOAT moves by a normal step of deviation `step` in the unit cube, an INT likewise but at least to the next
    integer, an ENUM to any other option.
    """
    changing = [i for i, variable in enumerate(space.by_dimension) if variable.choices != 1]
    result = np.array(values, order="F")
    if not changing:
        return result
    wanted = rng.integers(1, min(3, len(changing)) + 1, size=len(values))
    ranks = np.argsort(np.argsort(rng.random((len(values), len(changing))), axis=1), axis=1)
    chosen = ranks < wanted[:, np.newaxis]
    for place, i in enumerate(changing):
        rows = np.flatnonzero(chosen[:, place])
        variable, before = space.by_dimension[i], values[rows, i]
        if variable.kind == "ENUM":
            others = rng.integers(len(variable.options) - 1, size=len(rows))
            result[rows, i] = others + (others >= before)
            continue
        steps = step * rng.standard_normal(len(rows))
        after = variable.decode(reflect(variable.encode(before) + steps))
        if variable.kind == "INT":
            beside = before + np.where(steps < 0.0, -1.0, 1.0)
            beside = np.where((beside < variable.low) | (beside > variable.high), 2.0 * before - beside, beside)
            after = np.where(after == before, beside, after)
        result[rows, i] = after
    return result

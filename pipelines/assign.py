"""Which goes with which: the pairing of two sets that costs least (the assignment problem). Pure numpy."""

import numpy as np

from agent.records import Array


def assigned(cost: Array) -> list[tuple[int, int]]:
    """Pairs (row, column) of float64 [n, m], as many as the shorter side has, whose sum is least; rows ascending.

    Shortest augmenting paths with potentials, O(n^2 m). Source: R. Jonker, A. Volgenant, Computing 38 (1987), in the
    plain form without their initialisation. Costs must be finite.
    """
    if cost.shape[0] > cost.shape[1]:
        return sorted((row, column) for column, row in assigned(cost.T))
    rows, columns = cost.shape
    row_potential, column_potential = np.zeros(rows), np.zeros(columns)
    owner = np.full(columns, -1)
    for row in range(rows):
        _augment(cost, row, row_potential, column_potential, owner)
    return sorted((int(row), int(column)) for column, row in enumerate(owner) if row >= 0)


def _augment(cost: Array, row: int, row_potential: Array, column_potential: Array, owner: Array) -> None:
    """Give `row` a column, moving the owners along the cheapest path of changes; the potentials stay dual feasible."""
    columns = cost.shape[1]
    least, came_from, done = np.full(columns, np.inf), np.full(columns, -1), np.zeros(columns, bool)
    here, at, reached = row, -1, 0.0
    while True:
        reduced = reached + cost[here] - row_potential[here] - column_potential
        better = ~done & (reduced < least)
        least[better], came_from[better] = reduced[better], at
        at = int(np.where(done, np.inf, least).argmin())
        reached = float(least[at])
        if owner[at] < 0:
            break
        done[at], here = True, owner[at]
    row_potential[row] += reached
    row_potential[owner[done]] += reached - least[done]
    column_potential[done] -= reached - least[done]
    while at >= 0:  # shift the owners back along the path
        before = int(came_from[at])
        owner[at] = owner[before] if before >= 0 else row
        at = before

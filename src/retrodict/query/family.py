"""Families of queries: of every variable the shares of its elements that are given, latent and absent.

Two queries are as far apart as their variable that differs most. There an element that is given in only one of them
counts 1, and one that is latent in one and absent in the other counts 1/2.
"""

from typing import TypeAlias

import numpy as np

from retrodict.roles import ABSENT, GIVEN, LATENT
from retrodict.variables import Layout


Shares: TypeAlias = tuple[tuple[str, float, float], ...]  # (name, share given, share latent) of every variable


def shares_of(layout: Layout, roles: np.ndarray) -> Shares:
    """Returns the shares of every variable over the roles `(m, d)`; of a function, of the points it has."""
    rows = []
    for variable in layout.variables:
        if variable.kind != "place":
            block = roles[:, layout.slices[variable.name]]
            if variable.axes and (block != ABSENT).any():
                block = block[block != ABSENT]
            rows.append((variable.name, float((block == GIVEN).mean()), float((block == LATENT).mean())))
    return tuple(rows)


def words(shares: Shares) -> str:
    """Returns a family of queries in words, such as `theta given x` or `theta given 50 % of x`."""

    def part(name: str, share: float) -> str:
        return name if share == 1 else f"{min(max(round(100 * share), 1), 99)} % of {name}"

    given = [part(name, share) for name, share, _ in shares if share > 0]
    latent = [part(name, share) for name, _, share in shares if share > 0]
    return f"{', '.join(latent)} given {', '.join(given) or 'nothing'}"


def distance(first: Shares, second: Shares) -> tuple[float, str]:
    """Returns how far apart two families are, and the variable that they differ in most."""
    others = {name: (given, latent) for name, given, latent in second}

    def apart(name: str, given: float, latent: float) -> float:
        other_given, other_latent = others[name]
        gap = abs(given - other_given)
        return gap + max(abs(latent - other_latent) - gap, 0.0) / 2.0

    return max(((apart(*row), row[0]) for row in first), key=lambda pair: pair[0])

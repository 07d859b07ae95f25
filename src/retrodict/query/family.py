"""Families of queries: of every variable the shares of its elements that are given, latent and absent.

Two queries are as far apart as their variable that differs most, where an element that is given in only one of them
counts 1, and one that is latent in one and absent in the other 1/2.
"""

from typing import TypeAlias

import numpy as np

from retrodict.roles import ABSENT, GIVEN, LATENT
from retrodict.variables import Layout


Shares: TypeAlias = tuple[tuple[str, float, float], ...]  # (name, share given, share latent) of every variable


def shares_of(layout: Layout, roles: np.ndarray) -> Shares:
    """The shares given and latent of every variable, over the roles `(m, d)` of one question or many; of a function
    they are shares of the points that are there."""
    found = []
    for variable in layout.variables:
        if variable.kind != "place":
            own = roles[:, layout.slices[variable.name]]
            if variable.axes and (own != ABSENT).any():
                own = own[own != ABSENT]
            found.append((variable.name, float((own == GIVEN).mean()), float((own == LATENT).mean())))
    return tuple(found)


def words(shares: Shares) -> str:
    """A family of questions in words, such as `theta given x`."""
    given = [name for name, share, _ in shares if share > 0]
    latent = [name for name, _, share in shares if share > 0]
    return f"{', '.join(latent)} given {', '.join(given) or 'nothing'}"


def distance(one: Shares, other: Shares) -> tuple[float, str]:
    """How far apart two families of questions are, and the variable that they differ in most."""
    known = {name: (given, latent) for name, given, latent in other}

    def apart(name: str, given: float, latent: float) -> float:
        g, l = known[name]  # noqa: E741 - the letters of the two shares
        return abs(given - g) + max(abs(latent - l) - abs(given - g), 0.0) / 2.0

    return max(((apart(*row), row[0]) for row in one), key=lambda found: found[0])

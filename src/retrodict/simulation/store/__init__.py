"""Campaigns of simulations that survive: a store on disk, executors that run the rows, and the loop that fills it."""

from retrodict.simulation.store._campaign import campaign as campaign
from retrodict.simulation.store._store import Store as Store
from retrodict.simulation.store._store import open_store as open_store

"""Simulation: rows of parameters and data, in memory or in a store on disk, and the failures among them."""

"""Runs without a person: the five notebooks, and grids of runs."""

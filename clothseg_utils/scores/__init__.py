"""Counts and scores; no torch."""

"""Overlays, panels, figures, viewers."""

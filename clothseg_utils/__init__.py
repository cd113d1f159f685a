"""Clothing segmentation on Fashionpedia: the functions behind the five notebooks.

Importing this package is cheap: it imports none of its modules.
"""

__version__ = "0.1.0"

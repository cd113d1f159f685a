"""Clothing segmentation on Fashionpedia: the functions behind the five notebooks.

Importing this package is cheap: it imports none of its modules.
"""

import os

# albumentations 2.0.8 asks a package index for a newer version when it is imported, and warns
# when there is no network. DataLoader workers and notebook kernels inherit the variable.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"

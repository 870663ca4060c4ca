"""Reliability-aware semantic IDs as Feast features for ranking models.

Importing this package is light: torch, feast and xgboost are imported by the modules that use them.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]

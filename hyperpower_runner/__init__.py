"""Hyper-parameter search for neural networks under power and memory budgets (HyperPower, arXiv 1712.02446)."""

__version__ = "0.1.0"

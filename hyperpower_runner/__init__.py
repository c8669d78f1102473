"""Hyper-parameter search for neural networks under power and memory budgets (HyperPower, arXiv 1712.02446)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperpower_runner.version import __version__

if TYPE_CHECKING:
    from hyperpower_runner.search import Search

__all__ = ["Search", "__version__"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import `Search` when it is asked for: wrapper scripts and the command line's --help do without numpy."""
        if name == "Search":
            from hyperpower_runner.search import Search

            return Search
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The version of this package; it stands in what is measured with it."""

from __future__ import annotations

__version__ = "0.1.0"

"""What all tests share: hypothesis draws the same examples each time, and measures no time."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None, database=None, max_examples=100)
hypothesis.settings.load_profile("deterministic")

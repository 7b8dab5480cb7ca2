"""Settings for all tests of the reference."""

from __future__ import annotations

from hypothesis import settings

# The same examples in every run: a failure is found by the one who causes it.
settings.register_profile("reference", derandomize=True, deadline=None)
settings.load_profile("reference")

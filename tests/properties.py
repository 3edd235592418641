"""What the property tests share: how much they look at, and seeds."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# In CI always the same examples; elsewhere others each time.
settings.register_profile(
    "course",
    max_examples=40,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # as of a machine with other work
)
settings.load_profile("course")

SEEDS = st.integers(0, 2**31)

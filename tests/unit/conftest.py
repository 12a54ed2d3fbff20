"""How many examples a property test looks at, and how often all memory is looked at for what was left."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Of each run's own, so that the examples add up over the runs. `make test-unit` has a reader who
# waits; `make test`, and with it CI, looks further.
settings.register_profile("quick", max_examples=15, deadline=None)
settings.register_profile("thorough", max_examples=120, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(autouse=True, scope="session")
def collect_garbage_of_modules() -> Iterator[None]:
    """Once for all the modules here: what they share is little, and each look takes longer than most of them."""
    yield
    gc.unfreeze()
    gc.collect()

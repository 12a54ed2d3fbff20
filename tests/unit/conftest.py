"""How many examples a property test looks at."""

from __future__ import annotations

import os

from hypothesis import settings

# Of each run's own, so that the examples add up over the runs. `make test-unit` has a reader who
# waits; `make test`, and with it CI, looks further.
settings.register_profile("quick", max_examples=15, deadline=None)
settings.register_profile("thorough", max_examples=120, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

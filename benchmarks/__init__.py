"""One file a question: ``python -m benchmarks.jobs``, from the repository's root, prints a table.

Servers and processes are started with what the tests have for that.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

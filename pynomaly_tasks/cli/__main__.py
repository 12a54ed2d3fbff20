"""``python -m pynomaly_tasks.cli``: the ``pynomaly`` command where its script is not on PATH."""

from pynomaly_tasks.cli import main

main()

"""Where data comes from: files opened with every check made, read in batches with flat memory.

Importing this package loads neither duckdb nor pyarrow.
"""

from pynomaly_tasks.datasets.dataset import Column, ColumnKind, Dataset
from pynomaly_tasks.datasets.opener import DatasetOpener
from pynomaly_tasks.datasets.source import Source

__all__ = ["Column", "ColumnKind", "Dataset", "DatasetOpener", "Source"]

"""What a result says of the data it is about."""

from __future__ import annotations

from typing import Any


def dataset_facts(dataset: Any) -> dict[str, Any]:
    """The ``dataset`` part of a result's detail, of an opened dataset."""
    return {
        "source": dataset.source,
        "name": dataset.name,
        "format": dataset.format,
        "n_rows": dataset.n_rows,
        "n_columns": len(dataset.columns),
        "size_bytes": dataset.size_bytes,
    }

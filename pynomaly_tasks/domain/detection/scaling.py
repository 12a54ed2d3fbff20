"""Columns on one footing before distances are measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pynomaly_tasks.domain.detection.detector import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaler:
    """x to (x - shift) / unit."""

    shift: FloatArray
    unit: FloatArray

    @classmethod
    def fitted(cls, x: FloatArray, scaling: Literal["standard", "none"]) -> Scaler:
        """standard: the columns' means and deviations in x; a constant column is left as it is."""
        if scaling == "none":
            return cls(shift=np.zeros(x.shape[1]), unit=np.ones(x.shape[1]))
        deviation = x.std(axis=0)
        return cls(shift=x.mean(axis=0), unit=np.where(deviation > 0, deviation, 1.0))

    def apply(self, x: FloatArray) -> FloatArray:
        """Scaled rows, row-major."""
        return np.ascontiguousarray((x - self.shift) / self.unit)

"""From a validated spec to the detector; each one's library is imported only when it is wanted."""

from __future__ import annotations

from pynomaly_tasks.domain.detection.catalog import DetectorSpec
from pynomaly_tasks.domain.detection.detector import Detector


def build_detector(spec: DetectorSpec, seed: int) -> Detector:
    """The detector for tables that ``spec`` names, not fitted yet."""
    params = spec.typed_params()
    match spec.name:
        case "isolation_forest":
            from pynomaly_tasks.domain.detection.isolation_forest import IsolationForestDetector

            return IsolationForestDetector(params, seed)
        case "ecod":
            from pynomaly_tasks.domain.detection.ecod import EcodDetector

            return EcodDetector()
    raise TypeError(f"{spec.name} is not a detector for tables")

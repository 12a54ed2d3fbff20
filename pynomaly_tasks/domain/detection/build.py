"""From a validated spec to the detector; each one's library is imported only when it is wanted."""

from __future__ import annotations

from pynomaly_tasks.domain.detection.catalog import PYOD_PREFIX, DetectorSpec
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
        case "hbos":
            from pynomaly_tasks.domain.detection.hbos import HbosDetector

            return HbosDetector(params)
        case "mahalanobis":
            from pynomaly_tasks.domain.detection.mahalanobis import MahalanobisDetector

            return MahalanobisDetector(params)
        case "knn":
            from pynomaly_tasks.domain.detection.neighbours import KnnDetector

            return KnnDetector(params)
        case "lof":
            from pynomaly_tasks.domain.detection.neighbours import LofDetector

            return LofDetector(params)
        case "inne":
            from pynomaly_tasks.domain.detection.inne import InneDetector

            return InneDetector(params, seed)
        case "mcd":
            from pynomaly_tasks.domain.detection.library_detectors import McdDetector

            return McdDetector(params, seed)
        case "one_class_svm":
            from pynomaly_tasks.domain.detection.library_detectors import OneClassSvmDetector

            return OneClassSvmDetector(params)
        case "ensemble":
            from pynomaly_tasks.domain.detection.ensemble import EnsembleDetector

            members = [build_detector(member, seed) for member in params.members]
            return EnsembleDetector(members, params.combine, seed)
    if spec.name.startswith(PYOD_PREFIX):
        from pynomaly_tasks.domain.detection.pyod_detector import PyodDetector

        return PyodDetector(spec.name.removeprefix(PYOD_PREFIX), spec.params, seed)
    raise TypeError(f"{spec.name} is not a detector for tables")

"""Any class of the PyOD library."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from pynomaly_tasks.domain.detection.detector import FloatArray, Tick
from pynomaly_tasks.domain.detection.pyod_classes import pyod_classes
from pynomaly_tasks.errors import InvalidDataset, InvalidRequest


class PyodDetector:
    """Fitted on all rows with PyOD's own defaults, seeded, on one core, columns unscaled.

    A row that equals a row of the file has the score that fitting gave it; other rows are scored by PyOD's
    ``decision_function``, which for some classes depends on what else is scored.
    """

    score_rows = 5_000

    def __init__(self, class_name: str, params: Mapping[str, Any], seed: int) -> None:
        self._class_name = class_name
        self._seed = seed
        self._model: Any = self._made(_pyod_class(class_name), dict(params))
        self._known: dict[bytes, float] = {}

    def fit_rows(self, n_rows: int) -> int | None:
        """All rows; the catalogue's limit holds."""
        return n_rows

    def fit(self, x: FloatArray, tick: Tick) -> None:
        """Fit the class. Raises InvalidDataset with PyOD's reason when it refuses the data."""
        tick()
        rows = _rows(x)
        self._guarded(lambda: self._model.fit(rows))
        scores = np.asarray(self._model.decision_scores_, dtype=np.float64)
        self._known = {row.tobytes(): float(score) for row, score in zip(rows, scores, strict=True)}

    def score(self, x: FloatArray) -> FloatArray:
        """PyOD's score; larger is more anomalous."""
        rows = _rows(x)
        known = [self._known.get(row.tobytes()) for row in rows]
        out = np.array([np.nan if score is None else score for score in known], dtype=np.float64)
        unseen = np.array([score is None for score in known], dtype=bool)
        if unseen.any():
            out[unseen] = self._guarded(lambda: self._model.decision_function(rows[unseen]))
        return out

    def contributions(self, x: FloatArray) -> FloatArray | None:
        """None: classes differ in what they can say."""
        del x
        return None

    def _made(self, class_: type[Any], params: dict[str, Any]) -> Any:
        accepted = inspect.signature(class_.__init__).parameters
        names = [name for name in accepted if name not in ("self", "n_jobs", "args", "kwargs")]
        for name in params:
            if name not in names:
                raise InvalidRequest.of(
                    f"detector.params.{name}",
                    f"pyod:{self._class_name} has no parameter of this name"
                    f"{' that may be changed' if name == 'n_jobs' else ''}; it takes {', '.join(names)}",
                )
        if "n_jobs" in accepted:
            params["n_jobs"] = 1
        if "random_state" in accepted:
            params.setdefault("random_state", self._seed)
        try:
            return class_(**params)
        except (ValueError, TypeError, KeyError, ImportError) as error:
            raise InvalidRequest.of(
                "detector.params", f"pyod:{self._class_name} refuses them: {error}"
            ) from error

    def _guarded(self, work: Callable[[], Any]) -> Any:
        try:
            with _seeded(self._seed):
                return work()
        except (
            ValueError,
            TypeError,
            IndexError,
            ArithmeticError,
            np.linalg.LinAlgError,
            ImportError,
        ) as error:
            raise InvalidDataset.of(
                "dataset", f"pyod:{self._class_name} cannot work on these rows: {str(error)[:500]}"
            ) from error


def _pyod_class(name: str) -> type[Any]:
    classes = pyod_classes()
    if classes is None:
        raise InvalidRequest.of(
            "detector", "PyOD is not installed where the work is done: pip install 'pynomaly-tasks[pyod]'"
        )
    if name not in classes:
        raise InvalidRequest.of(
            "detector.name", f"PyOD has no detector {name!r}; it has {', '.join(sorted(classes))}"
        )
    try:
        module = importlib.import_module(classes[name])
    except ImportError as error:
        raise InvalidRequest.of(
            "detector", f"pyod:{name} needs a library that is not installed: {error}"
        ) from error
    found = getattr(module, name)
    assert isinstance(found, type)
    return found


def _rows(x: FloatArray) -> FloatArray:
    # -0.0 equals 0.0 but not in bytes.
    return np.ascontiguousarray(x) + 0.0


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which some classes draw from, and put it back."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)

"""The benchmark's scorer against NAB's own published figures, and our detectors against a floor."""

from __future__ import annotations

import csv
import gzip
import importlib
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

RAW = ("ambient_temperature_system_failure", "ec2_cpu_utilization_825cc2", "nyc_taxi", "speed_7578")


@pytest.fixture(scope="module")
def nab(pytestconfig: pytest.Config) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "benchmarks"))
        yield importlib.import_module("nab")


@pytest.fixture(scope="module")
def scoring(nab: ModuleType) -> ModuleType:
    return importlib.import_module("nab_scoring")


@pytest.fixture(scope="module")
def corpus(nab: ModuleType) -> Any:
    return nab.load_corpus()


def read_raw(nab: ModuleType, short_name: str) -> dict[str, np.ndarray]:
    path = nab.DATA / "reference" / "windowedGaussian_raw" / f"{short_name}.csv.gz"
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    return {column: np.array([row[column] for row in rows]) for column in rows[0]}


@pytest.mark.parametrize("short_name", RAW)
def test_published_raw_scores_give_the_published_score_of_the_file(
    nab: ModuleType, scoring: ModuleType, corpus: Any, short_name: str
) -> None:
    raw = read_raw(nab, short_name)
    name = next(file for file in corpus.labelled if short_name in file)
    windows = json.loads((nab.DATA / "windows.json").read_text())[name]
    labelled = scoring.Labelled.of(raw["timestamp"].astype("datetime64[ns]"), windows)
    anomaly_score = raw["anomaly_score"].astype(float)

    for profile in scoring.PROFILES:
        ours = scoring.score_at(anomaly_score, labelled, profile, threshold=1.0)
        theirs = raw[f"S(t)_{profile.name}"].astype(float).sum()
        assert ours == pytest.approx(theirs, abs=1e-9)
    published = nab.published_scores()["windowedGaussian"][name]
    assert scoring.score_at(anomaly_score, labelled, scoring.PROFILES[0], 1.0) == pytest.approx(
        published, abs=1e-9
    )


@pytest.mark.large
def test_windowed_gaussian_computed_again_gives_every_published_score(
    nab: ModuleType, scoring: ModuleType, corpus: Any
) -> None:
    published = nab.published_scores()["windowedGaussian"]

    ours = {
        name: scoring.score_at(nab.windowed_gaussian(values), corpus.labelled[name], scoring.PROFILES[0], 1.0)
        for name, values in corpus.values.items()
    }

    assert ours == pytest.approx({name: published[name] for name in ours}, abs=1e-9)


def test_windowed_gaussian_computed_again_gives_the_published_rows(nab: ModuleType) -> None:
    raw = read_raw(nab, "speed_7578")

    again = nab.windowed_gaussian(raw["value"].astype(float))

    np.testing.assert_allclose(again, raw["anomaly_score"].astype(float), atol=1e-11)


def test_published_raw_scores_normalise_to_the_published_final_scores(
    nab: ModuleType, scoring: ModuleType
) -> None:
    final = json.loads((nab.DATA / "reference" / "final_results.json").read_text())
    complete = {d: s for d, s in nab.published_scores().items() if len(s) == nab.CORPUS_FILES and d in final}

    ours = {d: scoring.normalised(sum(s.values()), 116, scoring.PROFILES[0]) for d, s in complete.items()}

    assert len(ours) >= 11
    assert ours == pytest.approx({d: final[d]["standard"] for d in ours}, abs=1e-4)


def test_the_sweep_finds_the_best_of_all_thresholds(scoring: ModuleType) -> None:
    rng = np.random.default_rng(0)
    labelled = {"a": scoring.Labelled(200, ((50, 70), (120, 140))), "b": scoring.Labelled(100, ((60, 65),))}
    scores = {name: rng.integers(0, 30, labels.n_rows).astype(float) for name, labels in labelled.items()}

    for profile in scoring.PROFILES:
        threshold, best = scoring.sweep_corpus(scores, labelled, profile).best
        tried = {
            t: sum(scoring.score_at(scores[n], labelled[n], profile, t) for n in scores)
            for t in [*range(30), float("inf")]
        }
        assert best == pytest.approx(max(tried.values()))
        assert tried[threshold] == pytest.approx(best)


def test_a_detector_that_never_fires_is_0_and_a_perfect_one_100(scoring: ModuleType) -> None:
    labelled = scoring.Labelled(400, ((100, 120), (300, 330)))
    perfect = np.zeros(400)
    perfect[[100, 300]] = 1.0

    for profile in scoring.PROFILES:
        assert scoring.normalised(
            scoring.score_at(perfect, labelled, profile, 1.0), 2, profile
        ) == pytest.approx(100)
        assert scoring.normalised(
            scoring.score_at(perfect, labelled, profile, 2.0), 2, profile
        ) == pytest.approx(0)


def test_detections_in_the_probation_count_for_nothing(scoring: ModuleType) -> None:
    labelled = scoring.Labelled(400, ((100, 120),))
    early = np.zeros(400)
    early[:60] = 1.0

    assert scoring.score_at(early, labelled, scoring.PROFILES[0], 1.0) == -1.0


@pytest.mark.large
@pytest.mark.parametrize(
    ("detector", "floor"), [("rolling_robust_z", 70.0), ("stl_residual", 55.0), ("spectral_residual", 35.0)]
)
def test_our_detectors_keep_their_score(
    nab: ModuleType, scoring: ModuleType, detector: str, floor: float
) -> None:
    corpus = nab.load_corpus()

    _, raw = scoring.sweep_corpus(
        nab.detector_scores(detector, corpus), corpus.labelled, scoring.PROFILES[0]
    ).best

    assert scoring.normalised(raw, corpus.n_windows, scoring.PROFILES[0]) >= floor

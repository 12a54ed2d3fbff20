"""Parameters of the detectors for tables. Light: callers validate with these before anything is queued."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

#: Files up to this many rows are known whole to the detectors that compare each row with the others.
EXACT_ROWS = 50_000
#: Scaling of the columns before distances are measured.
Scaling = Annotated[
    Literal["standard", "none"],
    Field(description="standard: each column to mean 0, deviation 1; none: the file's own units"),
]


class TabularParams(BaseModel):
    """What the parameters of every detector for tables have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class IsolationForestParams(TabularParams):
    """Of scikit-learn's forest."""

    n_estimators: int = Field(strict=True, default=100, ge=1, le=2_000, description="trees")
    max_samples: int = Field(
        strict=True, default=256, ge=2, le=100_000, description="rows that each tree is grown on"
    )
    max_features: float = Field(
        strict=True, default=1.0, gt=0.0, le=1.0, description="share of the columns each tree sees"
    )
    sample_rows: int = Field(
        strict=True,
        default=50_000,
        ge=256,
        le=1_000_000,
        description="rows of the seeded sample that the trees draw from",
    )


class EcodParams(TabularParams):
    """No parameters to choose."""


class HbosParams(TabularParams):
    """One histogram of equal bins a column."""

    n_bins: int = Field(strict=True, default=10, ge=2, le=1_000, description="bins a column")
    alpha: float = Field(
        strict=True,
        default=0.1,
        gt=0.0,
        lt=1.0,
        description="added to each density, so that empty bins have a logarithm",
    )
    tolerance: float = Field(
        strict=True,
        default=0.5,
        ge=0.0,
        le=1.0,
        description="how far outside the histogram, in bins, still counts as its edge",
    )
    scaling: Literal["standard", "none"] = Field(
        default="none",
        description="none: ranks as PyOD's HBOS; standard: densities per deviation, the same in any unit",
    )


class MahalanobisParams(TabularParams):
    """Distance from the mean in the units of the covariance."""

    rank_tolerance: float = Field(
        strict=True,
        default=1e-9,
        gt=0.0,
        lt=0.1,
        description="directions with less than this share of the largest variance are left out",
    )


class KnnParams(TabularParams):
    """Distance to the nearest rows."""

    n_neighbors: int = Field(strict=True, default=5, ge=1, le=500, description="rows looked at")
    method: Literal["largest", "mean", "median"] = Field(
        default="largest", description="which of their distances is the score"
    )
    scaling: Scaling = "standard"
    reference_rows: int = Field(
        strict=True,
        default=2_000,
        ge=100,
        le=EXACT_ROWS,
        description=f"rows of the seeded reference sample past {EXACT_ROWS:,} rows",
    )


class LofParams(TabularParams):
    """Density of a row relative to that of its neighbours."""

    n_neighbors: int = Field(strict=True, default=20, ge=1, le=500, description="rows looked at")
    scaling: Scaling = "standard"
    reference_rows: int = Field(
        strict=True,
        default=2_000,
        ge=100,
        le=EXACT_ROWS,
        description=f"rows of the seeded reference sample past {EXACT_ROWS:,} rows",
    )


class InneParams(TabularParams):
    """Isolation by nearest-neighbour hyperspheres."""

    n_estimators: int = Field(strict=True, default=200, ge=1, le=1_000, description="sets of spheres")
    max_samples: int = Field(strict=True, default=8, ge=2, le=256, description="spheres in a set")
    scaling: Scaling = "standard"


class McdParams(TabularParams):
    """Of scikit-learn's minimum covariance determinant."""

    support_fraction: float | None = Field(
        strict=True,
        default=None,
        gt=0.5,
        lt=1.0,
        description="share of rows taken as normal; null: (rows + columns + 1) / 2 rows",
    )
    sample_rows: int = Field(
        strict=True,
        default=10_000,
        ge=500,
        le=EXACT_ROWS,
        description="rows of the seeded sample that the covariance is fitted on",
    )


class OneClassSvmParams(TabularParams):
    """Of scikit-learn's one-class support vector machine."""

    kernel: Literal["rbf", "linear", "poly", "sigmoid"] = Field(
        default="rbf", description="similarity of two rows"
    )
    nu: float = Field(
        strict=True, default=0.5, gt=0.0, le=1.0, description="upper bound on the share of rows outside"
    )
    gamma: float | Literal["scale", "auto"] = Field(default="auto", description="inverse width of the kernel")
    scaling: Scaling = "standard"


PyodValue = bool | int | float | str | None


class PyodParams(TabularParams):
    """Handed to the PyOD class as they are; the class itself checks them."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, PyodValue]

"""Parameters of the time-series detectors. Light: callers validate with these before anything is queued."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: A series longer than this is refused by every series detector.
MAX_POINTS = 5_000_000


class SeriesParams(BaseModel):
    """What every series detector takes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    direction: Literal["both", "high", "low"] = Field(
        default="both", description="which departures count: above what was expected, below it, or both"
    )
    missing_score: float = Field(
        strict=True,
        default=0.0,
        ge=0.0,
        le=16.0,
        description="score of a missing value, in the unit of all scores; 0: never",
    )
    hold_off_points: int = Field(
        strict=True,
        default=20,
        ge=0,
        le=100_000,
        description="half-life in points of an event (score 2 or more) that hides smaller ones; 0: none is hidden",
    )


class RollingRobustZParams(SeriesParams):
    """Windows are counted in points that are present, not in time."""

    window_points: int = Field(
        strict=True,
        default=501,
        ge=15,
        le=20_001,
        description="points in the rolling median, the usual level (made odd)",
    )
    level_points: int = Field(
        strict=True,
        default=21,
        ge=0,
        le=2_001,
        description="points in the short median that takes over after a level shift (made odd); 0: none",
    )
    spread_points: int = Field(
        strict=True,
        default=3_001,
        ge=15,
        le=100_001,
        description="points that decide how large a robust sigma is",
    )
    calibration_points: int = Field(
        strict=True,
        default=10_000,
        ge=100,
        le=200_000,
        description="points that decide how rare a departure is",
    )
    watch: tuple[Literal["level", "change", "spread"], ...] = Field(
        default=("level", "change", "spread"),
        min_length=1,
        max_length=3,
        description="what is compared with the past; spread only when direction is both",
    )

    @model_validator(mode="after")
    def _windows_agree(self) -> RollingRobustZParams:
        if self.level_points >= self.window_points:
            raise ValueError(
                f"level_points ({self.level_points}) must be less than window_points ({self.window_points})"
            )
        if len(set(self.watch)) < len(self.watch):
            raise ValueError("watch names something twice; name each of level, change, spread at most once")
        if self.direction != "both" and set(self.watch) == {"spread"}:
            raise ValueError("watch: spread has no direction; set direction to both or watch level or change")
        return self


class StlResidualParams(SeriesParams):
    """The whole series is decomposed: a score may depend on later points."""

    period_points: int | None = Field(
        strict=True,
        default=None,
        ge=2,
        le=50_000,
        description="points in one season; null: found in the series",
    )
    seasonal_points: int = Field(
        strict=True,
        default=13,
        ge=7,
        le=201,
        description="seasons smoothed together (made odd); larger: steadier season",
    )
    robust: bool = Field(default=True, description="keep anomalies out of the fitted season and trend")


class SpectralResidualParams(SeriesParams):
    """After Ren et al. (2019); the window is what one Fourier transform sees."""

    window_points: int = Field(
        strict=True, default=1_440, ge=64, le=100_000, description="points in one transform"
    )
    spectrum_points: int = Field(
        strict=True,
        default=3,
        ge=3,
        le=101,
        description="frequencies averaged to make the expected spectrum (made odd)",
    )
    saliency_points: int = Field(
        strict=True,
        default=21,
        ge=3,
        le=1_001,
        description="preceding points that a point's saliency is compared with",
    )


#: Name -> (parameter model, one line for the catalogue).
SERIES_PARAMS: dict[str, tuple[type[SeriesParams], str]] = {
    "rolling_robust_z": (
        RollingRobustZParams,
        "Departure from a rolling median in robust sigmas, turned into a tail probability; looks back only",
    ),
    "stl_residual": (
        StlResidualParams,
        "Departure from season and trend (STL), turned into a tail probability; looks at the whole series",
    ),
    "spectral_residual": (
        SpectralResidualParams,
        "Saliency after removing the usual spectrum (Ren et al. 2019); looks at the whole series",
    ),
}

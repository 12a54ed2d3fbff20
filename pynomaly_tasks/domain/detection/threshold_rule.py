"""How the line between usual and anomalous is chosen. Light: callers validate with this."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_CONTAMINATION = 0.5
MAX_BUDGET = 10_000_000


class ThresholdRule(BaseModel):
    """A method and its number.

    contamination: the share of the rows to label, over 0 and at most 0.5; the labelled rows are those that
    score as high as the last of them, or higher. quantile: the same, said from below: 0.99 labels the top
    hundredth. level: a score; rows at or over it are labelled. budget: so many rows, the highest first; of
    equal scores the earlier row.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    method: Literal["contamination", "quantile", "level", "budget"] = Field(
        description="what the number means"
    )
    value: float = Field(strict=True, description="share, quantile, score or number of rows")

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        problem = None
        if self.method == "contamination" and not 0 < self.value <= MAX_CONTAMINATION:
            problem = f"a contamination is over 0 and at most {MAX_CONTAMINATION}"
        elif self.method == "quantile" and not 1 - MAX_CONTAMINATION <= self.value < 1:
            problem = f"a quantile is at least {1 - MAX_CONTAMINATION} and under 1"
        elif self.method == "budget" and not (
            1 <= self.value <= MAX_BUDGET and self.value == int(self.value)
        ):
            problem = f"a budget is a whole number of rows, 1 to {MAX_BUDGET:,}"
        if problem is not None:
            raise PydanticCustomError(
                "threshold_range", "{problem}, not {value}", {"problem": problem, "value": self.value}
            )
        return self

"""Profile a dataset: the request, and the job's work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from pynomaly_tasks.core.redact import mask_url
from pynomaly_tasks.core.work_events import MAX_COLUMNS, DatasetProfiled, result_path, short
from pynomaly_tasks.core.work_events import ProfiledColumn as ToldColumn
from pynomaly_tasks.jobs.context import JobContext, Outcome
from pynomaly_tasks.kinds.dataset_checks import check_profile
from pynomaly_tasks.kinds.dataset_facts import dataset_facts
from pynomaly_tasks.kinds.services import Services

if TYPE_CHECKING:
    from pynomaly_tasks.datasets import Dataset
    from pynomaly_tasks.domain.profiling import ProfiledColumn

ColumnName = Annotated[str, Field(min_length=1, max_length=1_000)]


class ProfileDatasetRequest(BaseModel):
    """Which data, and how much of its profile to show."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)
    POSITIONAL: ClassVar[tuple[str, ...]] = ("dataset",)

    dataset: str = Field(min_length=1, max_length=4_096, description="path or address of the data")
    columns: tuple[ColumnName, ...] | None = Field(
        default=None, min_length=1, max_length=2_000, description="columns to profile; null: all"
    )
    top_n_values: int = Field(
        strict=True, default=10, ge=1, le=100, description="most frequent values to list a column"
    )
    n_bins: int = Field(strict=True, default=20, ge=2, le=200, description="bars of a histogram")
    seed: int = Field(
        strict=True, default=0, ge=0, le=2**32 - 1, description="of the sample that long tables need"
    )

    @model_validator(mode="after")
    def _no_column_twice(self) -> Self:
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise PydanticCustomError("repeated_columns", "columns names a column twice")
        return self


class _CheckedTable:
    """The dataset as profiling asks for it; every question is a checkpoint of the job."""

    def __init__(self, dataset: Dataset, request: ProfileDatasetRequest, context: JobContext) -> None:
        from pynomaly_tasks.domain.profiling import ProfiledColumn

        known = {column.name: column for column in dataset.columns}
        chosen = known if request.columns is None else dataset.require(request.columns)
        self._dataset, self._seed, self._context = dataset, request.seed, context
        self.n_rows = dataset.n_rows
        self.columns: Sequence[ProfiledColumn] = [
            ProfiledColumn(name=known[name].name, kind=known[name].kind, type=known[name].type)
            for name in chosen
        ]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return self._dataset.query(sql, self._context.checkpoint)

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        for batch in self._dataset.batches(columns):
            self._context.checkpoint()
            yield batch

    def sample(self, n_rows: int, columns: Sequence[str]) -> Any:
        self._context.checkpoint()
        return self._dataset.sample(n_rows, self._seed, columns)


def check(request: ProfileDatasetRequest, datasets: Any) -> None:
    """What the caller can find wrong. Raises InvalidInput, SourceUnavailable."""
    check_profile(request, datasets)


def perform(context: JobContext, request: ProfileDatasetRequest, services: Services) -> Outcome:
    """Describe every column and how they go together; leaves profile.json."""
    import time

    import orjson

    from pynomaly_tasks.domain.detection.versions import versions
    from pynomaly_tasks.domain.profiling import ProfileOptions, build_profile

    started = time.perf_counter()
    context.progress(0, 1, "opening the dataset")
    with services.datasets.open(request.dataset, context.checkpoint) as dataset:
        opened = time.perf_counter()
        profile = build_profile(
            _CheckedTable(dataset, request, context),
            ProfileOptions(top_n_values=request.top_n_values, n_bins=request.n_bins),
            context.progress,
        )
        warnings = [*dataset.warnings, *profile.pop("warnings")]
        detail = {
            "dataset": dataset_facts(dataset),
            **profile,
            "timing_s": {
                "open": opened - started,
                "profile": time.perf_counter() - opened,
                "total": time.perf_counter() - started,
            },
            "versions": versions(),
            "warnings": warnings,
        }
    file = context.scratch / "profile.json"
    file.write_bytes(orjson.dumps(detail, option=orjson.OPT_INDENT_2))
    return Outcome(
        summary={"n_rows": detail["n_rows"], "n_columns": detail["n_columns"]},
        detail=detail,
        files={"profile.json": file},
        events=[_told(context.job_id, request.dataset, detail)],
    )


def _told(job_id: str, dataset: str, detail: Mapping[str, Any]) -> DatasetProfiled:
    facts = detail["dataset"]
    return DatasetProfiled(
        job_id=job_id,
        result=result_path(job_id),
        dataset=mask_url(dataset),
        format=facts["format"],
        size_bytes=facts["size_bytes"],
        n_rows=detail["n_rows"],
        n_columns=detail["n_columns"],
        n_duplicate_rows=detail["n_duplicate_rows"],
        columns=tuple(
            ToldColumn(
                name=short(column["name"]),
                type=short(column["type"]),
                kind=column["kind"],
                n_missing=column["n_missing"],
                n_distinct=column["n_distinct"],
            )
            for column in detail["columns"][:MAX_COLUMNS]
        ),
        n_warnings=len(detail["warnings"]),
    )

"""The OpenAPI description: with the requests of every kind of job, and problems as they really look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from pynomaly_tasks.jobs.context import Kind
from pynomaly_tasks.web.problems import Problem

_REF = "#/components/schemas/{model}"
_PROBLEM = {
    "description": "An error, as RFC 9457 problem details.",
    "content": {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}},
}
_FASTAPIS_OWN = ("HTTPValidationError", "ValidationError")


def describe(app: FastAPI, kinds: Mapping[str, Kind]) -> None:
    """Give ``app`` its description, made when it is first asked for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _description(app, kinds)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _description(app: FastAPI, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    description = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes, tags=app.openapi_tags
    )
    schemas = description["components"]["schemas"]
    for operations in description["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = _PROBLEM
    for name in _FASTAPIS_OWN:
        schemas.pop(name, None)
    _add(schemas, Problem.model_json_schema(ref_template=_REF))
    requests = [kind.request_model.model_json_schema(ref_template=_REF) for kind in kinds.values()]
    for request in requests:
        _add(schemas, request)
    request = schemas["SubmitJob"]["properties"]["request"]
    request["anyOf"] = [{"$ref": _REF.format(model=one["title"])} for one in requests]
    request["description"] = "What the kind of job takes."
    return description


def _add(schemas: dict[str, Any], schema: dict[str, Any]) -> None:
    """Put a model and those it refers to among the components."""
    schemas.update(schema.pop("$defs", {}))
    schemas[schema["title"]] = schema

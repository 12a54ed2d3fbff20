"""The web application: JSON interface, pages and live updates over one platform."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from pynomaly_tasks.bootstrap import Platform
from pynomaly_tasks.errors import Unavailable
from pynomaly_tasks.realtime.hub import StreamHub
from pynomaly_tasks.telemetry import get_logger
from pynomaly_tasks.web import browse, datasets, detectors, health, jobs, live, results, websocket
from pynomaly_tasks.web.auth import Gatekeeper, build_login_router
from pynomaly_tasks.web.describe import describe
from pynomaly_tasks.web.door import Door, DoorRules
from pynomaly_tasks.web.problems import add_problem_handlers
from pynomaly_tasks.web.snapshots import Snapshots
from pynomaly_tasks.web.templates import STATIC
from pynomaly_tasks.web.uploads import remove_abandoned

log = get_logger(__name__)

_MIB = 1024 * 1024
_FORM_OVERHEAD_BYTES = 64 * 1024
_ABANDONED_AFTER_S = 24 * 3600.0
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def create_app(platform: Platform) -> FastAPI:
    """The application over this platform, which it does not close."""
    settings = platform.settings
    api_key = settings.web.api_key.get_secret_value() if settings.web.api_key else None
    hub = StreamHub(
        settings.redis.streams(),
        max_waiting=settings.live.max_waiting,
        max_clients=settings.live.max_clients,
        history_length=settings.live.stream_length,
    )
    gatekeeper = Gatekeeper(api_key)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        remove_abandoned(settings.uploads_directory(), time.time() - _ABANDONED_AFTER_S)
        await run_in_threadpool(_open_store, platform)
        await hub.start()
        yield
        await hub.stop()

    app = FastAPI(
        title="Pynomaly",
        summary="Anomaly detection jobs: submit, watch, read the result.",
        version="1",
        lifespan=lifespan,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.platform = platform
    app.state.hub = hub
    app.state.gatekeeper = gatekeeper
    app.state.snapshots = Snapshots(platform)
    for module in (jobs, results, datasets, detectors, live, websocket, health, browse):
        app.include_router(module.router)
    app.include_router(build_login_router(gatekeeper))
    app.mount("/static", _Static(directory=STATIC), name="static")
    add_problem_handlers(app)
    describe(app, platform.kinds)
    rules = DoorRules(
        allowed_hosts=None if gatekeeper.asks_for_key else _LOOPBACK | {settings.web.host},
        max_body_bytes=settings.jobs.max_request_kb * 1024,
        max_upload_bytes=settings.data.max_upload_mb * _MIB + _FORM_OVERHEAD_BYTES,
        upload_path=datasets.UPLOAD_PATH,
        live_paths=live.PATHS,
        allowed_origins=frozenset(settings.live.allowed_origins),
    )
    app.add_middleware(Door, rules=rules, gatekeeper=gatekeeper)
    return app


def _open_store(platform: Platform) -> None:
    """Make its tables now, so that the first visitor need not wait; when it is down, serve and say so."""
    try:
        platform.store.list_jobs(limit=1)
    except Unavailable as error:
        log.warning("store_unavailable", error=str(error))


class _Static(StaticFiles):
    """Static files, kept by the browser: their address changes with them."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "public, max-age=86400"
        return response

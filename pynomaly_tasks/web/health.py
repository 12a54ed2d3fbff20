"""Whether this process lives, and whether its neighbours answer."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from pynomaly_tasks.errors import Unavailable
from pynomaly_tasks.web.problems import RETRY_AFTER_S
from pynomaly_tasks.web.requests import HubDep, PlatformDep

router = APIRouter(tags=["health"])

Answer = Literal["ok", "unavailable"]


class Liveness(BaseModel):
    """This process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Who answers."""

    status: Answer
    store: Answer
    broker: Answer


@router.get("/healthz")
async def get_liveness() -> Liveness:
    """200 as long as the process answers."""
    return Liveness()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "A neighbour does not answer."}})
async def get_readiness(platform: PlatformDep, hub: HubDep, response: Response) -> Readiness:
    """200 when the store and Redis answer; 503 with the one that does not."""
    broker: Answer = "ok" if await hub.is_reachable() else "unavailable"
    store = await run_in_threadpool(_store_answer, platform)
    status: Answer = "ok" if broker == store == "ok" else "unavailable"
    if status != "ok":
        response.status_code = 503
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return Readiness(status=status, store=store, broker=broker)


def _store_answer(platform: PlatformDep) -> Answer:
    try:
        platform.store.list_jobs(limit=1)
    except Unavailable:
        return "unavailable"
    return "ok"

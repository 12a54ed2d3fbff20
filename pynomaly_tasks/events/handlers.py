"""Functions of your own that are called for events, in groups of your own."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeVar

from pynomaly_tasks.core.event import Event
from pynomaly_tasks.core.event_data import EventData
from pynomaly_tasks.errors import FieldProblem, InvalidInput, NotFound
from pynomaly_tasks.events.catalog import CATALOG, Catalog, parse
from pynomaly_tasks.events.effect import Inbox, inbox_key
from pynomaly_tasks.events.threads import in_thread

F = TypeVar("F", bound=Callable[..., Any])

#: What is called: with the event's envelope, and its data as the class of its type.
HandlerFunction = Callable[[Event, Any], Awaitable[None] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """One function of a group."""

    group: str
    patterns: tuple[str, ...]
    function: HandlerFunction
    timeout_s: float | None  #: None: the setting ``events.handler_timeout_s``

    @property
    def name(self) -> str:
        """As it is told apart from the group's others; part of what the inbox keeps."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    def wants(self, event_type: str) -> bool:
        """Whether events of the type are handed to it."""
        return matches(event_type, self.patterns)


class Handlers:
    """Handlers by group."""

    def __init__(self) -> None:
        self._by_group: dict[str, list[Handler]] = {}

    def add(self, handler: Handler) -> None:
        """Know one more; a function of that name that was there is replaced, as when a module is reloaded."""
        known = self._by_group.setdefault(handler.group, [])
        known[:] = [one for one in known if one.name != handler.name] + [handler]

    def of(self, group: str) -> tuple[Handler, ...]:
        """The group's handlers, in the order in which they were added. Raises NotFound."""
        found = tuple(self._by_group.get(group, ()))
        if not found:
            known = ", ".join(sorted(self._by_group)) or "none"
            raise NotFound(
                f"no handler is registered for the group {group}; registered: {known}. Import the module "
                f'that holds @on_event(..., group="{group}")'
            )
        return found

    def groups(self) -> tuple[str, ...]:
        """Groups that have a handler."""
        return tuple(sorted(self._by_group))


#: This process's.
HANDLERS = Handlers()


def matches(event_type: str, patterns: Sequence[str]) -> bool:
    """Whether a type fits one of the patterns, in which ``*`` stands for anything.

    >>> matches("job.completed", ["job.*"]), matches("job.completed", ["audit.*", "job.failed"])
    (True, False)
    """
    return any(fnmatchcase(event_type, pattern) for pattern in patterns)


def on_event(
    *patterns: str, group: str, timeout_s: float | None = None, handlers: Handlers = HANDLERS
) -> Callable[[F], F]:
    """Call the function for each event whose type fits a pattern, such as ``job.completed`` or ``job.*``.

    It is called with the event and with its data as the class of its type, in the order of the
    event's key, and may be plain (it then runs in a thread) or async. What it raises is tried
    again; an error whose ``retryable`` is true for as long as it takes. The groups of a process are
    run by ``pynomaly events consume``. Raises InvalidInput.
    """
    problems = []
    if not patterns or not all(patterns):
        problems.append(
            FieldProblem(field="patterns", message="name at least one type, such as job.completed")
        )
    if not group or len(group) > 100 or not group.replace("-", "").replace("_", "").isalnum():
        problems.append(
            FieldProblem(field="group", message="1 to 100 letters, digits, - and _ are needed for its name")
        )
    if timeout_s is not None and not timeout_s > 0:
        problems.append(FieldProblem(field="timeout_s", message=f"is {timeout_s:g}; it must be above 0"))
    if problems:
        raise InvalidInput(*problems)

    def register(function: F) -> F:
        handlers.add(Handler(group=group, patterns=patterns, function=function, timeout_s=timeout_s))
        return function

    return register


def topics_of(handlers: Sequence[Handler], catalog: Catalog = CATALOG) -> tuple[str, ...]:
    """The topics that hold what these want. Raises InvalidInput for a pattern that no known type fits."""
    topics = set()
    for handler in handlers:
        for pattern in handler.patterns:
            found = {one.topic for one in catalog if matches(one.type, [pattern])}
            if not found:
                raise InvalidInput.of(
                    "patterns",
                    f"{handler.name} asks for {pattern}, and no type of the catalogue fits; "
                    "`pynomaly events list` shows them",
                )
            topics |= found
    return tuple(sorted(topics))


class HandlerEffect:
    """What a group of handlers does about an event: calls those that want it, each once.

    The inbox is told after the call. A process that is killed between the two leaves an event whose
    handler is called again: what that must not repeat, it tells by ``event.id``.
    """

    batch_size = 1

    def __init__(
        self,
        handlers: Sequence[Handler],
        inbox: Inbox,
        *,
        timeout_s: float,
        own_source: str = "",
        catalog: Catalog = CATALOG,
    ) -> None:
        """``timeout_s`` of one call, where a handler names no other."""
        self._handlers = tuple(handlers)
        self._inbox = inbox
        self._timeout_s = timeout_s
        self._own_source = own_source
        self._catalog = catalog

    async def apply(self, events: Sequence[Event], *, replay_id: str | None = None) -> int:
        """See `Effect.apply`."""
        n_new = 0
        for event in events:
            n_new += await self._apply(event, replay_id)
        return n_new

    async def close(self) -> None:
        """Nothing is held."""

    async def _apply(self, event: Event, replay_id: str | None) -> bool:
        wanting = [handler for handler in self._handlers if handler.wants(event.type)]
        if not wanting:
            return False
        group = wanting[0].group
        # Of several handlers, those that were done are not called again when another one failed.
        keys = {handler: inbox_key(event, self._own_source, replay_id, handler.name) for handler in wanting}
        missing = await in_thread(partial(self._inbox.missing, group, list(keys.values())))
        data = parse(event, self._catalog)
        for handler in wanting:
            if keys[handler] in missing:
                await self._call(handler, event, data)
                await in_thread(partial(self._inbox.mark, group, [keys[handler]]))
        return bool(missing)

    async def _call(self, handler: Handler, event: Event, data: EventData) -> None:
        timeout_s = handler.timeout_s or self._timeout_s
        function = handler.function
        if inspect.iscoroutinefunction(function):
            running = function(event, data)
        else:
            running = _in_thread(function, event, data)
        try:
            await asyncio.wait_for(running, timeout_s)
        except TimeoutError as error:
            raise HandlerTimedOut(f"{handler.name} took longer than {timeout_s:g} s") from error


class HandlerTimedOut(Exception):
    """A handler did not return in time. A plain one runs on in its thread: nothing can end that."""


async def _in_thread(function: HandlerFunction, event: Event, data: EventData) -> None:
    """Call it in a thread that the process does not wait for at its end, as it would for a pool's."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[None] = loop.create_future()

    def tell(error: BaseException | None) -> None:
        if answer.done():
            return  # it timed out
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    def call() -> None:
        error: BaseException | None = None
        try:
            context.run(function, event, data)
        except Exception as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(tell, error)
        except RuntimeError:
            return  # the process is ending, and its loop is closed

    context = contextvars.copy_context()
    threading.Thread(target=call, name="event handler", daemon=True).start()
    await answer

"""The calls of one task: Celery's message is the same for all but for id and arguments, so it is made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any, Self

from celery import signals
from celery._state import _task_stack, get_current_worker_task
from celery.app import base, task
from celery.app.routes import MapRoute
from kombu import messaging
from kombu.exceptions import OperationalError

from pynomaly_tasks.transport import publishing
from pynomaly_tasks.transport.amqp import AMQP, Producer, origin
from pynomaly_tasks.transport.channel import Reserving
from pynomaly_tasks.transport.encoding import encode

#: Who listens to one of these wants to see each call.
_BEFORE, _AFTER, _SENT = signals.before_task_publish, signals.after_task_publish, signals.task_sent
#: Settings that Celery looks at on each call.
_SETTINGS = ("task_always_eager", "task_send_sent_event", "task_protocol", "task_default_queue")
#: Of the result backends that need no producer to hear of a call.
_BACKENDS = frozenset({"celery.backends.base", "celery.backends.redis"})
#: By thread; empty where no task runs in this process, which is seen in a tenth of the time.
_RUNNING = getattr(getattr(_task_stack, "_local", None), "__storage__", True)


def are_alike(of: Any) -> bool:
    """Whether Celery would do nothing for a call of this task but to publish a message like all others.

    Looks at everything, once; `Calls.hold` looks at what may change while the program runs.
    """
    # A task that was not used yet stands behind a proxy, which only tells the class.
    app, of_type = of.app, of.__class__
    return (
        isinstance(app.amqp, AMQP)
        and app.conf.task_protocol == 2
        and of_type.shadow_name is task.Task.shadow_name
        and of._dump_pydantic_arguments is None
        and not (app.conf.task_always_eager or app.conf.task_send_sent_event or _is_watched())
        and all(isinstance(route, MapRoute) for route in app.amqp.routes)
        and type(of.backend).on_task_call.__module__ in _BACKENDS
        # Tracing libraries put functions of their own in the place of these.
        and _is_of(base, getattr(app.send_task, "__func__", None))
        and _is_of(task, task.Task.apply_async)
        and _is_of(messaging, messaging.Producer.publish)
    )


def _is_watched() -> bool:
    return bool(
        _BEFORE.receivers or _AFTER.receivers or _SENT.receivers or (_RUNNING and get_current_worker_task())
    )


def _is_of(module: Any, function: Any) -> bool:
    return isinstance(function, FunctionType) and function.__code__.co_filename == module.__file__


class _Recorder(Producer):
    """Keeps what Celery would publish."""

    body: Any = None
    options: Mapping[str, Any]

    def publish(self, body: Any, routing_key: str | None = None, *args: Any, **options: Any) -> None:
        self.body, self.options = body, dict(options, routing_key=routing_key)


class Calls:
    """What Celery made of one call; from it, all others that say the same but for id and arguments."""

    def __init__(self, of: Any, producer: Producer, options: Mapping[str, Any], embed: Any) -> None:
        self._task = of
        self._app = app = of.app
        self._check = getattr(of, "__header__", None) if of.typing else None
        self._describe = app.amqp.describe
        self._options = options
        self._headers: dict[str, Any] = options["headers"]
        self._embed = embed
        self._is_short = producer.is_short(options)
        self._properties = producer.properties(options) if self._is_short else {}
        #: That the last call went through, and whose it is.
        self._channel: Any = None
        self._pool: Any = None
        # What `hold` looks at. Settings change in the first of their maps, or in an object such as Django's.
        self._conf = conf = app.conf
        self._n_maps = len(conf.maps)
        maps = [each for each in conf.maps if each is conf.changes or not isinstance(each, dict)]
        self._settings = [
            (each.get, key) for each in maps for setting in _SETTINGS for key in conf._to_keys(setting)
        ]
        self._values = [get(key) for get, key in self._settings]
        # kombu's properties take a lock each time; this is where they keep what they found.
        self._amqp, self._parts = app.amqp, app.amqp.__dict__
        self._router = app.amqp.router
        self._exec_options = of._exec_options
        self._ignore_result = of.ignore_result
        self._functions = (app.send_task.__func__, task.Task.apply_async)

    @classmethod
    def record(
        cls,
        of: Any,
        producer: Producer,
        task_id: str | None,
        args: Any,
        kwargs: Any,
        options: Mapping[str, Any],
    ) -> tuple[Self, Any]:
        """Make the first call Celery's way. Returns its result, too. Raises what `apply_async` raises."""
        recorder = _Recorder(producer.connection, auto_declare=False)
        result = task.Task.apply_async(of, args, kwargs, task_id, recorder, **options)
        with producer.connection._reraise_as_library_errors():
            producer.publish(recorder.body, **recorder.options)
        return cls(of, producer, recorder.options, recorder.body[2]), result

    @property
    def are_timed(self) -> bool:
        """Whether a call says when: a moment that is later for the next one."""
        return self._headers["eta"] is not None or self._headers["expires"] is not None

    def hold(self) -> bool:
        """Whether Celery would make the same of a call now."""
        app, of = self._app, self._task
        return not (
            _is_watched()
            or app.__dict__.get("amqp") is not self._amqp
            or self._parts.get("router") is not self._router
            or of._exec_options is not self._exec_options
            or of.ignore_result != self._ignore_result
            or (getattr(app.send_task, "__func__", None), task.Task.apply_async) != self._functions
            or app._conf is not self._conf
            or len(self._conf.maps) != self._n_maps
            or [get(key) for get, key in self._settings] != self._values
        )

    def send(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Publish a call. Raises what `apply_async` raises.

        Goes through the channel of the last one, whoever else uses it: a publish has a Redis connection of
        its own. What fails there is tried by the pool's next producer, as the retry policy says.
        """
        headers = self._head(None, task_id, args, kwargs)
        channel, failed = self._channel, {}
        if channel is not None and not channel.closed and self._pool is self._parts["_producer_pool"]:
            properties = dict(self._properties, correlation_id=task_id, reply_to=self._app.thread_oid)
            try:
                body = encode((args, kwargs, self._embed))
                queue, priority = self._options["routing_key"], self._options.get("priority")
                channel.put_json(queue, body, headers, properties, priority)
                return
            except Exception as error:
                self._channel = None
                if not self._options["retry"] and isinstance(error, channel.connection_errors):
                    raise OperationalError(str(error)) from error
                if publishing.FAILED in properties:
                    # Its number, by which the transport knows the next try as the same.
                    failed = {publishing.FAILED: properties[publishing.FAILED]}
        with self._app.producer_or_acquire() as producer:
            self._publish(producer, headers, args, kwargs, failed)
            if self._is_short and isinstance(producer.channel, Reserving):
                self._pool, self._channel = self._parts["_producer_pool"], producer.channel

    def publish(
        self, producer: Producer, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """Publish a call with this producer, in its batch if it has one. Raises what `apply_async` raises."""
        self._publish(producer, self._head(producer, task_id, args, kwargs), args, kwargs, {})

    def result(self, task_id: str) -> Any:
        """Of a call that was published."""
        result = self._task.AsyncResult(task_id)
        result.ignored = self._headers["ignore_result"]
        return result

    def _head(self, producer: Any, task_id: str, args: Any, kwargs: Any) -> dict[str, Any]:
        if self._check is not None:
            self._check(*args, **kwargs)
        if not self._headers["ignore_result"]:
            self._task.backend.on_task_call(producer, task_id)
        argsrepr, kwargsrepr = self._describe(args, kwargs)
        return dict(
            self._headers, id=task_id, root_id=task_id, argsrepr=argsrepr, kwargsrepr=kwargsrepr,
            origin=origin.name(),
        )  # fmt: skip

    def _publish(
        self, producer: Producer, headers: dict[str, Any], args: Any, kwargs: Any, more: Mapping[str, Any]
    ) -> None:
        options = dict(
            self._options,
            headers=headers,
            correlation_id=headers["id"],
            reply_to=self._app.thread_oid,
            **more,
        )
        with producer.connection._reraise_as_library_errors():
            producer.publish((args, kwargs, self._embed), **options)

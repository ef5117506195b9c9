"""Compressed messages and results are never unpacked: a small one may unpack to any size.

kombu unpacks the body of each message as soon as it has arrived, without a bound, whatever the
transport and whoever receives it: consumers of tasks, of remote control and of events. Celery does
the same with results that say that they are compressed.
"""

from collections.abc import Callable
from typing import Any, NoReturn

from celery.app.amqp import AMQP
from kombu import compression
from kombu.exceptions import DecodeError, EncodeError

COMPRESSED = "it is compressed, which Celeriac's workers don't take"
"""Why a message is dropped that says in its headers that it is compressed."""


def unpack_nothing() -> None:
    """Have kombu refuse, in the whole process, to unpack anything; harmless to repeat.

    Here and not in the transports: all of them, and Celery's result backends, come by this one
    function, and so do methods that are registered later.
    """
    compression.get_decoder = _refuse


def _refuse(_method: object) -> NoReturn:
    raise DecodeError(COMPRESSED)


class UncompressedAMQP(AMQP):
    """Refuses to publish compressed tasks, which no worker would take."""

    def _create_task_sender(self) -> Callable[..., Any]:
        send = super()._create_task_sender()

        def send_task_message(
            producer: Any, name: str, message: Any, *args: Any, **options: Any
        ) -> Any:
            method = options.get("compression") or self.app.conf.task_compression
            if method:
                raise EncodeError(
                    f"The task {name} asks for the compression {method!r}, and workers take no"
                    " compressed messages: remove it from the task, its options and the settings."
                )
            return send(producer, name, message, *args, **options)

        return send_task_message

"""Compressed messages and results are refused: a small one may decompress to any size.

kombu decompresses the body of each message on arrival, without a limit, with every transport and
for every consumer: of tasks, of remote control and of events. Celery does so with results.
"""

from collections.abc import Callable
from typing import Any, NoReturn

from celery.app.amqp import AMQP
from kombu import compression
from kombu.exceptions import DecodeError, EncodeError

COMPRESSED = "it is compressed, which Celeriac's workers refuse"
"""The reason for dropping a message whose headers say that it is compressed."""


def refuse_compression() -> None:
    """Make kombu refuse all decompression in this process; idempotent.

    Replaces the function that all transports and Celery's result backends use, also for methods
    that are registered later.
    """
    compression.get_decoder = _refuse


def _refuse(_method: object) -> NoReturn:
    raise DecodeError(COMPRESSED)


class UncompressedAMQP(AMQP):
    """Refuses to publish compressed tasks, which workers refuse."""

    def _create_task_sender(self) -> Callable[..., Any]:
        send = super()._create_task_sender()

        def send_task_message(
            producer: Any, name: str, message: Any, *args: Any, **options: Any
        ) -> Any:
            method = options.get("compression") or self.app.conf.task_compression
            if method:
                raise EncodeError(
                    f"The task {name} asks for the compression {method!r}, and workers refuse"
                    " compressed messages: remove it from the task, its options and the settings."
                )
            return send(producer, name, message, *args, **options)

        return send_task_message

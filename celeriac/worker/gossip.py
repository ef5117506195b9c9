"""Celery's gossip between workers, without the messages that would end the worker."""

from typing import Any

import structlog
from celery.worker.consumer.gossip import Gossip as CeleryGossip

logger = structlog.get_logger(__name__)


class Gossip(CeleryGossip):
    """Skips events of workers that can't be read. Anyone who reaches the broker can send some."""

    def get_consumers(self, channel: Any) -> list[Any]:
        """Return Celery's consumers; they skip a message that can't be decoded."""
        consumers: list[Any] = super().get_consumers(channel)
        for consumer in consumers:
            consumer.on_decode_error = self._skip
        return consumers

    def on_message(self, prepare: Any, message: Any) -> None:
        """Handle one event; whatever is wrong with it is logged."""
        try:
            super().on_message(prepare, message)
        except Exception as error:  # noqa: BLE001 - an event is a hint: none may end the consumer
            self._skip(message, error)

    def _skip(self, message: Any, error: Exception) -> None:
        key = (message.delivery_info or {}).get("routing_key")
        logger.warning("gossip.skipped", routing_key=key, error=f"{type(error).__name__}: {error}")

"""A cache that is limited by the total weight of its values."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class WeighedCache(Generic[Key, Value]):
    """Keeps the most recently used values, up to a total weight. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._held: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key, make: Callable[[], Value], weight: int) -> Value:
        """Return the value of `key`, made by `make` if it is missing. Raises what `make` raises.

        Two concurrent threads may make the same value twice.
        """
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
                return found[0]
        value = make()
        with self._lock:
            if key not in self._held:
                self._held[key] = (value, weight)
                self._left -= weight
            value = self._held[key][0]
            while self._left < 0 and self._held:
                _, (_, lighter) = self._held.popitem(last=False)
                self._left += lighter
        return value

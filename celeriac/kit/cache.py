"""A cache that is bounded by the weight of what it holds, not by the number."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class WeighedCache(Generic[Key, Value]):
    """Keeps what was used last, up to a total weight. Safe to share between threads."""

    def __init__(self, most: int) -> None:
        """Hold values of a total weight of `most` at most."""
        self._left = most
        self._held: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key, make: Callable[[], Value], weight: int) -> Value:
        """Return the value of `key`, made where it isn't held; raises what `make` raises.

        Two threads that ask for the same key at once may make it twice.
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

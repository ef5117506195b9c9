"""Ids as people type them, resolved without a server."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from celeriac.cli.core.ids import SEARCHED, IdOf

PARENT = UUID(int=1)


class Runs:
    """One run, and more runs of its items than are searched."""

    def list(self, *, top_level: bool = False) -> Iterator[Any]:
        """Yield the newest first."""
        if not top_level:
            yield from (SimpleNamespace(id=UUID(int=n + 2)) for n in range(SEARCHED + 1))
        yield SimpleNamespace(id=PARENT)


def test_last_is_the_newest_run_without_a_parent_however_many_are_below_it() -> None:
    client: Any = SimpleNamespace(workflow_runs=Runs())
    mark = IdOf("workflow_runs", "a run of a workflow", nested=True)
    assert mark.resolve(client, "last") == str(PARENT)


def test_a_name_that_looks_like_the_beginning_of_an_id_is_found() -> None:
    named = SimpleNamespace(id=UUID(int=2), name="facade")
    client: Any = SimpleNamespace(hooks=SimpleNamespace(list=lambda: iter([named])))
    mark = IdOf("hooks", "a hook", named=True)
    assert mark.resolve(client, "facade") == mark.resolve(client, "000002") == str(named.id)

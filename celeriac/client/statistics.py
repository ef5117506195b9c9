"""Statistics of executions."""

from celeriac import wire
from celeriac.client.transport import Resource, given, path


class Statistics(Resource):
    """`client.statistics`: rates, success and durations of what ended."""

    def get(
        self, *, window_seconds: int = 3_600, top: int = 10, all_workspaces: bool = False
    ) -> wire.Statistics:
        """Return what ended in the last `window_seconds`, with the `top` tasks and queues.

        Administrators can sum up all workspaces.
        """
        wanted = given(
            window_seconds=window_seconds, top=top, all_workspaces=all_workspaces or None
        )
        return self._transport.get(wire.Statistics, path("stats"), wanted)

"""The supervisor's terminal in the demo: its own words, none of the processes' many."""

from celeriac.embedded.output import Terminal


class QuietTerminal(Terminal):
    """Shows what the supervisor says; what the processes write is in their logs."""

    def show(self, name: str, line: str) -> None:
        """Show nothing of a process."""

    def say(self, line: str) -> None:
        """Show a line of the supervisor's."""
        super().show("system", line)

"""What `celeriac up` shows: every process's lines, each with its name before it."""

from itertools import cycle

from rich.console import Console
from rich.text import Text

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green")
_OWN_NAME = "up"
_NAME_WIDTH = 9


class Terminal:
    """Writes lines prefixed by the name of where they come from, in a colour of its own.

    Colours are shown where the console is a terminal that wants them (rich decides).
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._fresh_colours = cycle(_COLOURS)
        self._styles = {_OWN_NAME: "bold"}
        self._gone = False

    def show(self, name: str, line: str) -> None:
        """Show one line that the process `name` has written.

        Once the terminal has gone (closed, broken pipe), nothing more is shown: the processes
        must be stopped in order all the same, and their logs are in files.
        """
        if self._gone:
            return
        if name not in self._styles:
            self._styles[name] = next(self._fresh_colours)
        prefix = Text(f"{name:<{_NAME_WIDTH}}│ ", style=self._styles[name])
        try:
            self._console.print(prefix + Text.from_ansi(line), soft_wrap=True)
        except OSError:
            self._gone = True

    def say(self, line: str) -> None:
        """Show one line of the supervisor's own."""
        self.show(_OWN_NAME, line)

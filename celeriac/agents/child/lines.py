"""Text lines out of a stream of bytes that may hold anything."""

MAX_LINE = 8_192


class LineSplitter:
    """Cuts bytes into lines; a line of more than `MAX_LINE` bytes comes in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        """Return the lines that `chunk` completes, decoded, without empty ones."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        while len(self._rest) > MAX_LINE:
            lines.append(self._rest[:MAX_LINE])
            self._rest = self._rest[MAX_LINE:]
        return [text for line in lines for text in _pieces(line)]

    def rest(self) -> list[str]:
        """Return the last, unfinished line."""
        line, self._rest = self._rest, b""
        return list(_pieces(line))


def _pieces(line: bytes) -> list[str]:
    line = line.rstrip(b"\r")
    return [
        line[start : start + MAX_LINE].decode(errors="backslashreplace").replace("\0", "\\x00")
        for start in range(0, len(line), MAX_LINE)
    ]

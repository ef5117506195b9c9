"""Reading what a test made the logs write."""

import json
from pathlib import Path
from typing import Any


def json_lines(source: Path | str) -> list[dict[str, Any]]:
    """Return the objects of a file, or of captured output, of JSON lines."""
    text = source.read_text() if isinstance(source, Path) else source
    return [json.loads(line) for line in text.splitlines()]

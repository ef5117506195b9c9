"""Fingerprints of failures: the same for failures that most likely have the same cause.

The first of these that a failure has decides (docs/failures.md):

1. the `fingerprint` in the details of its error, which its author chose;
2. a code of its own, with the provider where one is named: `provider_rate_limited`;
3. the class of the innermost cause, and the functions of the author's own code in its traceback;
4. the class, and the first line of the message without what differs from one run to the next.

Nothing depends on ids, numbers or line numbers. A fingerprint begins with the version of these
rules; those of another version are other groups.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

from celeriac.domain.errors import ExecutionError, PermanentError
from celeriac.kit.json_types import JsonObject

VERSION: Final = "1"

_GENERIC_CODES = frozenset({ExecutionError.code, PermanentError.code})
"""The codes of any exception; all others say what has failed."""

_UNNAMED = re.compile(r"[^\w.-]")

_LONGEST_LINE = 200
_LONGEST_NAME = 200
_MOST_FRAMES = 50
_HASH_BYTES = 8


def fingerprint(code: str, message: str, details: JsonObject) -> str:
    """Return the fingerprint of a failure, such as `1:provider_refused:openai`.

    `details` are those of `Failure`: `type`, `traceback`, and what the error's author has added.
    Without a chosen one or a code it ends with a hash of 16 hexadecimal digits.
    """
    chosen = details.get("fingerprint")
    if isinstance(chosen, str) and chosen.strip():
        return _hashed("chosen", chosen.strip()[:_LONGEST_NAME])
    if code not in _GENERIC_CODES:
        provider = details.get("provider")
        name = _UNNAMED.sub("", provider)[:_LONGEST_NAME] if isinstance(provider, str) else ""
        return of_code(f"{code}:{name}" if name else code)
    kind = details.get("type")
    kind = kind if isinstance(kind, str) else ""
    traceback = details.get("traceback")
    cause = _cause(traceback) if isinstance(traceback, str) else None
    if cause is not None:
        return _hashed("frames", kind, *cause)
    return _hashed("message", kind, normalised_line(message))


def of_code(code: str) -> str:
    """Return the fingerprint of failures with a code of their own; also made by statements."""
    return f"{VERSION}:{code}"


def normalised_line(message: str) -> str:
    """Return the first line of a message, at most 200 characters, with marks for what varies."""
    # cut first, so that the work is bounded; what is longer is cut again
    return _normalised(first_line(message)[: 4 * _LONGEST_LINE])[:_LONGEST_LINE]


def first_line(message: str) -> str:
    """Return the first line of a message that is not empty."""
    lines = message.strip().splitlines()
    return lines[0].strip() if lines else ""


_VARYING = tuple(
    (mark, re.compile(pattern, re.IGNORECASE))
    for mark, pattern in (
        ("<url>", r"\b[a-z][a-z0-9+.-]{1,20}://[^\s'\"<>]+"),
        ("<email>", r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"),
        ("<id>", r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"),
        ("<time>", r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"),
        ("<text>", r"'[^']*'|\"[^\"]*\"|`[^`]*`|“[^”]*”"),
        ("<host>", r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"),
        ("<hex>", r"\b0x[0-9a-f]+\b|\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{6,}\b"),
        # names of hosts, files and classes keep their shape: v2 and utf8 are no numbers
        ("<n>", r"(?<![A-Za-z_])[+-]?\d+(?:[.,:]\d+)*"),
    )
)


def _normalised(text: str) -> str:
    for mark, pattern in _VARYING:
        text = pattern.sub(mark, text)
    return " ".join(text.split())


_FRAME = re.compile(r'File "(?P<file>[^"]+)", line \d+, in (?P<function>\S+)')
_CAUSED = "The above exception was the direct cause of the following exception:"
_MEANWHILE = "During handling of the above exception, another exception occurred:"
_TYPE = re.compile(r"^(?: *\| )?(?P<type>[A-Za-z_][\w.]*)(?::|$)", re.MULTILINE)
"""The line of an exception; in a group of exceptions it is behind a bar."""

_OWN_PACKAGE = f"{PurePath(__file__).parents[1].as_posix()}/"
_OTHERS = re.compile(r"/(?:site|dist)-packages/|/lib/python\d|^<")
"""Files of packages, of Python itself, and what is in no file."""


def _cause(traceback: str) -> tuple[str, ...] | None:
    """Return the class and the own functions of the innermost cause that has any, or None.

    What was raised while another exception was handled is not caused by that one.
    """
    *_, last = traceback.split(_MEANWHILE)
    for block in last.split(_CAUSED):
        frames = list(_FRAME.finditer(block))
        functions = _own_functions(frames)
        if functions:
            kind = _TYPE.search(block, frames[-1].end())
            return (kind["type"] if kind else "", *functions)
    return None


def _own_functions(frames: Sequence[re.Match[str]]) -> list[str]:
    """Return `module.function` of each frame that is no package's; of a recursion each once."""
    placed = ((each["file"].replace("\\", "/"), each["function"]) for each in frames)
    found = dict.fromkeys(f"{_module(file)}.{name}" for file, name in placed if _is_own(file))
    return list(found)[-_MOST_FRAMES:]


def _is_own(file: str) -> bool:
    return not file.startswith(_OWN_PACKAGE) and _OTHERS.search(file) is None


def _module(file: str) -> str:
    """Return the last name of the module of a file, wherever it is installed."""
    *directories, name = file.split("/")
    stem = name.removesuffix(".py")
    return directories[-1] if stem in ("__init__", "__main__") and directories else stem


def _hashed(*parts: str) -> str:
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return f"{VERSION}:{hashlib.blake2b(joined, digest_size=_HASH_BYTES).hexdigest()}"

"""Validates one value and lists its faults: a small program that can be killed.

No project imports; it is run by its path. Its input is `{"schema": …, "value": …, "all": …}`. The
first line of its output is the verdict, `true` or `false`. The second, if the value doesn't fit, is
a list of `[path, message]`: the first fault, or with `all` the first ten. A process that ends
between the two found too many faults to list.
"""

import sys
from typing import Any

import jsonschema_rs
import orjson

MASK = "the value"
MAX_FAULTS = 10


def validator_of(schema: Any) -> jsonschema_rs.Validator:
    """Return the validator of `schema`; raises ValueError or ReferencingError.

    It is offline: a `$ref` must not make the server fetch addresses. Regular expressions are
    matched in linear time and compiled within limits.
    """
    return jsonschema_rs.validator_for(
        schema,
        pattern_options=jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES),
        offline=True,
        mask=MASK,
    )


_PATTERN_BYTES = 10_000_000


def faults_of(validator: jsonschema_rs.Validator, value: Any) -> list[tuple[list[str | int], str]]:
    """Return the path and the message of the first ten faults of `value`.

    The library finds all faults before it returns the first: the cost of that must be bounded.
    """
    found = []
    for error in validator.iter_errors(value):
        found.append((list(error.instance_path), error.message))
        if len(found) == MAX_FAULTS:
            break
    return found


def first_fault_of(
    validator: jsonschema_rs.Validator, value: Any
) -> list[tuple[list[str | int], str]]:
    """Return the same for the first fault only."""
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as error:
        return [(list(error.instance_path), error.message)]
    return []


def main() -> None:
    """Read the input, validate, and write the output."""
    work = orjson.loads(sys.stdin.buffer.read())
    validator = validator_of(work["schema"])
    fits = validator.is_valid(work["value"])
    sys.stdout.write("true\n" if fits else "false\n")
    sys.stdout.flush()
    if not fits:
        find = faults_of if work["all"] else first_fault_of
        sys.stdout.buffer.write(orjson.dumps(find(validator, work["value"])))


if __name__ == "__main__":
    main()

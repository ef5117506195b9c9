"""Validates one value and says what is wrong with it: a small program that can be killed.

No project imports. It is run by its path; on stdin is `{"schema": …, "value": …, "all": …}`. The
first line that it writes is the verdict, `true` or `false`; the second, where the value doesn't
fit, a list of `[path, message]`, of the first fault or of `all`. A process that ends between the
two found too many faults to list.
"""

import sys
from typing import Any

import jsonschema_rs
import orjson

MASK = "the value"
MAX_FAULTS = 10


def validator_of(schema: Any) -> jsonschema_rs.Validator:
    """Return what validates by `schema`; raises ValueError or ReferencingError.

    Offline: a `$ref` must not make the server fetch addresses. The regular expressions are matched
    in linear time, and compiled within bounds.
    """
    return jsonschema_rs.validator_for(
        schema,
        pattern_options=jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES),
        offline=True,
        mask=MASK,
    )


_PATTERN_BYTES = 10_000_000


def faults_of(validator: jsonschema_rs.Validator, value: Any) -> list[tuple[list[str | int], str]]:
    """Return the path and the message of what is wrong with `value`, ten at most.

    The library finds all faults before it tells the first: what that costs must be bounded.
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
    """Return the same for the first fault alone."""
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as error:
        return [(list(error.instance_path), error.message)]
    return []


def main() -> None:
    """Read what is to be validated, and write what comes of it."""
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

"""Validation against JSON schemas; what takes long runs in a child process that can be killed."""

import os
import subprocess
import sys
import threading

from celeriac.domain.errors import BusyError, VariablesInvalidError
from celeriac.domain.schemas import ChildValidation, Fault, program, validate
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.kit.processes import ResourceLimits, launch, terminate_group

_CHILD_SECONDS = 5
_CHILD_BYTES = 1024**3
_CHILDREN = threading.BoundedSemaphore(2)
_WAIT_SECONDS = 10.0


def faults(schema: JsonObject, value: JsonValue) -> list[Fault]:
    """Return at most ten faults of `value`, none if it fits.

    May block for seconds (`is_quick`). Raises SchemaInvalidError for a schema that is not within
    the bounds, and BusyError if this process validates too many large values already.
    """
    found = validate(schema, value)
    return _faults_in_child(found) if isinstance(found, ChildValidation) else found


def violations(schema: JsonObject, value: JsonValue) -> list[str]:
    """Return the faults as texts, each with its place."""
    return [str(fault) for fault in faults(schema, value)]


def check_variables(schema: JsonObject, variables: JsonObject) -> None:
    """Raise VariablesInvalidError naming each fault if an execution's variables don't fit."""
    if not schema:
        return
    found = violations(schema, variables)
    if found:
        raise VariablesInvalidError(
            f"The variables don't fit the task's schema: {'; '.join(found)}.",
            field="variables",
            faults=found,
        )


def _faults_in_child(validation: ChildValidation) -> list[Fault]:
    if not _CHILDREN.acquire(timeout=_WAIT_SECONDS):
        raise BusyError("Other large values are being validated; send the request again.")
    try:
        found = validation.faults(_run(validation.work))
    finally:
        _CHILDREN.release()
    if found is None:
        message = (
            f"the schema takes more than {_CHILD_SECONDS} seconds, or too much memory, for a "
            "value of this size; make either smaller"
        )
        return [Fault("", message)]
    return found


def _run(work: bytes) -> bytes:
    """Return what the program wrote before it ended or was killed."""
    child = launch(
        [sys.executable, "-I", program.__file__],
        env={"PATH": os.defpath},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        limits=ResourceLimits(memory=_CHILD_BYTES, cpu_seconds=_CHILD_SECONDS),
    )
    try:
        written, _ = child.communicate(work, timeout=4 * _CHILD_SECONDS)
    except subprocess.TimeoutExpired:
        terminate_group(child.pid, 0)
        written, _ = child.communicate()
    return written

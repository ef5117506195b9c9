"""How often psycopg converts a statement's placeholders.

psycopg replaces `%(name)s` by `$1` and remembers the result, but only for statements of up to 4,096
bytes with up to 50 parameters: longer ones are mostly made by ORMs, once. Ours are few, and are
sent all the time. To convert the one that submits took a sixth of the processor time of a
submission.
"""

from psycopg import _queries

BYTES = 32_768
PARAMETERS = 128


def remember() -> None:
    """Let psycopg remember the conversions of longer statements, in all of this process.

    It remembers 128 conversions, in no more than some megabytes.
    """
    _queries.MAX_CACHED_STATEMENT_LENGTH = BYTES
    _queries.MAX_CACHED_STATEMENT_PARAMS = PARAMETERS

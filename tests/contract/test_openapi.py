"""The HTTP interface does what it says of itself: every answer to every request it can think of."""

from typing import Any
from uuid import UUID

import schemathesis
from schemathesis.config import SchemathesisConfig

from celeriac.api.app import describe
from tests.contract.conftest import Seeded

_EXAMPLES = 20
"""For each operation; the seed is fixed, so every run asks the same."""

_ACCEPTABLE = ["2xx", "401", "403", "404", "409", "413", "422"]
"""For requests that fit the schema: a cursor of nobody, a template that doesn't parse."""

_REFUSALS = ["400", "401", "403", "404", "405", "409", "413", "415", "422", "429"]
"""For those that don't: a list that is too long makes a body too large, too."""

schemathesis.serializer.alias("application/jsonl", "text/plain")

schema = schemathesis.openapi.from_dict(
    describe(),
    config=SchemathesisConfig.from_dict(
        {
            "generation": {"deterministic": True, "max-examples": _EXAMPLES, "database": "none"},
            "checks": {
                "positive_data_acceptance": {"expected-statuses": _ACCEPTABLE},
                "negative_data_rejection": {"expected-statuses": _REFUSALS},
            },
        }
    ),
)


@schema.parametrize()
def test_each_operation_keeps_to_its_description(
    case: schemathesis.Case[Any], seeded: Seeded
) -> None:
    """Half of the requests that would do with any id ask for what there is."""
    for name, value in case.path_parameters.items():
        if name in seeded.ids and _even(value):
            case.path_parameters[name] = seeded.ids[name]
    headers = {"Authorization": f"Bearer {seeded.token}"}
    case.call_and_validate(base_url=seeded.url, headers=headers)


def _even(value: object) -> bool:
    try:
        return UUID(str(value)).int % 2 == 0
    except ValueError:
        return False

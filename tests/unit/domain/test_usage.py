"""Amounts of money as texts."""

from decimal import Decimal

import pytest

from celeriac.domain.usage import dollars
from celeriac.wire import BudgetState, Execution


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0E-9", "0.00"),
        ("0", "0.00"),
        ("5.000000000", "5.00"),
        ("0.5", "0.50"),
        ("1.204500000", "1.2045"),
        ("1E+3", "1000.00"),
        ("0.000000001", "0.000000001"),
    ],
)
def test_money_is_text_in_plain_digits_with_two_decimals_at_least(amount: str, text: str) -> None:
    assert dollars(Decimal(amount)) == text


def test_answers_have_money_in_one_form() -> None:
    execution = Execution.model_validate({**Execution.example(), "cost": Decimal("0E-9")})
    assert execution.model_dump(mode="json")["cost"] == "0.00"
    fields = BudgetState.model_json_schema(mode="serialization")["properties"]
    assert fields["spent_cost"]["type"] == "string"

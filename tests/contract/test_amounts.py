"""Amounts of money in the OpenAPI document."""

from celeriac.api.app import describe


def test_amounts_are_texts_wherever_they_are_sent() -> None:
    """What takes a number in a request takes a text too; what is sent is a text alone."""
    amounts = {
        f"{name}.{field}": {each.get("type") for each in schema.get("anyOf", [schema])}
        for name, model in describe()["components"]["schemas"].items()
        for field, schema in model.get("properties", {}).items()
        if field == "cost" or field.endswith("_cost")
    }

    assert len(amounts) > 8
    assert [name for name, types in amounts.items() if "string" not in types] == []
    numbers = {name for name, types in amounts.items() if types & {"number", "integer"}}
    assert {each.partition(".")[2] for each in numbers} <= {"max_cost"}, "limits in requests"

"""A durable agent: pays, packs, waits for a person and for the next day, and asks for reviews."""

from datetime import timedelta

import celeriac
from celeriac import AgentContext


@celeriac.agent("fulfil-order", durable=True)
async def fulfil_order(ctx: AgentContext, order: str, lines: list[str]) -> dict:
    """Charge an order, ship it once a person agrees, and ask for a review a day later."""
    receipt = await ctx.step("charge", charge, order, key=ctx.idempotency_key("charge"), retry=3)
    stock, label = await ctx.gather(
        ctx.map("check-stock", [{"line": line} for line in lines], parallel=20),
        ctx.step(print_label, order),
    )
    answer = await ctx.approve("ship", {"order": order, "stock": stock})
    if not answer.approved:
        return {"order": order, "shipped": False, "note": answer.note}
    await ctx.sleep(timedelta(days=1))
    review = await ctx.run(ask_for_review, {"order": order})
    return {"order": order, "shipped": True, "receipt": receipt, "label": label, "review": review}


def charge(order: str, key: str) -> str:
    """Stand in for a payment."""
    return f"receipt of {order}, charged once as {key[-6:]}"


def print_label(order: str) -> str:
    """Stand in for a printer."""
    return f"label of {order}"


@celeriac.agent("check-stock")
async def check_stock(line: str) -> int:
    """Return how many there are."""
    return len(line)


@celeriac.agent("ask-for-review")
async def ask_for_review(order: str) -> str:
    """Return a review."""
    return f"{order}: five stars"

"""An MCP server with two tools for agents: one reads orders, the other refunds them.

It speaks MCP over stdio. Configure it for the workers, then name it in an agent:

    export CELERIAC_MCP_SERVERS='{"orders": {"command": ["python", "/opt/mcp/orders.py"]}}'
    celeriac agents create clerk --model openai/gpt-5-mini \
      --mcp orders --approve-tool 'orders:refund'

It needs the package `mcp`. The orders are made up; refunds are stored in `refunds.sqlite` in the
working directory of the execution.
"""

import sqlite3
from contextlib import closing
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel

server = MCPServer("orders")


class Order(BaseModel):
    """What the model is told about an order."""

    number: str
    item: str
    cents: int


ORDERS = {
    "A7": Order(number="A7", item="a green teapot", cents=2_450),
    "B2": Order(number="B2", item="two cups", cents=1_190),
}


@server.tool()
def find_order(number: str) -> Order:
    """Return an order by its number, such as A7."""
    try:
        return ORDERS[number]
    except KeyError:
        # The model reads the message of a ToolError, and can try something else.
        raise ToolError(f"There is no order {number}.") from None


@server.tool()
def refund(number: str, cents: int, ctx: Context[Any, Any]) -> str:
    """Refund an amount in cents of an order, once."""
    order = find_order(number)
    if not 0 < cents <= order.cents:
        raise ToolError(f"Of the order {number}, 1 to {order.cents} cents can be refunded.")
    # Celeriac repeats a call if a worker dies during it. The key of the repeated call is the same.
    key = (ctx.request_context.meta or {}).get("celeriac/idempotency-key")
    if key is None:
        raise ToolError("This tool can only be called by Celeriac.")
    with closing(sqlite3.connect("refunds.sqlite")) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS refunds (key TEXT PRIMARY KEY, cents INTEGER)")
        added = database.execute("INSERT OR IGNORE INTO refunds VALUES (?, ?)", (key, cents))
        if added.rowcount == 0:
            return f"Order {number} had already been refunded by this call."
    return f"Refunded {cents} cents of order {number}."


if __name__ == "__main__":
    server.run()

"""Reading the ends of items, for those who follow a run (docs/adr/0051)."""

from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.domain.workflows.records import EndPlace, ItemEnd

_ENDS = """
SELECT i.ended_xid, i.step_no, i.item_no, s.step, i.status, i.execution_id,
       i.child_run_id
FROM item_ends i JOIN step_runs s USING (run_id, step_no)
WHERE i.run_id = :run_id
  AND (i.ended_xid, i.step_no, i.item_no) > (:xid, :step_no, :item_no){visible}
ORDER BY i.ended_xid, i.step_no, i.item_no
LIMIT :limit
"""
_ALL = text(_ENDS.format(visible=""))
_SETTLED = text(
    _ENDS.format(
        visible="""
  AND i.ended_xid < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"""
    )
)


def after(
    connection: Connection, run_id: UUID, place: EndPlace, *, limit: int, whole: bool
) -> list[ItemEnd]:
    """Return up to `limit` ends behind `place`, in order.

    Those of which an earlier one may still be committed are left out, unless the run has ended:
    `whole`, which the caller has read before. So no end is ever found before the place of a reader.
    """
    parameters = {
        "run_id": run_id,
        "xid": place.xid,
        "step_no": place.step_no,
        "item_no": place.item_no,
        "limit": limit,
    }
    rows = connection.execute(_ALL if whole else _SETTLED, parameters)
    return [ItemEnd(EndPlace(row[0], row[1], row[2]), *row[3:]) for row in rows]

"""The audit trail is append-only and sealed; keys know the key that made them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# The transaction gets its id before the position: so a position that was handed out belongs to a
# transaction that snapshots know, and sealing can wait for its end.
_POSITION = """
CREATE FUNCTION audit_position() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_current_xact_id();
    RETURN nextval('audit_logs_position_seq');
END $$
"""

_APPEND_ONLY = """
CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('celeriac.audit_retention', true) = 'on' THEN
        RETURN CASE TG_OP WHEN 'UPDATE' THEN NEW ELSE OLD END;
    END IF;
    RAISE EXCEPTION 'the table % is append-only', TG_TABLE_NAME USING ERRCODE = '42501';
END $$
"""


def upgrade() -> None:
    """Apply."""
    op.execute("CREATE SEQUENCE audit_logs_position_seq")
    op.execute(_POSITION)
    op.execute(_APPEND_ONLY)
    op.add_column(
        "audit_logs",
        sa.Column(
            "position", sa.BigInteger(), server_default=sa.text("audit_position()"), nullable=False
        ),
    )
    op.create_index("ix_audit_logs_position", "audit_logs", ["position"], unique=True)
    op.create_table(
        "audit_seals",
        sa.Column("last_position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("first_position", sa.BigInteger(), nullable=False),
        sa.Column("entries", sa.Integer(), nullable=False),
        sa.Column("digest", postgresql.BYTEA(), nullable=False),
        sa.Column("previous", postgresql.BYTEA(), nullable=False),
        sa.Column("seal", postgresql.BYTEA(), nullable=False),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("last_position", name=op.f("pk_audit_seals")),
    )
    for table in ("audit_logs", "audit_seals"):
        op.execute(
            f"CREATE TRIGGER {table}_rows BEFORE UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION audit_append_only()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_all BEFORE TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()"
        )
    op.add_column("api_keys", sa.Column("parent_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        op.f("fk_api_keys_parent_id"), "api_keys", "api_keys", ["parent_id"], ["id"]
    )
    op.create_index(op.f("ix_api_keys_parent_id"), "api_keys", ["parent_id"], unique=False)
    op.add_column(
        "approvals",
        sa.Column("links_revoked", sa.Integer(), server_default=sa.text("0"), nullable=False),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_column("approvals", "links_revoked")
    op.drop_column("api_keys", "parent_id")
    for table in ("audit_logs", "audit_seals"):
        op.execute(f"DROP TRIGGER {table}_rows ON {table}")
        op.execute(f"DROP TRIGGER {table}_all ON {table}")
    op.drop_table("audit_seals")
    op.drop_column("audit_logs", "position")
    op.execute("DROP FUNCTION audit_append_only()")
    op.execute("DROP FUNCTION audit_position()")
    op.execute("DROP SEQUENCE audit_logs_position_seq")

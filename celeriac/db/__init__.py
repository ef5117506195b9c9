"""PostgreSQL: tables, queries, transitions. Functions take a connection and never commit."""

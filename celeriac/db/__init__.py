"""PostgreSQL: tables, queries, transitions. Functions here take a connection and never commit."""

"""Against a real PostgreSQL and a real Valkey."""

"""The core, transition by transition, on a real PostgreSQL."""

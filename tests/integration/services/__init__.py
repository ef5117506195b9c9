"""The services, transition by transition, on a real PostgreSQL."""

"""PostgreSQL, Valkey and a local model from wheels, and the supervisor that keeps them running."""

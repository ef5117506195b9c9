"""The model gateway: the only code that sends requests to model providers (docs/adr/0026)."""

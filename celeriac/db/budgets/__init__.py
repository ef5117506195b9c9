"""Budgets: as they are set, and what is reserved and spent of them (docs/adr/0008-budgets.md)."""

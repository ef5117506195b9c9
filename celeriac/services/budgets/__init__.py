"""Budgets: admission of model calls, the ledger, management."""

"""Bulk jobs: one action for many executions, previewed first and worked on by the keeper."""

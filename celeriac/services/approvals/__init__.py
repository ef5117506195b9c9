"""Approvals: asking, answering, notifying."""

"""Tests: unit, integration, e2e, chaos, contract; shared helpers in support."""

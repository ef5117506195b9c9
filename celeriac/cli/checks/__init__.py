"""Checks of what Celeriac needs: run by `doctor`, and by every program before it starts."""

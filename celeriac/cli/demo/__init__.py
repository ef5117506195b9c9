"""`celeriac demo`."""

"""`celeriac demo`: everything at work, from nothing to results."""

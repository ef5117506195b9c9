"""`celeriac workflows` and `celeriac workflow-runs`: documents, workflows, and their runs."""

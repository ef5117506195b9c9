"""`celeriac workflows`: check documents of workflows, and show their graphs."""

"""Child processes that speak JSON lines and can always be killed."""

"""Pages that need no login: answers to approvals over signed links."""

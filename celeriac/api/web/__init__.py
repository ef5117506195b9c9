"""Pages that need no login: answers to approvals with signed links."""

"""Request bodies that several routes share."""

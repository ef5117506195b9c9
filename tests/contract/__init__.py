"""The public HTTP interface against its own description."""

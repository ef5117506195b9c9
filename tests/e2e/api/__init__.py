"""The API as a process of its own, asked by clients that mean no good."""

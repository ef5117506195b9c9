"""Real processes, killed, frozen and flooded."""

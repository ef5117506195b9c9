"""Against real Celeriac processes, as a user runs them."""

"""Tools of agents over the Model Context Protocol."""

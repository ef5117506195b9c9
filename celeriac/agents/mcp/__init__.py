"""Tools that agents reach over the Model Context Protocol."""

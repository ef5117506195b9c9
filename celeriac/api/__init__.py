"""The HTTP API: resources, problems, authentication; a thin skin over the services."""

"""`celeriac doctor`: checks of the machine, the servers and the work."""

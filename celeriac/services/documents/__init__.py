"""Documents: what is stored is made to be as a file says."""

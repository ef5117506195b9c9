"""The command line: `celeriac …`. Each command is a small file; `main` puts them together."""

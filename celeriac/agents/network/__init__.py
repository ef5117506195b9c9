"""The network of a confined attempt: a proxy in the worker, and the rules of its destinations."""

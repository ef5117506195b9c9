"""Peers of Celeriac, each as its documentation sets it up.

The programs here run in the environment of `make bench-peers` and import nothing of Celeriac. Each
runs a worker of eight threads, or submits no-ops to it.
"""

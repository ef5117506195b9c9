"""The program that serves the local model: `python -m celeriac.embedded.model_server`."""

import argparse
import os
import signal
import sys

from celeriac.embedded.home import LOOPBACK

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PROMPT_CACHE_MEGABYTES = 256
_PARALLEL = 2
"""Requests that are served at once."""

_QUIET = 1
"""llama.cpp's verbosity: errors and warnings, never prompts."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    options = _parse(arguments)
    # Before the library starts its threads, so that none of them receives these signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = options.weights
    parameters.model_alias = {options.model}
    parameters.hostnames = [LOOPBACK]
    parameters.port = options.port
    parameters.n_parallel = _PARALLEL
    parameters.n_ctx = options.context * _PARALLEL
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = options.threads
    parameters.use_jinja = True
    parameters.cache_ram_mib = _PROMPT_CACHE_MEGABYTES
    parameters.ui = False
    parameters.verbosity = _QUIET
    try:
        server = xllamacpp.Server(parameters)
    except (RuntimeError, ValueError) as error:
        sys.stderr.write(f"The model can't be served: {error}\n")
        return 1
    sys.stderr.write(f"Serving {options.model} on {server.listening_address}/v1\n")
    signal.sigwait(_STOP_SIGNALS)
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="celeriac.embedded.model_server", description=__doc__)
    parser.add_argument("--weights", required=True, help="path of a GGUF file")
    parser.add_argument("--model", required=True, help="name that clients use")
    parser.add_argument("--port", type=int, required=True, help="TCP port on the loopback")
    parser.add_argument("--context", type=int, required=True, help="tokens of one request")
    parser.add_argument("--threads", type=int, default=_spare_cores(), help="threads that compute")
    return parser.parse_args(arguments)


def _spare_cores() -> int:
    """Return the number of usable cores, less one for the other processes.

    The threads wait for each other after every step, which is slow unless each has a core (four
    requests on two busy cores: 20 to 35 s with two threads, 5 to 8 s with one).
    """
    return max(1, len(os.sched_getaffinity(0)) - 1)


if __name__ == "__main__":
    sys.exit(main())

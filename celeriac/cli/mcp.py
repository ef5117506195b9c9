"""`celeriac mcp`: Celeriac as a server of the Model Context Protocol."""

from pathlib import Path
from typing import Annotated

import typer

from celeriac.cli.core.arguments import ApiKey, ApiUrl, ServerHome
from celeriac.cli.core.output import UsageProblemError
from celeriac.cli.server import find_address, find_server

_PORT = 8322


def mcp(
    *,
    http: Annotated[
        bool, typer.Option("--http", help="Serve streamable HTTP, not stdin and stdout.")
    ] = False,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; 127.0.0.1 if not given.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help=f"Port to listen on, 0 for any; {_PORT} if not given."),
    ] = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
    home: ServerHome = None,
) -> None:
    """Serve the tools of Celeriac to agents, over the Model Context Protocol.

    Agents list tasks, start them, wait for executions, read and cancel them,
    and may do what the API key may, nothing else. Over stdin and stdout the key
    is this command's own. Over HTTP every request brings one of its own
    (Authorization: Bearer), and this command's is never used.

    Examples:
      celeriac mcp
      celeriac mcp --http --port 8322
      claude mcp add celeriac -- celeriac mcp
    """
    if not http:
        if host is not None or port is not None:
            raise UsageProblemError("--host and --port go with --http.")
        _over_stdio(home, api_url, api_key)
        return
    from celeriac.cli.system import choose_port
    from celeriac.mcp_server.server import PATH, serve_http

    url = find_address(home, api_url)
    address = host or "127.0.0.1"
    chosen = choose_port(address, _PORT if port is None else port)
    typer.echo(f"MCP at http://{address}:{chosen}{PATH}, for the API at {url}", err=True)
    serve_http(url, host=address, port=chosen)


def _over_stdio(home: Path | None, api_url: str | None, api_key: str | None) -> None:
    from celeriac.client import Client
    from celeriac.mcp_server.server import serve_stdio

    server = find_server(home, api_url, api_key)
    with Client(server.url, api_key=server.api_key) as client:
        serve_stdio(client)

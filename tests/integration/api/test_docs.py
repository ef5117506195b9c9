"""The interactive documentation works without the Internet."""

import re

from fastapi.testclient import TestClient


def test_all_that_the_page_loads_is_ours(app_client: TestClient) -> None:
    page = app_client.get("/docs")
    assert page.status_code == 200
    loaded = re.findall(r"""(?:src|href)="([^"]+)"|url: '([^']+)'""", page.text)
    addresses = [first or second for first, second in loaded]
    assert len(addresses) >= 4, page.text
    for address in addresses:
        assert address.startswith("/"), f"{address} is somewhere else"
        assert app_client.get(address).status_code == 200, address

"""The shipped alert rules, asked of what `GET /metrics` of a running system told."""

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.waiting import wait_until

RULES = Path(__file__).parents[2] / "deploy/prometheus/alerts.yml"

Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]

_SECONDS, _BEFORE, _AFTER = 60, 10, 10
"""Each scrape stands for ten minutes, one sample a minute."""

_ASKED = _BEFORE + 6
"""Minutes: after each `for` up to five minutes, and while ten minutes reach back to both."""

_OF_THE_MACHINE = "celeriac_disk_"

_TIME = "_timestamp_seconds"
"""Such samples are kept as seconds from the scrape on: promtool's time begins with 1970."""


class Alerts:
    """Scrapes an API at the stations of a test, and asks promtool at the end which alerts fire."""

    def __init__(self, base_url: str, token: str) -> None:
        """`token` is what the API has as `CELERIAC_API_METRICS_TOKEN`."""
        self._http = httpx.Client(
            base_url=base_url, headers={"Authorization": f"Bearer {token}"}, timeout=30
        )
        self._last = self._scrape()
        self._stations: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def see(self, *firing: str, metric: str, value: float, **labels: str) -> None:
        """Scrape until a sample of `metric` with `labels` is at least `value`.

        `check` finds out whether the alerts that fire after it are these, if the scrape of the
        station before is what came before it.
        """

        def shown() -> bool:
            samples[0] = self._scrape()
            return any(
                name == metric and labels.items() <= dict(its).items()
                and number >= value
                for (name, its), number in samples[0].items()
            )  # fmt: skip

        samples: list[Samples] = [{}]
        wait_until(shown, f"the sample of {metric} with {labels} is at least {value}")
        self._stations.append(_station(self._last, samples[0], firing))
        self._last = samples[0]

    def _scrape(self) -> Samples:
        answer = self._http.get("/metrics").raise_for_status()
        now = time.time()
        return {
            (each.name, tuple(sorted(each.labels.items()))): each.value
            - (now if each.name.endswith(_TIME) else 0)
            for family in text_string_to_metric_families(answer.text)
            for each in family.samples
            if not each.name.startswith(_OF_THE_MACHINE)
        }

    def check(self, directory: Path) -> None:
        """Ask promtool, with a file in `directory`, whether the alerts of all stations fire.

        Skips the rest of the test, and says so, where it is not installed.
        """
        promtool = shutil.which("promtool")
        if promtool is None:
            pytest.skip("all but the alerts was checked: no promtool (Debian: prometheus)")
        page = directory / "stations.json"
        page.write_text(
            json.dumps(
                {
                    "rule_files": [str(RULES)],
                    "evaluation_interval": f"{_SECONDS}s",
                    "tests": self._stations,
                }
            )
        )
        done = subprocess.run(
            [promtool, "test", "rules", str(page)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def _station(before: Samples, after: Samples, firing: tuple[str, ...]) -> dict[str, Any]:
    """Return a test of promtool where one scrape stands for minutes, then the other."""
    return {
        "name": f"{', '.join(firing) or 'nothing'} fires",
        "interval": f"{_SECONDS}s",
        "input_series": [
            {
                "series": f"{key[0]}{_braces(key[1])}",
                "values": f"{_values(key[0], before.get(key), 0, _BEFORE)} "
                f"{_values(key[0], after.get(key), _BEFORE, _AFTER)}",
            }
            for key in sorted({*before, *after})
        ],
        "promql_expr_test": [
            {
                "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{_ASKED * _SECONDS}s",
                "exp_samples": [
                    {"labels": _braces((("alertname", each),)), "value": 1} for each in firing
                ],
            }
        ],
    }


def _braces(labels: Labels) -> str:
    return "{" + ",".join(f"{name}={json.dumps(value)}" for name, value in labels) + "}"


def _values(name: str, value: float | None, first: int, count: int) -> str:
    """Return `count` samples in promtool's notation; `_` is none."""
    if value is None:
        return f"_x{count}"
    if name.endswith(_TIME):
        return f"{first * _SECONDS + value:.6f}+{_SECONDS}x{count - 1}"
    return f"{value:.6f}x{count - 1}"

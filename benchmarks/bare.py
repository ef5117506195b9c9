"""Bare Celery with results, as its documentation sets it up: what Celeriac is measured against."""

import os

from celery import Celery

app = Celery(
    "bare", broker=os.environ["BARE_BROKER_URL"], backend=os.environ["BARE_RESULT_BACKEND"]
)


@app.task(name="bare.noop")
def noop() -> None:
    """Do nothing."""

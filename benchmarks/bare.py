"""Bare Celery with results, set up as in its documentation, for comparison."""

import os

from celery import Celery

app = Celery(
    "bare", broker=os.environ["BARE_BROKER_URL"], backend=os.environ["BARE_RESULT_BACKEND"]
)


@app.task(name="bare.noop")
def noop() -> None:
    """Do nothing."""

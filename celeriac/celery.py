"""The Celery app, so that `celery -A celeriac worker|beat|inspect|flower` works."""

from celeriac.adapters.celery_app import create_app
from celeriac.logs import Service
from celeriac.wiring import celery_options, load_settings, log_options
from celeriac.worker.lifecycle import Lifecycle
from celeriac.worker.signals import connect_logging

settings = load_settings()
app = create_app(celery_options(settings, publisher=False))
app.celeriac = Lifecycle(app, settings)
app.celeriac.connect()
connect_logging(
    worker=log_options(settings, Service.WORKER), beat=log_options(settings, Service.BEAT)
)

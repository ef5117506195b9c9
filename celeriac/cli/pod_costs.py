"""`celeriac pod-costs`."""

import os
from typing import Annotated

import typer

from celeriac.cli.core.arguments import Home, Json
from celeriac.cli.core.output import Output
from celeriac.cli.core.server import open_database, read_settings


def pod_costs(
    selector: Annotated[
        str, typer.Option(metavar="LABELS", help="The labels of the workers' pods.")
    ] = "app=celeriac-worker",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Report to Kubernetes how much runs in each pod, so that idle ones are removed first.

    Sets the annotation controller.kubernetes.io/pod-deletion-cost of each pod
    to the number of executions and plain Celery tasks that run in it, where it
    has changed. Runs in a pod, whose service account may list and patch pods;
    the CronJob in deploy/kubernetes/keda does it every minute. Workers must be
    named after their pods, as `celeriac worker -n worker@%h` is.

    Examples:
      celeriac pod-costs
      celeriac pod-costs --selector app=celeriac-worker,queue=reports
    """
    from celeriac.adapters.kubernetes import Cluster
    from celeriac.services.operations.pod_costs import update_costs
    from celeriac.wiring.core import silent_after

    settings = read_settings(home)
    cluster = Cluster.of_pod(os.environ)
    try:
        with open_database(settings) as database:
            changed = update_costs(
                database, cluster, selector=selector, within_seconds=silent_after(settings)
            )
    finally:
        cluster.close()
    lines = [f"{pod}: {cost}" for pod, cost in sorted(changed.items())]
    Output(as_json=as_json).write({"changed": changed}, "\n".join(lines) or "Nothing has changed.")

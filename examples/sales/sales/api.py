"""The HTTP API of our product: it stores leads and leaves the work to Celeriac.

uvicorn sales.api:app --port 8000
"""

from functools import cache
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI, Header, Request, status
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from celeriac import Client, ClientError
from sales.models import NewLead, NoSuchLeadError, find_lead, list_leads, save_leads

app = FastAPI(title="Sales")


@cache
def connected() -> Client:
    """Return the client of Celeriac, which threads share."""
    return Client.from_env()


Celeriac = Annotated[Client, Depends(connected)]
Key = Annotated[str | None, Header(alias="Idempotency-Key")]


class Queued(BaseModel):
    """Work that is stored, and will be done whatever happens to this process."""

    task_id: UUID
    status: str = "queued"


class Progress(BaseModel):
    """What has become of it."""

    task_id: UUID
    status: str
    result: Any = None
    error: str | None = None
    steps: dict[str, str] = {}


class Batch(BaseModel):
    """Leads as a CSV text with the columns email, company, employees and message."""

    csv: str
    min_score: int = 60


@app.post("/leads", status_code=status.HTTP_201_CREATED)
def create_lead(lead: NewLead) -> dict[str, Any]:
    """Store a lead; one whose address is known already stays as it is."""
    [stored] = save_leads([lead])
    return stored


@app.get("/leads")
def read_leads() -> list[dict[str, Any]]:
    """Return all leads, the best first."""
    return list_leads()


@app.get("/leads/{lead_id}")
def read_lead(lead_id: int) -> dict[str, Any]:
    """Return a lead, with what the agents have found out so far."""
    return find_lead(lead_id)


@app.post("/leads/{lead_id}/qualify", status_code=status.HTTP_202_ACCEPTED)
def qualify(lead_id: int, client: Celeriac, key: Key = None) -> Queued:
    """Let a lead be qualified."""
    return _execute(client, "qualify_lead", lead_id, key)


@app.post("/leads/{lead_id}/enrich", status_code=status.HTTP_202_ACCEPTED)
def enrich(lead_id: int, client: Celeriac, key: Key = None) -> Queued:
    """Let a lead be enriched."""
    return _execute(client, "enrich_lead", lead_id, key)


@app.post("/leads/batch", status_code=status.HTTP_202_ACCEPTED)
def sweep(batch: Batch, client: Celeriac, key: Key = None) -> Queued:
    """Let many leads be qualified at the same time, and the best ones enriched."""
    run = client.workflows.start("sweep_leads", batch.model_dump(), idempotency_key=key)
    return Queued(task_id=run.run_id)


@app.get("/tasks/{task_id}")
def read_task(task_id: UUID, client: Celeriac) -> Progress:
    """Return the state of what `qualify` or `enrich` has started."""
    found = client.executions.get(task_id)
    return Progress(
        task_id=task_id, status=found.status, result=found.result, error=found.error_message
    )


@app.get("/batches/{task_id}")
def read_batch(task_id: UUID, client: Celeriac) -> Progress:
    """Return the state of a batch, with its steps, and the totals once it has ended."""
    run = client.workflow_runs.get(task_id)
    return Progress(
        task_id=task_id,
        status=run.status,
        result=run.result,
        error=run.error_message,
        steps={step.step: f"{step.status} {step.completed}/{step.items}" for step in run.steps},
    )


@app.exception_handler(NoSuchLeadError)
def no_such_lead(_: Request, error: NoSuchLeadError) -> JSONResponse:
    """Answer with 404."""
    return JSONResponse({"detail": error.message}, status.HTTP_404_NOT_FOUND)


@app.exception_handler(ClientError)
def refused(_: Request, error: ClientError) -> JSONResponse:
    """Answer as Celeriac did, or with 503 if it doesn't answer."""
    code = error.status or status.HTTP_503_SERVICE_UNAVAILABLE
    return JSONResponse({"detail": error.message, "code": error.code}, code)


def _execute(client: Client, task: str, lead_id: int, key: str | None) -> Queued:
    find_lead(lead_id)
    accepted = client.executions.execute(task, {"lead_id": lead_id}, idempotency_key=key)
    return Queued(task_id=accepted.execution_id)

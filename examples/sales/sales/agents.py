"""The functions that Celeriac runs. What the language model is asked is in `project.yaml`."""

import csv
import io
from collections import Counter
from typing import Any

from pydantic import ValidationError

import celeriac
from celeriac import AgentContext
from sales.models import NewLead, change_lead, find_lead, save_leads, unqualified_ids

SCORES = {"high": 80, "medium": 50, "low": 10}
LARGE = 50
"""A company with as many employees scores 10 more."""


class CsvInvalidError(celeriac.PermanentError, code="csv_invalid"):
    """A line is no lead. An execution that raises it is not retried: the line stays as it is."""


@celeriac.agent("qualify_lead", durable=True)
async def qualify_lead(ctx: AgentContext, lead_id: int) -> dict[str, Any]:
    """Ask the model how well a lead fits, and store its score."""
    lead = await ctx.step("find", find_lead, lead_id)
    question = {"company": lead["company"], "message": lead["message"]}
    answer = await ctx.run("judge_lead", question)
    score = SCORES[answer["fit"]] + (10 if lead["employees"] >= LARGE else 0)
    stored: dict[str, Any] = await ctx.step("store", change_lead, lead_id, score=score, **answer)
    return stored


@celeriac.agent("enrich_lead", durable=True)
async def enrich_lead(ctx: AgentContext, lead_id: int) -> dict[str, Any]:
    """Ask the model what a company does, and store its industry and a summary."""
    lead = await ctx.step("find", find_lead, lead_id)
    question = {"company": lead["company"], "message": lead["message"]}
    answer = await ctx.run("describe_lead", question)
    stored: dict[str, Any] = await ctx.step("store", change_lead, lead_id, **answer)
    return stored


@celeriac.agent("receive_lead", durable=True)
async def receive_lead(
    ctx: AgentContext, email: str, company: str, message: str, employees: int = 0
) -> dict[str, Any]:
    """Store a lead that the website sends, and qualify it."""
    new = NewLead(email=email, company=company, employees=employees, message=message)
    [lead] = await ctx.step("save", save_leads, [new])
    qualified: dict[str, Any] = await ctx.run("qualify_lead", {"lead_id": lead["id"]})
    return qualified


@celeriac.agent("qualify_new_leads", durable=True)
async def qualify_new_leads(ctx: AgentContext, limit: int = 100) -> dict[str, int]:
    """Qualify the leads that have no score yet."""
    found = await ctx.step("find", unqualified_ids, limit)
    items = [{"lead_id": lead_id} for lead_id in found]
    done = await ctx.map("qualify_lead", items, parallel=8)
    return {"qualified": len(done)}


@celeriac.agent("load_csv")
async def load_csv(text: str) -> list[dict[str, Any]]:
    """Store the leads of a CSV file: email, company, employees, message."""
    leads = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), start=2):
        try:
            leads.append(NewLead.model_validate(row))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise CsvInvalidError(f"Line {number}, {field}: {first['msg']}.") from error
    return save_leads(leads)


@celeriac.agent("rank_leads")
async def rank_leads(leads: list[dict[str, Any] | None], min_score: int) -> list[dict[str, Any]]:
    """Return the leads with at least this score, the best first. Failed ones are null."""
    good = [lead for lead in leads if lead and lead["score"] >= min_score]
    return sorted(good, key=lambda lead: (-lead["score"], lead["id"]))


@celeriac.agent("sum_up")
async def sum_up(
    qualified: list[dict[str, Any] | None] | None,
    enriched: list[dict[str, Any] | None] | None,
) -> dict[str, Any]:
    """Count the leads of a sweep by fit, and those that were enriched by industry.

    A list is null if its step did not run, and a lead is null if its execution failed.
    """
    leads = qualified or []
    return {
        "leads": len(leads),
        "failed": leads.count(None),
        "by_fit": Counter(lead["fit"] for lead in leads if lead),
        "enriched": sum(lead is not None for lead in enriched or ()),
        "by_industry": Counter(lead["industry"] for lead in enriched or () if lead),
    }

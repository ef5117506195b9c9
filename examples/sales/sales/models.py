"""The table of leads, in a database of our own, and what agents and API do with it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import Engine, String, Text, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from celeriac import PermanentError


class NewLead(BaseModel):
    """What somebody tells us of themselves."""

    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+$", max_length=254)
    company: str = Field(min_length=1, max_length=200)
    employees: int = Field(default=0, ge=0)
    message: str = Field(default="", max_length=4000)


class Base(DeclarativeBase):
    """The tables of this package."""


class Lead(Base):
    """A company that may become a customer."""

    __tablename__ = "leads"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    company: Mapped[str] = mapped_column(String(200))
    employees: Mapped[int]
    message: Mapped[str] = mapped_column(Text)
    fit: Mapped[str | None] = mapped_column(String(10))
    reason: Mapped[str | None] = mapped_column(Text)
    score: Mapped[int | None]
    industry: Mapped[str | None] = mapped_column(String(20))
    summary: Mapped[str | None] = mapped_column(Text)

    def to_dict(self) -> dict[str, Any]:
        """Return the columns as JSON values."""
        return {column.key: getattr(self, column.key) for column in self.__table__.columns}


class NoSuchLeadError(PermanentError, code="no_such_lead"):
    """There is no lead with this id. An execution that raises it is not retried."""


@cache
def engine() -> Engine:
    """Return the engine for SALES_DATABASE_URL, or for `sales.db` in the current directory."""
    return create_engine(os.environ.get("SALES_DATABASE_URL", "sqlite:///sales.db"))


@contextmanager
def session() -> Iterator[Session]:
    """Open a session; commit at its end, or roll back after an error."""
    with Session(engine()) as opened, opened.begin():
        yield opened


def save_leads(leads: Iterable[NewLead]) -> list[dict[str, Any]]:
    """Store leads, each once by its address; return all of them. Repeating it changes nothing."""
    with session() as opened:
        stored = []
        for new in leads:
            lead = opened.scalar(select(Lead).where(Lead.email == new.email))
            if lead is None:
                lead = Lead(**new.model_dump())
                opened.add(lead)
                opened.flush()
            stored.append(lead.to_dict())
        return stored


def find_lead(lead_id: int) -> dict[str, Any]:
    """Return a lead. Raises NoSuchLeadError."""
    with session() as opened:
        return _lead(opened, lead_id).to_dict()


def change_lead(lead_id: int, **values: Any) -> dict[str, Any]:
    """Set columns of a lead and return it. Raises NoSuchLeadError."""
    with session() as opened:
        lead = _lead(opened, lead_id)
        for name, value in values.items():
            setattr(lead, name, value)
        return lead.to_dict()


def list_leads() -> list[dict[str, Any]]:
    """Return all leads, the best first."""
    with session() as opened:
        found = opened.scalars(select(Lead).order_by(Lead.score.desc().nulls_last(), Lead.id))
        return [lead.to_dict() for lead in found]


def unqualified_ids(limit: int) -> Sequence[int]:
    """Return the ids of the oldest leads without a score."""
    with session() as opened:
        wanted = select(Lead.id).where(Lead.score.is_(None)).order_by(Lead.id).limit(limit)
        return list(opened.scalars(wanted))


def _lead(opened: Session, lead_id: int) -> Lead:
    lead = opened.get(Lead, lead_id)
    if lead is None:
        raise NoSuchLeadError(f"There is no lead {lead_id}.")
    return lead

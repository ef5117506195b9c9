"""The checks of an installation: their codes, and what they find."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """The level of a finding."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Code(StrEnum):
    """What a finding is about; stable across releases."""

    PYTHON = "python"
    PACKAGES = "packages"
    HOME = "home"
    DISK = "disk"
    CONFIGURATION = "configuration"
    STACK = "stack"
    AGENT_USER = "agent_user"
    CONFINEMENT = "confinement"
    LOCAL_MODEL = "local_model"
    CREWAI = "crewai"
    CLAUDE_CODE = "claude_code"
    GIT = "git"
    DATABASE = "database"
    POOLER = "pooler"
    SCHEMA = "schema"
    PARTITIONS = "partitions"
    CLOCK = "clock"
    REDIS = "redis"
    BROKER = "broker"
    QUEUES = "queues"
    WORKERS = "workers"
    MESSAGES = "messages"
    INDEXES = "indexes"
    LONG_TRANSACTIONS = "long_transactions"
    VACUUM = "vacuum"
    TRANSACTION_IDS = "transaction_ids"
    LOST_WORKERS = "lost_workers"
    KEEPER = "keeper"
    REDIS_KEYS = "redis_keys"
    EXPIRING_KEYS = "expiring_keys"
    OBJECT_STORE = "object_store"
    PRICES = "prices"
    PROVIDERS = "providers"
    RELEASES = "releases"
    NOTIFICATION_LINKS = "notification_links"
    API = "api"
    API_KEY = "api_key"
    MODEL_SERVER = "model_server"


SUBJECTS: Mapping[Code, str] = {
    Code.PYTHON: "Python",
    Code.STACK: "celeriac up",
    Code.AGENT_USER: "agents",
    Code.CONFINEMENT: "confinement",
    Code.LOCAL_MODEL: "local model",
    Code.CREWAI: "CrewAI",
    Code.CLAUDE_CODE: "Claude Code",
    Code.DATABASE: "PostgreSQL",
    Code.REDIS: "Redis",
    Code.LONG_TRANSACTIONS: "transactions",
    Code.TRANSACTION_IDS: "transactions",
    Code.LOST_WORKERS: "keeper",
    Code.REDIS_KEYS: "Redis keys",
    Code.EXPIRING_KEYS: "API keys",
    Code.OBJECT_STORE: "object store",
    Code.NOTIFICATION_LINKS: "notices",
    Code.API: "API",
    Code.API_KEY: "API key",
    Code.MODEL_SERVER: "model server",
}
"""How people read a code, where that differs from it."""


class Cause(StrEnum):
    """What kind of failure a finding is."""

    BROKEN = "broken"
    UNAVAILABLE = "unavailable"
    MISCONFIGURED = "misconfigured"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, with its cure where it isn't OK."""

    code: Code
    level: Level
    message: str
    cure: str | None = None
    cause: Cause | None = None
    """Of a failure."""

    @property
    def subject(self) -> str:
        """What it is about, as people read it."""
        return SUBJECTS.get(self.code, self.code.value)


def ok(code: Code, message: str) -> Finding:
    """Return a finding of level OK."""
    return Finding(code, Level.OK, message)


def warning(code: Code, message: str, cure: str | None) -> Finding:
    """Return a finding of level WARNING; `cure` is None where the message has it."""
    return Finding(code, Level.WARNING, message, cure)


def failed(code: Code, message: str, cure: str | None, cause: Cause = Cause.UNAVAILABLE) -> Finding:
    """Return a finding of level FAILED; `cure` is None where the message has it."""
    return Finding(code, Level.FAILED, message, cure, cause)


@dataclass(frozen=True, slots=True)
class RedisServer:
    """Product and version, memory in bytes (`max_memory` 0: no limit), eviction and persistence."""

    product: str
    version: str
    used_memory: int
    max_memory: int
    eviction: str
    append_only: bool


@dataclass(frozen=True, slots=True)
class BrokerServer:
    """Product and version, as a broker that speaks AMQP introduces itself."""

    product: str
    version: str


@dataclass(frozen=True, slots=True)
class LastingKeys:
    """Keys of one Redis database, of a bounded sample of them."""

    address: str
    """Without the password."""
    keys: int
    """How many there are in the database."""
    sampled: int
    unknown: Sequence[str]
    """Names of those in the sample that never expire, and that nothing of ours makes."""
    waiting: int
    """Events and replies of Celery in the sample that nobody has read."""


@dataclass(frozen=True, slots=True)
class ProviderAnswer:
    """Whether a provider of models answered a request without a key."""

    name: str
    host: str
    status: int | None
    """Of its HTTP answer, whatever it was."""
    error: str | None
    """Why there was none."""

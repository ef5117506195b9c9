"""The administrator's API key of a home: made once, kept in a private file."""

import structlog

from celeriac.cli.server import key_file
from celeriac.db.engine import Database
from celeriac.domain.errors import UnauthenticatedError
from celeriac.embedded.home import Home, write_private
from celeriac.services.accounts import Accounts
from celeriac.services.authenticate import Authenticate

logger = structlog.get_logger(__name__)


def ensure_admin_key(database: Database, home: Home, secret_key: str) -> str:
    """Return the home's key, made anew where there is none or this database doesn't know it.

    Raises DatabaseUnavailableError, HomeUnusableError, and ConflictError where the user `admin`
    exists and is none.
    """
    path = key_file(home)
    if path.exists():
        token = path.read_text(encoding="utf-8").strip()
        try:
            Authenticate(database, secret_key)(token, request_id=None)
        except UnauthenticatedError as error:
            logger.info("admin_key.replaced", reason=error.message)
        else:
            return token
    made = Accounts(database, secret_key).bootstrap_admin(key_name=f"celeriac up in {home.root}")
    write_private(path, made.token)
    return made.token

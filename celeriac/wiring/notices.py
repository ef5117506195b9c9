"""How people are told of questions, as the settings have it."""

from urllib.parse import urlsplit

from celeriac.adapters.background import InBackground
from celeriac.adapters.notifications import Webhook
from celeriac.domain.errors import ConfigurationError
from celeriac.services.approval_links import ApprovalLinks
from celeriac.services.notices import Notices
from celeriac.wiring.container import Container
from celeriac.wiring.options import secret_key


def build_notices(container: Container) -> InBackground | None:
    """Return what tells of open questions, or None where no webhook is configured.

    Raises ConfigurationError where there is no secret key to sign links with, and for an address
    that would carry them over the internet in the clear.
    """
    settings = container.settings
    webhook, secret = settings.approvals.webhook, settings.approvals.webhook_secret
    if webhook is None or secret is None:
        return None
    guard = settings.outbound.guard()
    address = urlsplit(webhook)
    if address.scheme != "https" and not guard.names(address.hostname or ""):
        raise ConfigurationError(
            "CELERIAC_APPROVALS_WEBHOOK must begin with https://, unless its host is one of "
            "CELERIAC_OUTBOUND_ALLOW_HOSTS: the links that it is sent are secrets."
        )
    notices = Notices(
        container.database,
        ApprovalLinks(secret_key(settings)),
        Webhook(webhook, secret.get_secret_value(), guard),
        public_url=settings.public_url,
    )
    return InBackground(notices.send_due, name="notify_of_approvals")

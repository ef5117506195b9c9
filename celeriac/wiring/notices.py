"""How people are told of questions, as the settings have it."""

from celeriac.adapters.background import InBackground
from celeriac.adapters.notifications import Webhook
from celeriac.services.approval_links import ApprovalLinks
from celeriac.services.notices import Notices
from celeriac.wiring.container import Container
from celeriac.wiring.options import secret_key


def build_notices(container: Container) -> InBackground | None:
    """Return what tells of open questions, or None where no webhook is configured.

    Raises ConfigurationError where there is no secret key to sign links with.
    """
    settings = container.settings
    webhook, secret = settings.approvals.webhook, settings.approvals.webhook_secret
    if webhook is None or secret is None:
        return None
    notices = Notices(
        container.database,
        ApprovalLinks(secret_key(settings)),
        Webhook(webhook, secret.get_secret_value(), settings.outbound.guard()),
        public_url=settings.public_url,
    )
    return InBackground(notices.send_due, name="notify_of_approvals")

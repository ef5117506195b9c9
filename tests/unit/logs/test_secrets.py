"""A corpus of secrets as they get into texts: none is readable in a line.

They are put together from parts here: a file with whole ones would be reported as a leak.
"""

import random
import string

import pytest

from celeriac.logs.redact import redact, redact_text

pytestmark = pytest.mark.requirement("A15")

_RANDOM = random.Random(7)
_BASE = string.ascii_letters + string.digits


def made(length: int, alphabet: str = _BASE) -> str:
    return "".join(_RANDOM.choice(alphabet) for _ in range(length))


KEYS = {
    "OpenAI": ("sk-" + "proj-", made(48)),
    "Anthropic": ("sk-" + "ant-api03-", made(93, _BASE + "_-")),
    "OpenRouter": ("sk-" + "or-v1-", made(64, "0123456789abcdef")),
    "Google": ("AI" + "za", made(35, _BASE + "_-")),
    "AWS": ("AK" + "IA", made(16, string.ascii_uppercase + string.digits)),
    "GitHub": ("gh" + "p_", made(36)),
    "GitHub, of one repository": ("github" + "_pat_", made(60, _BASE + "_")),
    "GitLab": ("gl" + "pat-", made(20)),
    "Slack": ("xo" + "xb-", made(40, string.digits + "-")),
    "Stripe": ("sk" + "_live_", made(24)),
    "Hugging Face": ("h" + "f_", made(34)),
    "Groq": ("gs" + "k_", made(52)),
    "xAI": ("xa" + "i-", made(80)),
    "Replicate": ("r" + "8_", made(37)),
    "NVIDIA": ("nv" + "api-", made(64)),
    "Celeriac": ("key" + "_0123456789ab_", made(48, "0123456789abcdef")),
    "a webhook": ("wh" + "sec_", made(43, _BASE + "_-")),
}
_PLACES = [
    "{}",
    "the key {} was refused",
    '{{"error": "bad key: {}"}}',
    "Client(key='{}')",
    "line one\n{}\nline three",
    "https://host/v1/models?x={}&page=2",
]


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("name", KEYS)
def test_a_providers_key_is_masked_wherever_it_is(name: str, place: str) -> None:
    prefix, secret = KEYS[name]
    shown = redact_text(place.format(prefix + secret))
    assert secret[:8] not in shown
    assert secret[-8:] not in shown
    assert "***" in shown


_SECRET = made(12) + "7" + made(12)
_BODY = "\n".join(made(64, _BASE + "+/") for _ in range(12))
OTHERS = {
    "a DSN": f"postgresql+psycopg://me:{_SECRET}@db:5432/x?sslmode=require",
    "a DSN without a user": f"redis://:{_SECRET}@cache:6379/0",
    "libpq's form": f"host=db user=me password={_SECRET} dbname=x",
    "userinfo of a URL": f"GET https://{_SECRET}@host/path failed",
    "a bearer header": f"Authorization: Bearer {_SECRET}",
    "a bearer header as JSON": f'{{"authorization": "Bearer {_SECRET}"}}',
    "a basic header": f"authorization: basic {_SECRET}==",
    "a header of a key": f"x-api-key: {_SECRET}",
    "a cookie": f"Cookie: theme=dark; session={_SECRET}",
    "a cookie that is set": f"set-cookie: session={_SECRET}; HttpOnly; Path=/",
    "a cookie as JSON": f'{{"cookie": "session={_SECRET}"}}',
    "a cookie of CGI": f"HTTP_COOKIE=theme=dark; session={_SECRET}",
    "a variable": f"ANTHROPIC_API_KEY={_SECRET} celeriac worker",
    "a JSON Web Token": "sent ey" + f"J{made(20)}.{_SECRET}.{made(43)}",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_secrets_are_masked(name: str) -> None:
    assert _SECRET not in redact_text(OTHERS[name])
    assert _SECRET not in str(redact({"error": [OTHERS[name]]}))


@pytest.mark.parametrize("kind", ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "])
@pytest.mark.parametrize("end", [True, False])
def test_a_private_key_is_masked_also_if_its_end_is_cut_off(kind: str, *, end: bool) -> None:
    last = f"\n-----END {kind}PRIVATE KEY-----\nnext" if end else ""
    head = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n"
    shown = redact_text(f"read -----BEGIN {kind}PRIVATE KEY-----\n{head}{_BODY}{last}")
    assert not [row for row in _BODY.split("\n") if row[:16] in shown]
    assert shown.startswith("read ")
    assert shown.endswith("next") is end


@pytest.mark.parametrize(
    "text",
    [
        "0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11",
        "execution.retry_scheduled",
        "celeriac.services.executions.attempt",
        "the cookie: a small cake",
        "task-execution-0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11.log",
        "-----BEGIN CERTIFICATE-----",
        "a risk-assessment-of-the-whole-department",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_text(text) == text

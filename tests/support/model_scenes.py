"""What the scripted model server answers, by the first word of the prompt."""

import json
import time

from tests.support.model_server import Exchange, Scene, tokens

KEY = "sk-test-0123456789abcdef"
SCENES: dict[str, Scene] = {}

TICKET = {"category": "billing", "summary": "Charged twice."}


def scene(function: Scene) -> Scene:
    """Play `function` for prompts that begin with its name."""
    SCENES[function.__name__] = function
    return function


@scene
def plain(exchange: Exchange) -> None:
    exchange.answer("Hello", " there", ", friend.")


@scene
def thinking(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say("Let me see.", field="reasoning_content")
    exchange.say("Fine.")
    exchange.stop()


@scene
def cached(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say("Again.")
    exchange.stop(usage=tokens(1000, 100, cached=600))


@scene
def unmetered(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say("Who counts?")
    exchange.stop(usage=False)


@scene
def miscounted(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say("More cached than read.")
    exchange.stop(usage=tokens(10, 5, cached=99))


@scene
def broken(exchange: Exchange) -> None:
    """Half of a character beyond the first plane, and a NUL."""
    exchange.answer("half \ud83d", " nul \x00")


@scene
def structured(exchange: Exchange) -> None:
    text = json.dumps(TICKET)
    exchange.answer(text[:20], text[20:])


@scene
def several(exchange: Exchange) -> None:
    exchange.answer(json.dumps({"value": ["red", "green"]}))


@scene
def enormous(exchange: Exchange) -> None:
    exchange.answer(f'{{"value": {2**64}}}')


@scene
def enormous_within(exchange: Exchange) -> None:
    exchange.answer(f'{{"value": [1, {{"a": {2**64}}}]}}')


@scene
def repaired(exchange: Exchange) -> None:
    first = len(exchange.received.body["messages"]) == 1
    exchange.answer(json.dumps({**TICKET, "category": "weather"} if first else TICKET))


@scene
def invalid(exchange: Exchange) -> None:
    exchange.answer(json.dumps({**TICKET, "category": "weather"}))


@scene
def garbage(exchange: Exchange) -> None:
    exchange.answer("I would rather not.")


@scene
def length(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say('{"category": "bil')
    exchange.stop("length")


@scene
def cut(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say("Once upon a")
    exchange.stop("length")


@scene
def filtered(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say("I could tell you")
    exchange.stop("content_filter")


@scene
def empty(exchange: Exchange) -> None:
    exchange.answer()


@scene
def unauthorized(exchange: Exchange) -> None:
    exchange.error(401, {"message": f"Incorrect API key: {KEY}", "code": "invalid_api_key"})


@scene
def quota(exchange: Exchange) -> None:
    exchange.error(
        429, {"message": "You exceeded your quota", "code": "insufficient_quota"}, retry_after="60"
    )


@scene
def toolong(exchange: Exchange) -> None:
    exchange.error(400, {"message": "Too many tokens", "code": "context_length_exceeded"})


@scene
def limited(exchange: Exchange) -> None:
    exchange.error(429, {"message": "Slow down"}, retry_after="17")


@scene
def hurried(exchange: Exchange) -> None:
    if exchange.tries == 1:
        exchange.error(429, {"message": "Slow down"}, retry_after_ms="20")
    else:
        exchange.answer("Now.")


@scene
def flaky(exchange: Exchange) -> None:
    if exchange.tries == 1:
        exchange.error(500, {"message": "Oops"}, retry_after_ms="20")
    else:
        exchange.answer("Recovered.")


@scene
def down(exchange: Exchange) -> None:
    exchange.error(503, "maintenance", retry_after_ms="20")


@scene
def status(exchange: Exchange) -> None:
    """`status 404 …`: refuse with that status."""
    exchange.error(
        int(exchange.received.prompt.split()[1]), {"message": "No."}, retry_after_ms="20"
    )


@scene
def malformed(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say("So far")
    exchange.raw(b'data: {"choices": [{"delta"\n\n')
    exchange.finish()


@scene
def misshapen(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say("So far")
    exchange.raw(b'data: {"choices": "none of your business"}\n\n')
    exchange.stop()


@scene
def inner(exchange: Exchange) -> None:
    """An error object inside a stream that began well."""
    exchange.begin()
    exchange.say("So far")
    exchange.raw(b'data: {"error": {"message": "GPU lost", "code": "server_error"}}\n\n')
    exchange.finish()


@scene
def truncated(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say("Half a sent")
    exchange.raw(b"data: [DONE]\n\n")
    exchange.finish()


@scene
def dropped(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say("Half a sent")
    exchange.drop()


@scene
def silent(exchange: Exchange) -> None:
    exchange.wait_for_leave()


@scene
def stalled(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say("One moment")
    exchange.wait_for_leave()


@scene
def slow(exchange: Exchange) -> None:
    """Longer in all than the watchdog's patience, never silent for so long."""
    exchange.begin()
    for word in "each word comes in its own good time".split():
        time.sleep(0.1)
        exchange.say(word + " ")
    exchange.stop()


@scene
def use(exchange: Exchange) -> None:
    """`use server__tool {…} / server__tool {…}`: call these, one answer each; then repeat them."""
    calls = exchange.received.prompt.removeprefix("use ").split(" / ")
    answered = exchange.received.answered
    if len(answered) < len(calls):
        name, _, arguments = calls[len(answered)].partition(" ")
        exchange.calls((name, arguments))
    else:
        exchange.answer("; ".join(answered))


@scene
def both(exchange: Exchange) -> None:
    """`both server__tool {…} / …`: call these in one answer; then repeat what they answered."""
    prompt = exchange.received.prompt.removeprefix("both ")
    calls = [call.partition(" ")[::2] for call in prompt.split(" / ")]
    if exchange.received.answered:
        exchange.answer("; ".join(exchange.received.answered))
    else:
        exchange.calls(*calls)


@scene
def ticket(exchange: Exchange) -> None:
    """Ask a person for the category, then answer with a ticket of it."""
    answered = exchange.received.answered
    if not answered:
        exchange.calls(("ask_person", {"question": "Which category?"}))
    else:
        exchange.answer(json.dumps({**TICKET, "category": answered[0]}))


@scene
def remember(exchange: Exchange) -> None:
    """Answer with all that users have said so far."""
    said = [each["content"] for each in exchange.received.body["messages"]]
    exchange.answer(" | ".join(str(text) for text in said))


@scene
def interrupted(exchange: Exchange) -> None:
    """Use a tool; be overrun when its answer comes for the first time, then repeat it."""
    answered = exchange.received.answered
    if not answered:
        exchange.calls(("desk__note", {"text": "once"}))
    elif exchange.tries == 1:
        exchange.error(429, {"message": "Slow down"}, retry_after="17")
    else:
        exchange.answer(answered[0])


@scene
def halves(exchange: Exchange) -> None:
    """Repeat what the user said, in two pieces."""
    said = exchange.received.prompt
    exchange.answer(said[: len(said) // 2], said[len(said) // 2 :])


@scene
def held(exchange: Exchange) -> None:
    """Use a tool; say nothing when its answer comes for the first time, then repeat it."""
    answered = exchange.received.answered
    if not answered:
        exchange.calls(("desk__note", {"text": "once"}))
    elif exchange.tries == 1:
        exchange.wait_for_leave()
    else:
        exchange.answer(answered[0])

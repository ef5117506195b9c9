"""What can't be right is refused when it is made; what may be wrong is said."""

from typing import Any

import pytest

from tests.support.api import Asker, assert_problem

AGENTS = "/api/v1/agents"
TASKS = "/api/v1/tasks"
LLM: dict[str, Any] = {"name": "clerk", "spec": {"runner": "llm", "model": "local/nosuch"}}
PYTHON: dict[str, Any] = {"name": "hand", "spec": {"runner": "python", "function": "shop:nothing"}}


@pytest.mark.parametrize("model", ["gpt5", "local/", "/smollm2", "/"])
def test_a_model_without_a_provider_is_refused(admin: Asker, model: str) -> None:
    spec = {"runner": "llm", "model": model}
    body = assert_problem(
        admin.post(AGENTS, json={"name": "clerk", "spec": spec}), 422, "invalid_input"
    )
    assert body["field"] == "spec.model"
    assert "provider/model" in body["detail"]
    admin.post(AGENTS, json=LLM)
    assert_problem(admin.patch(f"{AGENTS}/clerk", json={"spec": spec}), 422, "invalid_input")
    document = {"agents": [{"name": "other", "spec": spec}]}
    body = assert_problem(admin.post("/api/v1/apply", json=document), 422, "document_invalid")
    assert body["field"] == "agents.0.spec.model"


@pytest.mark.parametrize("prompt", ["", " \n "])
@pytest.mark.parametrize("spec", [LLM["spec"], {"runner": "claude"}], ids=["llm", "claude"])
def test_an_agent_that_needs_a_prompt_gets_no_task_without_one(
    admin: Asker, spec: dict[str, Any], prompt: str
) -> None:
    admin.post(AGENTS, json={"name": "clerk", "spec": spec})
    admin.post(AGENTS, json=PYTHON)
    empty = {"name": "sort", "agent": "clerk", "spec": {"prompt": prompt}}
    body = assert_problem(admin.post(TASKS, json=empty), 422, "template_invalid")
    assert body["field"] == "spec.prompt"
    body = assert_problem(
        admin.post("/api/v1/apply", json={"tasks": [empty]}), 422, "document_invalid"
    )
    assert body["field"] == "tasks.0.spec.prompt"
    assert admin.post(TASKS, json={**empty, "agent": "hand"}).status_code == 201
    assert_problem(admin.patch(f"{TASKS}/sort", json={"agent": "clerk"}), 422, "template_invalid")
    both = {"agent": "clerk", "spec": {"prompt": "Sort."}}
    assert admin.patch(f"{TASKS}/sort", json=both).status_code == 200
    assert_problem(
        admin.patch(f"{TASKS}/sort", json={"spec": {"prompt": prompt}}), 422, "template_invalid"
    )
    assert admin.patch(f"{TASKS}/sort", json={"active": False}).status_code == 200


def test_what_looks_wrong_is_said_and_kept(admin: Asker) -> None:
    made = admin.post(AGENTS, json=LLM)
    assert made.status_code == 201
    assert "no local model server" in made.json()["warnings"][0]
    made = admin.post(AGENTS, json=PYTHON)
    assert "CELERIAC_AGENT_MODULES" in made.json()["warnings"][0]
    assert admin.get(f"{AGENTS}/hand").json()["warnings"] == []
    changed = admin.patch(f"{AGENTS}/hand", json={"description": "Helps."})
    assert changed.json()["warnings"] == [], "only of what was changed"
    changed = admin.patch(f"{AGENTS}/hand", json={"spec": {"runner": "command", "command": "no"}})
    assert "CELERIAC_COMMANDS has: none" in changed.json()["warnings"][0]
    applied = admin.post("/api/v1/apply?dry_run=true", json={"agents": [LLM]}).json()
    assert "no local model server" in applied["items"][0]["warnings"][0]
    crew = {"runner": "crewai", "crew": {
        "agents": [{"id": "a", "role": "r", "goal": "g", "model": "vllm/x"}],
        "tasks": [{"id": "t", "description": "d", "expected_output": "e", "agent": "a"}],
    }}  # fmt: skip
    made = admin.post(AGENTS, json={"name": "crew", "spec": crew})
    assert "names the provider 'vllm'" in made.json()["warnings"][0]

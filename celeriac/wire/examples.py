"""What answers look like, for the interactive documentation."""

from typing import Any

_ID = "0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11"
_OWNER = "0199f3a2-0001-7000-8000-000000000001"
_AGENT = "0199f3a2-0002-7000-8000-000000000002"
_TASK = "0199f3a2-0003-7000-8000-000000000003"
_BATCH = "0199f3a2-0004-7000-8000-000000000004"
_KEY = "0199f3a2-0005-7000-8000-000000000005"
_BUDGET = "0199f3a2-0007-7000-8000-000000000007"
_SESSION = "0199f3a2-0006-7000-8000-000000000006"
_CELERY = "7c0a2f1e-5d86-4a3b-9c11-2f6f3a9d4e55"
_PATH = f"/api/v1/task-executions/{_ID}"
_AT = "2026-11-22T09:30:00.125000Z"
_LATER = "2026-11-22T09:30:02.640000Z"

USER: dict[str, Any] = {
    "id": _OWNER, "name": "ada", "role": "operator", "created_at": _AT, "disabled_at": None,
}  # fmt: skip

API_KEY: dict[str, Any] = {
    "id": _KEY, "user_id": _OWNER, "user_name": "ada", "name": "ci", "prefix": "4f2a9c0d1b7e",
    "role": "operator", "created_at": _AT, "expires_at": None, "revoked_at": None,
    "last_used_at": _LATER,
}  # fmt: skip

NEW_API_KEY: dict[str, Any] = API_KEY | {
    "last_used_at": None, "token": "cel_4f2a9c0d1b7e_" + "…",
}  # fmt: skip

AGENT: dict[str, Any] = {
    "id": _AGENT, "owner_id": _OWNER, "name": "writer",
    "description": "Writes short, plain texts.", "version": 1,
    "spec": {
        "runner": "llm", "model": "local/smollm2",
        "instructions": "You answer in one short paragraph.", "temperature": None,
        "max_output_tokens": None, "max_model_calls": 20, "mcp_servers": [], "may_ask": False,
        "approvals": {"expires_seconds": 86400.0, "on_expiry": "deny"}, "keep_session": False,
    },
    "created_at": _AT, "updated_at": _AT, "warnings": [],
    "_links": {"self": f"/api/v1/agents/{_AGENT}"},
}  # fmt: skip

TASK: dict[str, Any] = {
    "id": _TASK, "owner_id": _OWNER, "name": "summarise", "description": "", "active": True,
    "agent": {"id": _AGENT, "name": "writer"}, "version": 1,
    "spec": {
        "prompt": "Summarise in one sentence:\n\n{{ text }}",
        "variables_schema": {
            "type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"],
        },
        "output_schema": None,
        "limits": {"soft_seconds": 55.0, "hard_seconds": 60.0, "memory_mb": 1024},
        "retry": {
            "max_retries": 3, "base_seconds": 2.0, "factor": 2.0, "max_seconds": 300.0,
            "jitter": 0.1,
        },
        "max_crashes": 3, "queue": "task_execution", "budget": None, "priority": "normal",
    },
    "created_at": _AT, "updated_at": _AT,
    "_links": {
        "self": f"/api/v1/tasks/{_TASK}", "agent": f"/api/v1/agents/{_AGENT}",
        "execute": f"/api/v1/tasks/{_TASK}/execute",
        "execute_batch": f"/api/v1/tasks/{_TASK}/execute-batch",
        "executions": f"/api/v1/task-executions?task={_TASK}",
    },
}  # fmt: skip

APPLIED: dict[str, Any] = {
    "dry_run": False, "created": 1, "changed": 1, "unchanged": 0,
    "items": [
        {
            "kind": "agent", "name": "writer", "action": "change", "id": _AGENT, "version": 2,
            "changes": [{"field": "spec.temperature", "before": None, "after": 0.2}],
            "warnings": [],
        },
        {
            "kind": "task", "name": "summarise", "action": "create", "id": _TASK, "version": 1,
            "changes": [
                {"field": "agent", "before": None, "after": "writer"},
                {"field": "spec.prompt", "before": None, "after": "Summarise: {{ text }}"},
            ],
            "warnings": [],
        },
    ],
}  # fmt: skip

_LINKS: dict[str, Any] = {
    "self": _PATH, "task": f"/api/v1/tasks/{_TASK}", "session": None,
    "celery_task": f"/api/v1/admin/celery-tasks/{_CELERY}", "events": f"{_PATH}/events",
    "stream": f"{_PATH}/stream", "cancel": f"{_PATH}/cancel",
}  # fmt: skip

ACCEPTED: dict[str, Any] = {
    "execution_id": _ID, "task_id": _TASK, "status": "queued", "execution_mode": "async",
    "celery_task_id": _CELERY, "session_id": None, "_links": _LINKS,
}  # fmt: skip

ACCEPTED_BATCH: dict[str, Any] = {
    "batch_id": _BATCH, "task_id": _TASK, "count": 1, "execution_ids": [_ID],
    "_links": {
        "self": f"/api/v1/task-executions?batch_id={_BATCH}", "task": f"/api/v1/tasks/{_TASK}",
    },
}  # fmt: skip

EXECUTION: dict[str, Any] = {
    "id": _ID, "owner_id": _OWNER, "task_id": _TASK, "task_name": "summarise",
    "status": "completed", "trigger_type": "manual", "execution_mode": "async",
    "priority": "normal", "queue": "task_execution",
    "variables": {"text": "Celeriac is a root vegetable."}, "result": "A root vegetable.",
    "truncated": False,
    "error_code": None, "error_message": None, "error_type": None, "error_details": None,
    "attempt": 1, "retry_count": 0, "crash_count": 0, "celery_task_id": _CELERY,
    "worker_hostname": "celery@shop-1/4711", "origin_id": None, "batch_id": None,
    "session_id": None, "request_id": "shop-42", "created_at": _AT, "available_at": _AT,
    "queued_at": _AT, "started_at": _AT, "completed_at": _LATER, "duration_seconds": 2.515,
    "cancel_requested_at": None, "cancel_requested_by": None, "waiting_for": None,
    "waiting_until": None, "event_count": 7,
    "options": {
        "fork_session": False, "budget": None, "record": False, "cassette_id": None,
    },
    "message_count": 2, "tool_call_count": 0, "model_call_count": 1, "input_tokens": 48,
    "output_tokens": 21, "cost": "0.00", "progress": None,
    "_links": _LINKS
    | {
        "files": f"{_PATH}/files", "cancel": None, "retry": f"{_PATH}/retry",
        "model_calls": f"{_PATH}/model-calls", "budgets": f"{_PATH}/budgets",
        "report": f"{_PATH}/report", "approvals": f"/api/v1/approvals?execution_id={_ID}",
    },
}  # fmt: skip

EXECUTION_SUMMARY: dict[str, Any] = {
    name: value
    for name, value in EXECUTION.items()
    if name not in {"variables", "result", "error_details"}
}

SESSION: dict[str, Any] = {
    "id": _SESSION, "owner_id": _OWNER, "execution_id": _ID, "runner": "claude",
    "parent_id": None, "external_id": "5a1c1f6e-0d52-4b63-8a40-3a1d6f1d0b2e", "status": "ended",
    "error_code": None, "error_message": None, "created_at": _AT, "updated_at": _LATER,
    "_links": {
        "self": f"/api/v1/sessions/{_SESSION}", "execution": _PATH, "parent": None,
        "executions": f"/api/v1/task-executions?session_id={_SESSION}",
        "files": f"/api/v1/sessions/{_SESSION}/files",
    },
}  # fmt: skip

FILES: dict[str, Any] = {
    "items": [
        {
            "path": "notes/summary.md", "size": 1834, "modified_at": _LATER,
            "_links": {"self": f"/api/v1/sessions/{_SESSION}/files/notes/summary.md"},
        }
    ],
    "next_after": None, "skipped": 0,
}  # fmt: skip

CASSETTE: dict[str, Any] = {
    "id": _ID, "owner_id": _OWNER, "name": "summarise", "execution_id": _ID, "interactions": 3,
    "size": 18452, "complete": True, "created_at": _LATER,
    "_links": {
        "self": f"/api/v1/cassettes/{_ID}", "content": f"/api/v1/cassettes/{_ID}/content",
        "execution": _PATH,
    },
}  # fmt: skip

REPORTS: dict[str, Any] = {
    "items": [
        {
            "format": "markdown", "size": 4127, "created_at": _LATER,
            "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
            "_links": {"self": f"{_PATH}/report?format=markdown"},
        }
    ],
}  # fmt: skip

_STANDING: dict[str, Any] = {
    "budget_id": _BUDGET, "scope": "task", "subject_id": _TASK, "window": "2026-11-22",
    "on_budget": "ask", "max_cost": "5.00", "max_tokens": None,
    "spent_cost": "1.2045", "spent_tokens": 482113, "reserved_cost": "0.012",
    "reserved_tokens": 4310, "overshoot_cost": "0.00", "overshoot_tokens": 0, "raised": 0,
}  # fmt: skip

BUDGET_STANDINGS: dict[str, Any] = {"items": [_STANDING]}

BUDGET: dict[str, Any] = {
    "id": _BUDGET, "scope": "task", "subject_id": _TASK, "subject_name": "summarise",
    "owner_id": _OWNER, "period": "day", "max_cost": "5.00", "max_tokens": None,
    "on_budget": "ask", "standing": _STANDING, "created_at": _AT, "updated_at": _AT,
    "_links": {"self": f"/api/v1/budgets/{_BUDGET}", "task": f"/api/v1/tasks/{_TASK}"},
}  # fmt: skip

MADE_CALL: dict[str, Any] = {
    "id": _KEY, "attempt": 1, "at": _LATER, "provider": "openai", "model": "gpt-5-mini",
    "input_tokens": 812, "output_tokens": 96, "cached_tokens": 512, "latency_ms": 1840,
    "finish_reason": "stop", "cost": "0.0002798",
}  # fmt: skip

USAGE_TOTALS: dict[str, Any] = {
    "items": [
        {
            "key": "2026-11-22", "name": "2026-11-22", "calls": 1204, "unpriced_calls": 0,
            "input_tokens": 981204, "output_tokens": 120331, "cached_tokens": 402110,
            "cost": "0.4123",
        }
    ],
}  # fmt: skip

EVENT: dict[str, Any] = {
    "seq": 3, "type": "started", "at": _AT, "attempt": 1, "data": {"worker": "celery@shop-1/4711"},
}  # fmt: skip

EVENTS: dict[str, Any] = {"items": [EVENT], "next_after": 3}

CELERY_TASK: dict[str, Any] = {
    "task_id": _CELERY, "name": "celeriac.tasks.monitoring.ping", "status": "SUCCESS",
    "simple_status": "completed", "execution_id": None, "result": "pong", "error": None,
    "worker": "celery@shop-1", "retries": 0, "started_at": None, "completed_at": _LATER,
    "_links": {"self": f"/api/v1/celery-tasks/{_CELERY}"},
}  # fmt: skip

AUDIT_ENTRY: dict[str, Any] = {
    "id": _KEY, "at": _AT, "actor_id": _OWNER, "actor": "ada", "action": "execution.cancel",
    "resource_type": "execution", "resource_id": _ID, "request_id": "shop-42", "details": {},
}  # fmt: skip

AUDIT_FAULT: dict[str, Any] = {
    "first_position": 1, "last_position": 812, "message": "covers entries that were changed",
}  # fmt: skip

AUDIT_VERIFICATION: dict[str, Any] = {
    "ok": True, "entries": 1024, "seals": 2, "start": "00" * 32, "last_position": 1031,
    "head": "5f" * 32, "complete": True, "faults": [],
}  # fmt: skip

HEALTH: dict[str, Any] = {"status": "ok", "version": "0.1.0"}

READY_HEALTH: dict[str, Any] = {
    "status": "ok", "checks": {"database": "ok", "schema": "ok", "redis": "ok"},
}  # fmt: skip

CELERY_HEALTH: dict[str, Any] = {
    "status": "ok", "workers": 1, "consuming": 1, "slots": 100, "active": 3,
    "processes": [
        {
            "hostname": "celery@shop-1", "pid": 4711, "pool": "threads", "slots": 100,
            "running": 3, "cpu_percent": 12.5, "memory_bytes": 183500800, "version": "0.1.0",
            "queues": ["task_execution", "default"], "consuming": True, "messages_dropped": 0,
            "unknown_tasks": [], "unknown_tasks_ages": [], "lacks": [],
            "started_at": _AT, "seen_at": _LATER,
        }
    ],
}  # fmt: skip

_APPROVAL = "0199f3a2-0007-7000-8000-000000000007"

LINKED_APPROVAL: dict[str, Any] = {
    "id": _APPROVAL, "task_name": "write-offer", "kind": "tool",
    "title": "May the agent seller call send_mail?", "tool": "send_mail",
    "arguments": {"to": "ada@example.com", "subject": "Our offer"}, "schema": None,
    "status": "open", "expires_at": "2026-11-23T09:30:00.125000Z", "approved": None,
    "answered_at": None,
}  # fmt: skip

APPROVAL_LINK: dict[str, Any] = {
    "url": "https://celeriac.example.com/api/v1/approvals/links/AZnzogAHcACAAA",
    "expires_at": "2026-11-23T09:30:00.125000Z",
}  # fmt: skip

APPROVAL: dict[str, Any] = LINKED_APPROVAL | {
    "execution_id": _ID, "task_id": _TASK, "owner_id": _OWNER, "attempt": 1, "key": "2:call_1",
    "status": "answered", "on_expiry": "deny", "default": None, "created_at": _AT,
    "approved": True, "value": {"to": "ada@example.com", "subject": "Your offer"},
    "note": "Friendlier so.", "answered_at": _LATER, "answered_by": "ada",
    "_links": {
        "self": f"/api/v1/approvals/{_APPROVAL}", "answer": None, "execution": _PATH,
        "task": f"/api/v1/tasks/{_TASK}",
    },
}  # fmt: skip

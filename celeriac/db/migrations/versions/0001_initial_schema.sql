-- The schema of the first release. `celeriac.db.schema` describes the same tables; the tests compare
-- the two.

CREATE TABLE schema_migrations (
    number integer GENERATED ALWAYS AS IDENTITY,
    revision text NOT NULL,
    phase text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_schema_migrations PRIMARY KEY (revision)
);

CREATE TABLE users (
    id uuid NOT NULL,
    name text NOT NULL,
    role text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz,
    CONSTRAINT pk_users PRIMARY KEY (id),
    CONSTRAINT uq_users_name UNIQUE (name),
    CONSTRAINT ck_users_role_known CHECK (role IN ('viewer', 'operator', 'admin'))
);

CREATE TABLE workspaces (
    id uuid NOT NULL,
    name text NOT NULL,
    personal_of uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    limits_revision integer NOT NULL DEFAULT 0,
    deleted_at timestamptz,
    CONSTRAINT pk_workspaces PRIMARY KEY (id),
    CONSTRAINT uq_workspaces_personal_of UNIQUE (personal_of),
    CONSTRAINT fk_workspaces_personal_of FOREIGN KEY (personal_of) REFERENCES users(id)
);
CREATE UNIQUE INDEX uq_workspaces_name ON workspaces (name) WHERE deleted_at IS NULL;
CREATE INDEX ix_workspaces_deleted_at ON workspaces (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE memberships (
    workspace_id uuid NOT NULL,
    user_id uuid NOT NULL,
    role text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_memberships PRIMARY KEY (workspace_id, user_id),
    CONSTRAINT fk_memberships_user_id FOREIGN KEY (user_id) REFERENCES users(id),
    CONSTRAINT fk_memberships_workspace_id FOREIGN KEY (workspace_id) REFERENCES workspaces(id),
    CONSTRAINT ck_memberships_role_known CHECK (role IN ('viewer', 'operator', 'admin'))
);
CREATE INDEX ix_memberships_user_id ON memberships (user_id);

CREATE TABLE api_keys (
    id uuid NOT NULL,
    user_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    name text NOT NULL,
    prefix text NOT NULL,
    digest text NOT NULL,
    role text NOT NULL,
    unlimited boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    parent_id uuid,
    CONSTRAINT pk_api_keys PRIMARY KEY (id),
    CONSTRAINT uq_api_keys_prefix UNIQUE (prefix),
    CONSTRAINT fk_api_keys_parent_id FOREIGN KEY (parent_id) REFERENCES api_keys(id),
    CONSTRAINT fk_api_keys_user_id FOREIGN KEY (user_id) REFERENCES users(id),
    CONSTRAINT fk_api_keys_workspace_id FOREIGN KEY (workspace_id) REFERENCES workspaces(id),
    CONSTRAINT ck_api_keys_role_known CHECK (role IN ('viewer', 'operator', 'admin'))
);
CREATE INDEX ix_api_keys_expiring ON api_keys (expires_at) WHERE revoked_at IS NULL;
CREATE INDEX ix_api_keys_parent_id ON api_keys (parent_id);
CREATE INDEX ix_api_keys_user_id ON api_keys (user_id);
CREATE INDEX ix_api_keys_workspace_id_user_id ON api_keys (workspace_id, user_id);

CREATE TABLE invitations (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    key_id uuid,
    name text NOT NULL,
    role text NOT NULL,
    prefix text NOT NULL,
    digest text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    accepted_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT pk_invitations PRIMARY KEY (id),
    CONSTRAINT uq_invitations_prefix UNIQUE (prefix),
    CONSTRAINT fk_invitations_key_id FOREIGN KEY (key_id) REFERENCES api_keys(id),
    CONSTRAINT fk_invitations_owner_id FOREIGN KEY (owner_id) REFERENCES users(id),
    CONSTRAINT fk_invitations_workspace_id FOREIGN KEY (workspace_id) REFERENCES workspaces(id),
    CONSTRAINT ck_invitations_role_known CHECK (role IN ('viewer', 'operator', 'admin'))
);
CREATE INDEX ix_invitations_workspace_id_id ON invitations (workspace_id, id);

CREATE TABLE agents (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    current_version_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    CONSTRAINT pk_agents PRIMARY KEY (id),
    CONSTRAINT fk_agents_owner_id FOREIGN KEY (owner_id) REFERENCES users(id),
    CONSTRAINT fk_agents_workspace_id FOREIGN KEY (workspace_id) REFERENCES workspaces(id)
);
CREATE UNIQUE INDEX uq_agents_workspace_id_name ON agents (workspace_id, name)
    WHERE deleted_at IS NULL;

-- The contents of versions. The hash is that of the JSON as it is stored: equal contents are one row.
CREATE TABLE specs (
    hash bytea NOT NULL,
    body json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_specs PRIMARY KEY (hash)
);

CREATE TABLE agent_versions (
    id uuid NOT NULL,
    agent_id uuid NOT NULL,
    version integer NOT NULL,
    spec_hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_agent_versions PRIMARY KEY (id),
    CONSTRAINT uq_agent_versions_agent_id_version UNIQUE (agent_id, version),
    CONSTRAINT fk_agent_versions_agent_id FOREIGN KEY (agent_id) REFERENCES agents(id),
    CONSTRAINT fk_agent_versions_spec_hash FOREIGN KEY (spec_hash) REFERENCES specs(hash)
);

CREATE TABLE tasks (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    active boolean NOT NULL DEFAULT true,
    current_version_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    CONSTRAINT pk_tasks PRIMARY KEY (id),
    CONSTRAINT fk_tasks_agent_id FOREIGN KEY (agent_id) REFERENCES agents(id),
    CONSTRAINT fk_tasks_owner_id FOREIGN KEY (owner_id) REFERENCES users(id),
    CONSTRAINT fk_tasks_workspace_id FOREIGN KEY (workspace_id) REFERENCES workspaces(id)
);
CREATE INDEX ix_tasks_agent_id ON tasks (agent_id);
CREATE UNIQUE INDEX uq_tasks_workspace_id_name ON tasks (workspace_id, name)
    WHERE deleted_at IS NULL;

CREATE TABLE task_versions (
    id uuid NOT NULL,
    task_id uuid NOT NULL,
    version integer NOT NULL,
    spec_hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_task_versions PRIMARY KEY (id),
    CONSTRAINT uq_task_versions_task_id_version UNIQUE (task_id, version),
    CONSTRAINT fk_task_versions_task_id FOREIGN KEY (task_id) REFERENCES tasks(id),
    CONSTRAINT fk_task_versions_spec_hash FOREIGN KEY (spec_hash) REFERENCES specs(hash)
);

-- Executions and what belongs to them is partitioned by the time at which they were made, which
-- their ids hold. `celeriac.db.partitions` makes the partitions, with their storage parameters.
-- Columns of fixed width first, the widest first, so that none needs padding.
CREATE TABLE executions (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    task_id uuid NOT NULL,
    task_version_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    agent_version_id uuid NOT NULL,
    origin_id uuid,
    batch_id uuid,
    session_id uuid,
    parent_id uuid,
    root_id uuid,
    celery_task_id uuid,
    worker_id uuid,
    lease_token uuid,
    run_id uuid,
    workflow_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    available_at timestamptz NOT NULL DEFAULT now(),
    queued_at timestamptz,
    started_at timestamptz,
    attempt_started_at timestamptz,
    active_at timestamptz,
    completed_at timestamptz,
    parked_at timestamptz,
    waiting_until timestamptz,
    cancel_requested_at timestamptz,
    expires_at timestamptz,
    input_tokens bigint NOT NULL DEFAULT '0',
    output_tokens bigint NOT NULL DEFAULT '0',
    cached_tokens bigint NOT NULL DEFAULT '0',
    progress_done double precision,
    progress_total double precision,
    attempt integer NOT NULL DEFAULT 0,
    retry_count integer NOT NULL DEFAULT 0,
    crash_count integer NOT NULL DEFAULT 0,
    event_seq integer NOT NULL DEFAULT 0,
    batch_no integer NOT NULL DEFAULT 0,
    parent_step integer,
    message_count integer NOT NULL DEFAULT 0,
    tool_call_count integer NOT NULL DEFAULT 0,
    denied_tool_count integer NOT NULL DEFAULT 0,
    model_call_count integer NOT NULL DEFAULT 0,
    item_no integer,
    priority smallint NOT NULL,
    max_crashes smallint NOT NULL,
    step_no smallint,
    truncated boolean NOT NULL DEFAULT false,
    no_op boolean NOT NULL DEFAULT false,
    status text NOT NULL,
    held text,
    trigger_type text NOT NULL,
    execution_mode text NOT NULL,
    queue text NOT NULL,
    cost numeric(18,9) NOT NULL DEFAULT '0',
    worker_hostname text,
    request_id text,
    options jsonb,
    waiting_for text,
    cancel_requested_by text,
    error_code text,
    error_type text,
    error_message text,
    error_fingerprint text,
    progress_note text,
    traceparent text,
    limit_keys text[],
    labels json,
    CONSTRAINT pk_executions PRIMARY KEY (id),
    CONSTRAINT ck_executions_status_known CHECK (
        status IN ('pending', 'queued', 'running', 'waiting', 'completed', 'failed', 'cancelled')
    ),
    CONSTRAINT ck_executions_trigger_type_known
        CHECK (trigger_type IN ('manual', 'scheduled', 'webhook', 'workflow', 'celery')),
    CONSTRAINT ck_executions_running_has_worker
        CHECK (status <> 'running' OR worker_id IS NOT NULL),
    CONSTRAINT ck_executions_held_known CHECK (held IN ('time', 'limit', 'paused', 'parallel'))
) PARTITION BY RANGE (id);
CREATE INDEX ix_executions_agent ON executions (agent_id, id);
CREATE INDEX ix_executions_batch ON executions (batch_id, id) WHERE batch_id IS NOT NULL;
CREATE INDEX ix_executions_delayed ON executions (available_at)
    WHERE status = 'pending' AND held = 'time';
CREATE INDEX ix_executions_denied ON executions (workspace_id, id)
    WHERE denied_tool_count > 0 AND max_crashes <> -1;
CREATE INDEX ix_executions_due ON executions (queue, priority DESC, workspace_id, owner_id, available_at)
    WITH (deduplicate_items = off) WHERE status = 'pending' AND held IS NULL;
CREATE INDEX ix_executions_error ON executions (workspace_id, error_code, id)
    WHERE error_code IS NOT NULL AND max_crashes <> -1;
CREATE INDEX ix_executions_expiring ON executions (expires_at)
    WHERE expires_at IS NOT NULL AND started_at IS NULL AND completed_at IS NULL;
CREATE INDEX ix_executions_failure ON executions (task_id, error_fingerprint, id)
    WHERE error_fingerprint IS NOT NULL;
CREATE INDEX ix_executions_no_op ON executions (workspace_id, id)
    WHERE no_op AND max_crashes <> -1;
CREATE INDEX ix_executions_origin ON executions (origin_id, id) WHERE origin_id IS NOT NULL;
CREATE INDEX ix_executions_parent ON executions (parent_id, id) WHERE parent_id IS NOT NULL;
CREATE INDEX ix_executions_parked ON executions (waiting_until)
    WHERE status = 'waiting' AND waiting_until IS NOT NULL;
CREATE INDEX ix_executions_paused
    ON executions (workspace_id, task_id, queue,
        coalesce(workflow_id, '00000000-0000-0000-0000-000000000000'::uuid), priority DESC,
        available_at)
    WHERE status = 'pending' AND held = 'paused';
CREATE INDEX ix_executions_run ON executions (run_id, step_no, held, item_no)
    WHERE run_id IS NOT NULL AND completed_at IS NULL;
CREATE INDEX ix_executions_sent ON executions (queue, queued_at)
    WHERE status = 'queued' AND queued_at IS NOT NULL;
CREATE INDEX ix_executions_siblings ON executions (parent_id, parent_step, held, id)
    WHERE parent_id IS NOT NULL AND completed_at IS NULL;
CREATE INDEX ix_executions_session ON executions (session_id, id) WHERE session_id IS NOT NULL;
CREATE INDEX ix_executions_status ON executions (workspace_id, status, id)
    WHERE status <> 'completed' AND max_crashes <> -1;
CREATE INDEX ix_executions_task ON executions (task_id, id);
CREATE INDEX ix_executions_trigger ON executions (workspace_id, trigger_type, id)
    WHERE trigger_type <> 'manual' AND max_crashes <> -1;
CREATE INDEX ix_executions_truncated ON executions (workspace_id, id)
    WHERE truncated AND max_crashes <> -1;
CREATE INDEX ix_executions_worker ON executions (worker_id)
    WHERE status = 'running' AND worker_id IS NOT NULL;
CREATE INDEX ix_executions_workspace ON executions (workspace_id, id);

-- What an execution is given, if it isn't empty. Written once.
CREATE TABLE execution_inputs (
    execution_id uuid NOT NULL,
    variables json NOT NULL,
    CONSTRAINT pk_execution_inputs PRIMARY KEY (execution_id)
) PARTITION BY RANGE (execution_id);

-- What an execution has produced, if anything. Written at its end, and by attempts that fail before.
CREATE TABLE execution_results (
    execution_id uuid NOT NULL,
    result json,
    error_details json,
    CONSTRAINT pk_execution_results PRIMARY KEY (execution_id)
) PARTITION BY RANGE (execution_id);

CREATE TABLE celery_calls (
    id text NOT NULL,
    task_name text NOT NULL,
    kind text NOT NULL,
    subject_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    pending integer NOT NULL,
    message json,
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz,
    tries integer NOT NULL DEFAULT 0,
    ended_at timestamptz,
    CONSTRAINT pk_celery_calls PRIMARY KEY (id),
    CONSTRAINT uq_celery_calls_subject_id UNIQUE (subject_id),
    CONSTRAINT ck_celery_calls_kind_known CHECK (kind IN ('execution', 'batch', 'workflow'))
);
CREATE INDEX ix_celery_calls_due ON celery_calls (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX ix_celery_calls_ended ON celery_calls (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX ix_celery_calls_open ON celery_calls (id) WHERE ended_at IS NULL;

CREATE TABLE events (
    execution_id uuid NOT NULL,
    seq integer NOT NULL,
    type text NOT NULL,
    attempt integer NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    data json NOT NULL,
    CONSTRAINT pk_events PRIMARY KEY (execution_id, seq)
) PARTITION BY RANGE (execution_id);

CREATE TABLE steps (
    execution_id uuid NOT NULL,
    number integer NOT NULL,
    path text,
    name text NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    attempt integer NOT NULL,
    retry_count integer NOT NULL,
    tries integer NOT NULL DEFAULT 1,
    at timestamptz NOT NULL DEFAULT now(),
    wake_at timestamptz,
    width integer,
    parallel integer,
    result json,
    error json,
    CONSTRAINT pk_steps PRIMARY KEY (execution_id, number),
    CONSTRAINT ck_steps_kind_known CHECK (kind IN ('step', 'sleep', 'run', 'map', 'ask')),
    CONSTRAINT ck_steps_status_known CHECK (status IN ('waiting', 'completed', 'failed'))
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 250000
);
CREATE UNIQUE INDEX uq_steps_place ON steps (execution_id, coalesce(path, ':' || name));
CREATE INDEX ix_steps_parallel ON steps (execution_id)
    WHERE status = 'waiting' AND parallel IS NOT NULL;

CREATE TABLE children (
    parent_id uuid NOT NULL,
    step integer NOT NULL,
    item integer NOT NULL,
    execution_id uuid NOT NULL,
    CONSTRAINT pk_children PRIMARY KEY (parent_id, step, item)
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 250000
);

CREATE TABLE live_children (
    execution_id uuid NOT NULL,
    shard smallint NOT NULL,
    live integer NOT NULL,
    CONSTRAINT pk_live_children PRIMARY KEY (execution_id, shard)
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 5000,
    fillfactor = 50
);

CREATE TABLE execution_trees (
    execution_id uuid NOT NULL,
    started integer NOT NULL,
    CONSTRAINT pk_execution_trees PRIMARY KEY (execution_id)
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    fillfactor = 50
);

CREATE TABLE ended_parents (
    execution_id uuid NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_ended_parents PRIMARY KEY (execution_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE model_calls (
    execution_id uuid NOT NULL,
    id uuid NOT NULL,
    attempt integer NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    provider text NOT NULL,
    model text NOT NULL,
    input_tokens integer NOT NULL,
    output_tokens integer NOT NULL,
    cached_tokens integer NOT NULL,
    latency_ms integer NOT NULL,
    finish_reason text,
    cost numeric(18,9),
    CONSTRAINT pk_model_calls PRIMARY KEY (execution_id, id)
) PARTITION BY RANGE (execution_id);

CREATE TABLE idempotency_keys (
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    key text NOT NULL,
    fingerprint text NOT NULL,
    resource_type text NOT NULL,
    resource_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_idempotency_keys PRIMARY KEY (workspace_id, owner_id, key)
);
CREATE INDEX ix_idempotency_keys_created_at ON idempotency_keys (created_at);

CREATE TABLE workers (
    id uuid NOT NULL,
    hostname text NOT NULL,
    pid integer NOT NULL,
    pool text NOT NULL,
    slots integer NOT NULL,
    coroutines integer NOT NULL DEFAULT 0,
    running integer NOT NULL DEFAULT 0,
    cpu_percent double precision NOT NULL DEFAULT '0',
    memory_bytes bigint NOT NULL DEFAULT '0',
    version text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    stopped_at timestamptz,
    lease_until timestamptz NOT NULL DEFAULT now(),
    lost_at timestamptz,
    queues text[] NOT NULL DEFAULT '{}',
    consuming boolean,
    messages_dropped bigint NOT NULL DEFAULT '0',
    unknown_tasks text[] NOT NULL DEFAULT '{}',
    unknown_tasks_ages double precision[] NOT NULL DEFAULT '{}',
    lacks text[] NOT NULL DEFAULT '{}',
    confinement text,
    plain_running integer NOT NULL DEFAULT 0,
    plain_batch bigint NOT NULL DEFAULT '0',
    CONSTRAINT pk_workers PRIMARY KEY (id)
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    fillfactor = 50
);
CREATE INDEX ix_workers_hostname ON workers (hostname);

CREATE TABLE sessions (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    execution_id uuid NOT NULL,
    runner text NOT NULL,
    parent_id uuid,
    external_id text,
    state json,
    status text NOT NULL,
    error_code text,
    error_message text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    files_removed_at timestamptz,
    save_no integer NOT NULL DEFAULT '0',
    message_count integer NOT NULL DEFAULT '0',
    CONSTRAINT pk_sessions PRIMARY KEY (id),
    CONSTRAINT ck_sessions_status_known CHECK (status IN ('active', 'ended', 'failed', 'deleted'))
);
CREATE INDEX ix_sessions_deleted ON sessions (id)
    WHERE status = 'deleted' AND files_removed_at IS NULL;
CREATE INDEX ix_sessions_execution_id ON sessions (execution_id);
CREATE INDEX ix_sessions_idle ON sessions (updated_at) WHERE status IN ('ended', 'failed');
CREATE INDEX ix_sessions_workspace_id_id ON sessions (workspace_id, id);

CREATE TABLE session_messages (
    session_id uuid NOT NULL,
    seq integer NOT NULL,
    body json NOT NULL,
    CONSTRAINT pk_session_messages PRIMARY KEY (session_id, seq)
);

CREATE TABLE transcript_entries (
    session_id uuid NOT NULL,
    project text NOT NULL,
    conversation text NOT NULL,
    subpath text NOT NULL,
    seq integer NOT NULL,
    entry_id text NOT NULL,
    body json NOT NULL,
    CONSTRAINT pk_transcript_entries
        PRIMARY KEY (session_id, project, conversation, subpath, seq),
    CONSTRAINT uq_transcript_entries_entry
        UNIQUE (session_id, project, conversation, subpath, entry_id)
);

CREATE TABLE file_sets (
    owner_id uuid NOT NULL,
    is_session boolean NOT NULL,
    workspace_id uuid NOT NULL,
    execution_id uuid NOT NULL,
    version uuid NOT NULL,
    skipped integer NOT NULL,
    saved_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    CONSTRAINT pk_file_sets PRIMARY KEY (owner_id)
);
CREATE INDEX ix_file_sets_aged ON file_sets (saved_at)
    WHERE NOT is_session AND deleted_at IS NULL;
CREATE INDEX ix_file_sets_deleted ON file_sets (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE artifacts (
    owner_id uuid NOT NULL,
    path text COLLATE "C" NOT NULL,
    workspace_id uuid NOT NULL,
    execution_id uuid NOT NULL,
    kind text NOT NULL,
    size bigint NOT NULL,
    mode integer NOT NULL,
    digest bytea,
    target text,
    media_type text NOT NULL,
    modified_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_artifacts PRIMARY KEY (owner_id, path),
    CONSTRAINT ck_artifacts_kind_known CHECK (kind IN ('file', 'link', 'directory'))
);
CREATE INDEX ix_artifacts_object ON artifacts (workspace_id, digest) WHERE digest IS NOT NULL;

CREATE TABLE objects (
    workspace_id uuid NOT NULL,
    digest bytea NOT NULL,
    size bigint NOT NULL,
    stored boolean NOT NULL DEFAULT 'false',
    unnamed_since timestamptz,
    CONSTRAINT pk_objects PRIMARY KEY (workspace_id, digest)
);
CREATE INDEX ix_objects_unnamed ON objects (unnamed_since) WHERE unnamed_since IS NOT NULL;

CREATE TABLE approvals (
    id uuid NOT NULL,
    execution_id uuid,
    task_id uuid,
    run_id uuid,
    workflow_id uuid,
    step_no smallint,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    attempt integer,
    key text NOT NULL,
    kind text NOT NULL,
    title text NOT NULL,
    tool text,
    arguments json NOT NULL,
    schema json,
    status text NOT NULL DEFAULT 'open',
    on_expiry text NOT NULL,
    "default" json,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    approved boolean,
    value json,
    note text,
    answered_at timestamptz,
    answered_by text,
    notified_at timestamptz,
    notify_at timestamptz DEFAULT now(),
    notify_count integer NOT NULL DEFAULT 0,
    links_revoked integer NOT NULL DEFAULT 0,
    CONSTRAINT pk_approvals PRIMARY KEY (id),
    CONSTRAINT uq_approvals_execution_id_key UNIQUE (execution_id, key),
    CONSTRAINT ck_approvals_asker CHECK (
        num_nonnulls(execution_id, task_id, attempt) = CASE WHEN run_id IS NULL THEN 3 ELSE 0 END
        AND num_nonnulls(run_id, workflow_id, step_no)
            = CASE WHEN run_id IS NULL THEN 0 ELSE 3 END),
    CONSTRAINT ck_approvals_kind_known
        CHECK (kind IN ('tool', 'question', 'form', 'budget', 'step')),
    CONSTRAINT ck_approvals_on_expiry_known CHECK (on_expiry IN ('deny', 'approve', 'fail')),
    CONSTRAINT ck_approvals_status_known
        CHECK (status IN ('open', 'answered', 'expired', 'withdrawn'))
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000
);
CREATE INDEX ix_approvals_budget ON approvals (key) WHERE kind = 'budget' AND status = 'open';
CREATE INDEX ix_approvals_open ON approvals (expires_at) WHERE status = 'open';
CREATE UNIQUE INDEX ix_approvals_run ON approvals (run_id, step_no) WHERE run_id IS NOT NULL;
CREATE INDEX ix_approvals_workspace_id_id ON approvals (workspace_id, id);
CREATE INDEX ix_approvals_unanswered ON approvals (workspace_id, id) WHERE status = 'open';
CREATE INDEX ix_approvals_unnotified ON approvals (notify_at)
    WHERE status = 'open' AND notified_at IS NULL;

CREATE TABLE budgets (
    id uuid NOT NULL,
    scope text NOT NULL,
    subject_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    period text NOT NULL,
    max_cost numeric(24,9),
    max_tokens bigint,
    on_budget text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_budgets PRIMARY KEY (id),
    CONSTRAINT uq_budgets_subject_id_period UNIQUE (subject_id, period),
    CONSTRAINT ck_budgets_on_budget_known CHECK (on_budget IN ('stop', 'ask')),
    CONSTRAINT ck_budgets_period_known CHECK (period IN ('day', 'month'))
);
CREATE INDEX ix_budgets_workspace_id_id ON budgets (workspace_id, id);

CREATE TABLE budget_windows (
    budget_id uuid NOT NULL,
    window_key text NOT NULL,
    spent_cost numeric(24,9) NOT NULL DEFAULT '0',
    spent_tokens bigint NOT NULL DEFAULT '0',
    reserved_cost numeric(24,9) NOT NULL DEFAULT '0',
    reserved_tokens bigint NOT NULL DEFAULT '0',
    extra_cost numeric(24,9) NOT NULL DEFAULT '0',
    extra_tokens bigint NOT NULL DEFAULT '0',
    raised integer NOT NULL DEFAULT 0,
    CONSTRAINT pk_budget_windows PRIMARY KEY (budget_id, window_key)
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    fillfactor = 50
);

CREATE TABLE budget_reservations (
    id uuid NOT NULL,
    budget_id uuid NOT NULL,
    window_key text NOT NULL,
    execution_id uuid NOT NULL,
    attempt integer NOT NULL,
    cost numeric(24,9) NOT NULL,
    tokens bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    released_at timestamptz,
    CONSTRAINT pk_budget_reservations PRIMARY KEY (id, budget_id)
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 5000
);
CREATE INDEX ix_budget_reservations_released_at ON budget_reservations (released_at)
    WHERE released_at IS NOT NULL;

CREATE TABLE usage_days (
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    day date NOT NULL,
    task_id uuid NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    calls bigint NOT NULL DEFAULT '0',
    unpriced_calls bigint NOT NULL DEFAULT '0',
    input_tokens bigint NOT NULL DEFAULT '0',
    output_tokens bigint NOT NULL DEFAULT '0',
    cached_tokens bigint NOT NULL DEFAULT '0',
    cost numeric(24,9) NOT NULL DEFAULT '0',
    CONSTRAINT pk_usage_days PRIMARY KEY (owner_id, day, task_id, provider, model)
);
CREATE INDEX ix_usage_days_task_id_day ON usage_days (task_id, day);
CREATE INDEX ix_usage_days_workspace_id_day ON usage_days (workspace_id, day);

-- What workers append. The keeper folds it into usage_days.
CREATE TABLE usage_deltas (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    day date NOT NULL,
    task_id uuid NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    calls bigint NOT NULL DEFAULT '0',
    unpriced_calls bigint NOT NULL DEFAULT '0',
    input_tokens bigint NOT NULL DEFAULT '0',
    output_tokens bigint NOT NULL DEFAULT '0',
    cached_tokens bigint NOT NULL DEFAULT '0',
    cost numeric(24,9) NOT NULL DEFAULT '0',
    latencies_ms integer[],
    CONSTRAINT pk_usage_deltas PRIMARY KEY (id)
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);

-- How long model calls took, of all time; the keeper folds the deltas' latencies into it.
CREATE TABLE model_call_times (
    provider text NOT NULL,
    model text NOT NULL,
    bucket integer NOT NULL,
    calls bigint NOT NULL,
    milliseconds bigint NOT NULL,
    CONSTRAINT pk_model_call_times PRIMARY KEY (provider, model, bucket)
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);

-- All usage: a sum over a statement's snapshot of it is exact, also while the keeper folds.
CREATE VIEW usage_entries AS
SELECT workspace_id, owner_id, day, task_id, provider, model, calls, unpriced_calls, input_tokens,
       output_tokens, cached_tokens, cost
FROM usage_days
UNION ALL
SELECT workspace_id, owner_id, day, task_id, provider, model, calls, unpriced_calls, input_tokens,
       output_tokens, cached_tokens, cost
FROM usage_deltas;

-- Appended by the statements that end executions, folded by the keeper.
CREATE TABLE execution_ends (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    workspace_id uuid NOT NULL,
    task_id uuid NOT NULL,
    ended_at timestamptz NOT NULL DEFAULT now(),
    wait_ms bigint,
    run_ms bigint,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL DEFAULT '0',
    model_calls integer NOT NULL,
    retries integer NOT NULL,
    crashes integer NOT NULL,
    denied_tools integer NOT NULL DEFAULT 0,
    no_op boolean NOT NULL DEFAULT false,
    cost numeric(18,9) NOT NULL,
    outcome text NOT NULL,
    queue text NOT NULL,
    execution_id uuid,
    origin_id uuid,
    fingerprint text,
    error_code text,
    error_type text,
    error_message text,
    CONSTRAINT pk_execution_ends PRIMARY KEY (id)
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);

CREATE TABLE execution_rollups (
    scope text NOT NULL,
    grain text NOT NULL,
    start timestamptz NOT NULL,
    workspace_id uuid NOT NULL,
    task_id uuid NOT NULL,
    queue text NOT NULL,
    completed bigint NOT NULL DEFAULT '0',
    failed bigint NOT NULL DEFAULT '0',
    cancelled bigint NOT NULL DEFAULT '0',
    retries bigint NOT NULL DEFAULT '0',
    crashes bigint NOT NULL DEFAULT '0',
    model_calls bigint NOT NULL DEFAULT '0',
    input_tokens bigint NOT NULL DEFAULT '0',
    output_tokens bigint NOT NULL DEFAULT '0',
    cached_tokens bigint NOT NULL DEFAULT '0',
    denied_tools bigint NOT NULL DEFAULT '0',
    no_ops bigint NOT NULL DEFAULT '0',
    cost numeric(24,9) NOT NULL DEFAULT '0',
    wait_seconds double precision NOT NULL DEFAULT '0',
    run_seconds double precision NOT NULL DEFAULT '0',
    wait_buckets smallint[],
    wait_counts bigint[],
    run_buckets smallint[],
    run_counts bigint[],
    CONSTRAINT pk_execution_rollups
        PRIMARY KEY (scope, grain, start, workspace_id, task_id, queue),
    CONSTRAINT ck_execution_rollups_scope_known CHECK (scope IN ('system', 'workspace', 'task')),
    CONSTRAINT ck_execution_rollups_grain_known
        CHECK (grain IN ('minute', 'hour', 'day', 'total'))
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    fillfactor = 70
);
CREATE INDEX ix_execution_rollups_workspace ON execution_rollups
    (workspace_id, scope, grain, start);
CREATE INDEX ix_execution_rollups_age ON execution_rollups (grain, start);

CREATE TABLE plain_task_sums (
    grain text NOT NULL,
    start timestamptz NOT NULL,
    name text NOT NULL,
    completed bigint NOT NULL DEFAULT '0',
    failed bigint NOT NULL DEFAULT '0',
    cancelled bigint NOT NULL DEFAULT '0',
    CONSTRAINT pk_plain_task_sums PRIMARY KEY (grain, start, name),
    CONSTRAINT ck_plain_task_sums_grain_known CHECK (grain IN ('minute', 'hour', 'day', 'total'))
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    fillfactor = 70
);

CREATE TABLE plain_task_runs (
    task_id text NOT NULL,
    id uuid NOT NULL,
    name text NOT NULL,
    queue text,
    hostname text NOT NULL,
    status text NOT NULL,
    started_at timestamptz,
    changed_at timestamptz NOT NULL,
    error_message text,
    CONSTRAINT pk_plain_task_runs PRIMARY KEY (task_id),
    CONSTRAINT ck_plain_task_runs_status_known
        CHECK (status IN ('pending', 'in_progress', 'completed', 'failed', 'cancelled'))
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);
CREATE INDEX ix_plain_task_runs_id ON plain_task_runs (id);
CREATE INDEX ix_plain_task_runs_worker ON plain_task_runs (hostname, id);

CREATE TABLE bulk_jobs (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    worked_at timestamptz,
    completed_at timestamptz,
    total integer NOT NULL,
    position integer NOT NULL DEFAULT 0,
    done integer NOT NULL DEFAULT 0,
    skipped integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    more boolean NOT NULL,
    status text NOT NULL,
    action text NOT NULL,
    role text NOT NULL,
    created_by text NOT NULL,
    stopped_by text,
    request_id text,
    error text,
    arguments json NOT NULL,
    filter json NOT NULL,
    reasons json NOT NULL DEFAULT '{}',
    scope uuid[] NOT NULL,
    CONSTRAINT pk_bulk_jobs PRIMARY KEY (id),
    CONSTRAINT ck_bulk_jobs_status_known
        CHECK (status IN ('preview', 'pending', 'running', 'completed', 'stopped', 'failed'))
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, fillfactor = 50
);
CREATE INDEX ix_bulk_jobs_workspace_id_id ON bulk_jobs (workspace_id, id);
CREATE INDEX ix_bulk_jobs_active ON bulk_jobs (workspace_id, id)
    WHERE status IN ('pending', 'running');
CREATE INDEX ix_bulk_jobs_previews ON bulk_jobs (workspace_id, owner_id, id)
    WHERE status = 'preview';

CREATE TABLE bulk_job_items (
    job_id uuid NOT NULL,
    execution_id uuid NOT NULL,
    new_execution_id uuid,
    outcome text NOT NULL,
    code text,
    message text,
    CONSTRAINT pk_bulk_job_items PRIMARY KEY (job_id, execution_id),
    CONSTRAINT ck_bulk_job_items_outcome_known CHECK (outcome IN ('done', 'skipped', 'failed'))
);
CREATE INDEX ix_bulk_job_items_others ON bulk_job_items (job_id, outcome, execution_id)
    WHERE outcome <> 'done';

CREATE TABLE views (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    shared boolean NOT NULL,
    name text NOT NULL,
    created_by text NOT NULL,
    filter json NOT NULL,
    CONSTRAINT pk_views PRIMARY KEY (id)
);
CREATE UNIQUE INDEX uq_views_private ON views (workspace_id, owner_id, name) WHERE NOT shared;
CREATE UNIQUE INDEX uq_views_shared ON views (workspace_id, name) WHERE shared;

CREATE TABLE secrets (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    version integer NOT NULL DEFAULT 1,
    created_by text NOT NULL,
    name text NOT NULL,
    source text NOT NULL,
    worker_source text,
    github_app json,
    description text NOT NULL DEFAULT '',
    sealed bytea,
    CONSTRAINT pk_secrets PRIMARY KEY (id),
    CONSTRAINT ck_secrets_source_known CHECK (source IN ('stored', 'worker')),
    CONSTRAINT ck_secrets_value_somewhere CHECK (
        (source = 'stored') = (sealed IS NOT NULL)
        AND (source = 'worker') = (worker_source IS NOT NULL)
        AND (github_app IS NULL OR source = 'stored'))
);
CREATE INDEX ix_secrets_workspace_id_id ON secrets (workspace_id, id);
CREATE UNIQUE INDEX uq_secrets_workspace_id_name ON secrets (workspace_id, name);

CREATE TABLE failure_groups (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    task_id uuid NOT NULL,
    first_execution_id uuid NOT NULL,
    last_execution_id uuid NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    failures bigint NOT NULL DEFAULT 0,
    retried_completed bigint NOT NULL DEFAULT 0,
    version integer NOT NULL DEFAULT 1,
    state text NOT NULL DEFAULT 'new',
    fingerprint text NOT NULL,
    error_code text,
    error_type text,
    error_message text,
    note text NOT NULL DEFAULT '',
    CONSTRAINT pk_failure_groups PRIMARY KEY (id),
    CONSTRAINT ck_failure_groups_state_known
        CHECK (state IN ('new', 'known', 'resolved', 'muted', 'regressed')),
    CONSTRAINT uq_failure_groups_workspace_id_task_id_fingerprint
        UNIQUE (workspace_id, task_id, fingerprint)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX ix_failure_groups_latest ON failure_groups (workspace_id, last_execution_id);
CREATE INDEX ix_failure_groups_state ON failure_groups (workspace_id, state, last_execution_id);
CREATE INDEX ix_failure_groups_regressed ON failure_groups (workspace_id)
    WHERE state = 'regressed';
CREATE INDEX ix_failure_groups_task ON failure_groups (task_id, last_execution_id);
CREATE INDEX ix_failure_groups_age ON failure_groups (last_seen_at);

CREATE TABLE cassettes (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    name text NOT NULL,
    execution_id uuid,
    interactions integer NOT NULL,
    size bigint NOT NULL,
    complete boolean NOT NULL,
    digest bytea NOT NULL,
    content bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_cassettes PRIMARY KEY (id)
);
CREATE INDEX ix_cassettes_workspace_id_id ON cassettes (workspace_id, id);
CREATE UNIQUE INDEX ix_cassettes_uploaded ON cassettes (workspace_id, digest)
    WHERE execution_id IS NULL;

CREATE TABLE reports (
    execution_id uuid NOT NULL,
    format text NOT NULL,
    size integer NOT NULL,
    sha256 text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    content bytea NOT NULL,
    CONSTRAINT pk_reports PRIMARY KEY (execution_id, format),
    CONSTRAINT ck_reports_format_known CHECK (format IN ('markdown', 'html'))
) PARTITION BY RANGE (execution_id);

-- The position of an entry of the audit trail. The transaction gets its id before the position, so
-- that a position that was given belongs to a transaction that snapshots know, and sealing can wait
-- for its end.
CREATE SEQUENCE audit_logs_position_seq;
CREATE FUNCTION audit_position() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_current_xact_id();
    RETURN nextval('audit_logs_position_seq');
END $$;

CREATE TABLE audit_logs (
    id uuid NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    workspace_id uuid,
    actor_id uuid,
    actor text NOT NULL,
    action text NOT NULL,
    resource_type text NOT NULL,
    resource_id text NOT NULL,
    request_id text,
    details jsonb NOT NULL DEFAULT '{}',
    position bigint NOT NULL DEFAULT audit_position(),
    CONSTRAINT pk_audit_logs PRIMARY KEY (id)
);
CREATE INDEX ix_audit_logs_actor_id_id ON audit_logs (actor_id, id);
CREATE INDEX ix_audit_logs_resource_type_resource_id ON audit_logs (resource_type, resource_id);
CREATE INDEX ix_audit_logs_workspace_id_id ON audit_logs (workspace_id, id);
CREATE UNIQUE INDEX ix_audit_logs_position ON audit_logs (position);
CREATE INDEX ix_audit_logs_celery_tasks ON audit_logs (workspace_id, id)
    WHERE resource_type = 'celery_task';

CREATE TABLE audit_seals (
    last_position bigint NOT NULL,
    first_position bigint NOT NULL,
    entries integer NOT NULL,
    digest bytea NOT NULL,
    previous bytea NOT NULL,
    seal bytea NOT NULL,
    key_hash text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_audit_seals PRIMARY KEY (last_position)
);

CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('celeriac.audit_retention', true) = 'on' THEN
        RETURN CASE TG_OP WHEN 'UPDATE' THEN NEW ELSE OLD END;
    END IF;
    RAISE EXCEPTION 'the table % is append-only', TG_TABLE_NAME USING ERRCODE = '42501';
END $$;
CREATE TRIGGER audit_logs_rows BEFORE UPDATE OR DELETE ON audit_logs
    FOR EACH ROW EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER audit_logs_all BEFORE TRUNCATE ON audit_logs
    FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER audit_seals_rows BEFORE UPDATE OR DELETE ON audit_seals
    FOR EACH ROW EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER audit_seals_all BEFORE TRUNCATE ON audit_seals
    FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();

-- A UUIDv7 where the database makes ids; PostgreSQL has a function for it only since release 18.
-- The 48 bits of the milliseconds and the version replace those of a random UUID.
CREATE FUNCTION celeriac_uuid7() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT CAST(lpad(to_hex(CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)),
                     12, '0')
                || '7' || substr(replace(CAST(gen_random_uuid() AS text), '-', ''), 14) AS uuid)
$$;

CREATE TABLE webhook_endpoints (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    url text NOT NULL,
    events text[] NOT NULL,
    description text NOT NULL DEFAULT '',
    active boolean NOT NULL DEFAULT true,
    paused_reason text,
    failing_since timestamptz,
    secret_number integer NOT NULL DEFAULT 1,
    previous_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_webhook_endpoints PRIMARY KEY (id),
    CONSTRAINT ck_webhook_endpoints_paused_reason_known
        CHECK (paused_reason IN ('requested', 'gone', 'failing'))
);
CREATE INDEX ix_webhook_endpoints_workspace_id_id ON webhook_endpoints (workspace_id, id);
CREATE INDEX ix_webhook_endpoints_active ON webhook_endpoints (workspace_id) WHERE active;

CREATE TABLE deliveries (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    lane uuid NOT NULL,
    endpoint_id uuid,
    url text,
    event text NOT NULL,
    execution_id uuid,
    run_id uuid,
    approval_id uuid,
    data jsonb,
    once text,
    body text,
    status text NOT NULL DEFAULT 'pending',
    created_at timestamptz NOT NULL DEFAULT now(),
    available_at timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    tries integer NOT NULL DEFAULT 0,
    lease_token uuid,
    lease_until timestamptz,
    attempted_at timestamptz,
    delivered_at timestamptz,
    status_code integer,
    error text,
    answer text,
    duration_ms integer,
    CONSTRAINT pk_deliveries PRIMARY KEY (id),
    CONSTRAINT ck_deliveries_status_known CHECK (status IN ('pending', 'delivered', 'failed'))
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);
CREATE INDEX ix_deliveries_due ON deliveries (lane, available_at) WHERE status = 'pending';
CREATE INDEX ix_deliveries_leased ON deliveries (lane) WHERE lease_until IS NOT NULL;
CREATE INDEX ix_deliveries_workspace_id_id ON deliveries (workspace_id, id);
CREATE INDEX ix_deliveries_undelivered ON deliveries (workspace_id, status, id)
    WHERE status <> 'delivered';
CREATE INDEX ix_deliveries_endpoint_id_id ON deliveries (endpoint_id, id);
CREATE INDEX ix_deliveries_execution_id ON deliveries (execution_id);
CREATE UNIQUE INDEX uq_deliveries_once ON deliveries (endpoint_id, once) WHERE once IS NOT NULL;

CREATE TABLE hooks (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    name text,
    task_id uuid,
    workflow_id uuid,
    description text NOT NULL DEFAULT '',
    verification text NOT NULL,
    mapping json,
    condition text,
    per_minute integer NOT NULL,
    active boolean NOT NULL DEFAULT true,
    secret_number integer NOT NULL DEFAULT 1,
    secret_sealed bytea,
    previous_number integer,
    previous_sealed bytea,
    previous_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_hooks PRIMARY KEY (id),
    CONSTRAINT ck_hooks_verification_known
        CHECK (verification IN ('standard', 'github', 'stripe', 'bearer')),
    CONSTRAINT ck_hooks_one_target CHECK (num_nonnulls(task_id, workflow_id) = 1)
);
CREATE INDEX ix_hooks_workspace_id_id ON hooks (workspace_id, id);
CREATE UNIQUE INDEX uq_hooks_workspace_id_name ON hooks (workspace_id, name);

CREATE TABLE hook_deliveries (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    hook_id uuid NOT NULL,
    status text NOT NULL,
    reason text,
    message text,
    verified boolean NOT NULL,
    delivery_id text,
    digest text,
    size integer NOT NULL,
    execution_id uuid,
    run_id uuid,
    received_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_hook_deliveries PRIMARY KEY (id),
    CONSTRAINT ck_hook_deliveries_status_known
        CHECK (status IN ('accepted', 'ignored', 'refused'))
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);
CREATE INDEX ix_hook_deliveries_hook_id_id ON hook_deliveries (hook_id, id);
CREATE INDEX ix_hook_deliveries_few ON hook_deliveries (hook_id, status, verified, id)
    WHERE status <> 'accepted';
CREATE UNIQUE INDEX uq_hook_deliveries_delivery_id ON hook_deliveries (hook_id, delivery_id)
    WHERE status = 'accepted' AND delivery_id IS NOT NULL;
CREATE UNIQUE INDEX uq_hook_deliveries_digest ON hook_deliveries (hook_id, digest)
    WHERE status = 'accepted' AND digest IS NOT NULL;

CREATE TABLE maintenance_jobs (
    name text NOT NULL,
    host text NOT NULL,
    interval_seconds double precision NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz NOT NULL DEFAULT now(),
    next_at timestamptz NOT NULL DEFAULT now(),
    done bigint NOT NULL,
    failures integer NOT NULL,
    error text,
    succeeded_at timestamptz,
    CONSTRAINT pk_maintenance_jobs PRIMARY KEY (name)
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    fillfactor = 50
);

CREATE TABLE pauses (
    id uuid NOT NULL,
    scope text NOT NULL,
    queue text,
    task_id uuid,
    worker text,
    workflow_id uuid,
    limit_id uuid,
    key text,
    workspace_id uuid,
    reason text NOT NULL,
    owner_id uuid NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_pauses PRIMARY KEY (id),
    CONSTRAINT ck_pauses_scope_known
        CHECK (scope IN ('system', 'queue', 'task', 'workflow', 'workspace', 'limit', 'key', 'worker')),
    CONSTRAINT ck_pauses_one_target CHECK (
        (queue IS NOT NULL) = (scope = 'queue') AND (task_id IS NOT NULL) = (scope = 'task')
        AND (worker IS NOT NULL) = (scope = 'worker')
        AND (workflow_id IS NOT NULL) = (scope = 'workflow')
        AND (limit_id IS NOT NULL) = (scope = 'limit') AND (key IS NOT NULL) = (scope = 'key')
        AND (workspace_id IS NOT NULL)
            = (scope IN ('task', 'workflow', 'workspace', 'limit', 'key')))
);
CREATE UNIQUE INDEX uq_pauses_system ON pauses (scope) WHERE scope = 'system';
CREATE UNIQUE INDEX uq_pauses_queue ON pauses (queue) WHERE scope = 'queue';
CREATE UNIQUE INDEX uq_pauses_task ON pauses (task_id) WHERE scope = 'task';
CREATE UNIQUE INDEX uq_pauses_workspace ON pauses (workspace_id) WHERE scope = 'workspace';
CREATE UNIQUE INDEX uq_pauses_workflow ON pauses (workflow_id) WHERE scope = 'workflow';
CREATE UNIQUE INDEX uq_pauses_limit ON pauses (limit_id) WHERE scope = 'limit';
CREATE UNIQUE INDEX uq_pauses_key ON pauses (workspace_id, key) WHERE scope = 'key';
CREATE UNIQUE INDEX uq_pauses_worker ON pauses (worker) WHERE scope = 'worker';

CREATE TABLE schedules (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    name text NOT NULL,
    task_id uuid,
    workflow_id uuid,
    input json NOT NULL,
    cron text,
    every_seconds integer,
    at timestamptz,
    zone text NOT NULL,
    overlap text NOT NULL,
    misfire text NOT NULL,
    catch_up integer NOT NULL,
    window_seconds integer NOT NULL,
    jitter_seconds integer NOT NULL,
    late_seconds integer NOT NULL,
    active boolean NOT NULL DEFAULT true,
    anchor_at timestamptz NOT NULL,
    next_fire_at timestamptz,
    due_at timestamptz,
    revision integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_schedules PRIMARY KEY (id),
    CONSTRAINT ck_schedules_one_target CHECK (num_nonnulls(task_id, workflow_id) = 1),
    CONSTRAINT ck_schedules_one_timing CHECK (num_nonnulls(cron, every_seconds, at) = 1),
    CONSTRAINT ck_schedules_overlap_known
        CHECK (overlap IN ('skip', 'allow', 'queue', 'queue_all', 'cancel_running')),
    CONSTRAINT ck_schedules_misfire_known CHECK (misfire IN ('skip', 'latest', 'all'))
);
CREATE UNIQUE INDEX uq_schedules_workspace_id_name ON schedules (workspace_id, name);
CREATE INDEX ix_schedules_workspace_id_id ON schedules (workspace_id, id);
CREATE INDEX ix_schedules_due ON schedules (due_at) WHERE active AND due_at IS NOT NULL;

CREATE TABLE schedule_fires (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    schedule_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    kind text NOT NULL,
    scheduled_at timestamptz NOT NULL,
    overlap text NOT NULL,
    status text NOT NULL,
    reason text,
    error text,
    count integer NOT NULL DEFAULT 1,
    last_at timestamptz,
    execution_id uuid,
    run_id uuid,
    open boolean NOT NULL DEFAULT false,
    started_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_schedule_fires PRIMARY KEY (id),
    CONSTRAINT ck_schedule_fires_kind_known
        CHECK (kind IN ('scheduled', 'manual', 'backfill')),
    CONSTRAINT ck_schedule_fires_overlap_known
        CHECK (overlap IN ('skip', 'allow', 'queue', 'queue_all', 'cancel_running')),
    CONSTRAINT ck_schedule_fires_status_known CHECK (status IN ('started', 'waiting', 'skipped')),
    CONSTRAINT ck_schedule_fires_reason_known
        CHECK (reason IN ('missed', 'overlap', 'paused', 'deleted', 'refused'))
);
CREATE UNIQUE INDEX uq_schedule_fires_scheduled ON schedule_fires (schedule_id, scheduled_at)
    WHERE kind = 'scheduled';
CREATE UNIQUE INDEX uq_schedule_fires_happening ON schedule_fires (schedule_id, scheduled_at)
    WHERE kind <> 'manual' AND status <> 'skipped';
CREATE INDEX ix_schedule_fires_schedule_id_id ON schedule_fires (schedule_id, id);
CREATE INDEX ix_schedule_fires_schedule_id_status_id ON schedule_fires (schedule_id, status, id);
CREATE INDEX ix_schedule_fires_open ON schedule_fires (schedule_id, id) WHERE open;
CREATE INDEX ix_schedule_fires_waiting ON schedule_fires (schedule_id, kind DESC, id)
    WHERE status = 'waiting';

CREATE TABLE workflows (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    current_version_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    CONSTRAINT pk_workflows PRIMARY KEY (id),
    CONSTRAINT fk_workflows_owner_id FOREIGN KEY (owner_id) REFERENCES users(id),
    CONSTRAINT fk_workflows_workspace_id FOREIGN KEY (workspace_id) REFERENCES workspaces(id)
);
CREATE UNIQUE INDEX uq_workflows_workspace_id_name ON workflows (workspace_id, name)
    WHERE deleted_at IS NULL;

CREATE TABLE workflow_versions (
    id uuid NOT NULL,
    workflow_id uuid NOT NULL,
    version integer NOT NULL,
    spec_hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_workflow_versions PRIMARY KEY (id),
    CONSTRAINT uq_workflow_versions_workflow_id_version UNIQUE (workflow_id, version),
    CONSTRAINT fk_workflow_versions_spec_hash FOREIGN KEY (spec_hash) REFERENCES specs(hash),
    CONSTRAINT fk_workflow_versions_workflow_id FOREIGN KEY (workflow_id) REFERENCES workflows(id)
);

-- The tables of runs have no foreign keys, as those of executions.
CREATE TABLE workflow_runs (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    workflow_id uuid NOT NULL,
    workflow_version_id uuid NOT NULL,
    status text NOT NULL,
    trigger_type text NOT NULL,
    priority smallint,
    input json NOT NULL,
    result json,
    error_code text,
    error_message text,
    error_step text,
    compensation text,
    compensation_run_id uuid,
    origin_id uuid,
    parent_run_id uuid,
    parent_step_no smallint,
    parent_item_no integer,
    depth smallint NOT NULL DEFAULT 1,
    request_id text,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    deadline_at timestamptz,
    overdue boolean NOT NULL DEFAULT false,
    cancel_requested_at timestamptz,
    cancel_requested_by text,
    completed_at timestamptz,
    event_seq integer NOT NULL DEFAULT 0,
    limited boolean NOT NULL DEFAULT false,
    CONSTRAINT pk_workflow_runs PRIMARY KEY (id),
    CONSTRAINT ck_workflow_runs_compensation_known
        CHECK (compensation IN ('compensated', 'compensation_failed')),
    CONSTRAINT ck_workflow_runs_status_known CHECK (
        status IN ('pending', 'running', 'finishing', 'compensating', 'completed', 'failed',
                   'cancelled')
    ),
    CONSTRAINT ck_workflow_runs_trigger_type_known
        CHECK (trigger_type IN ('manual', 'scheduled', 'webhook', 'workflow', 'celery'))
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    fillfactor = 80
);
CREATE INDEX ix_workflow_runs_deadline ON workflow_runs (deadline_at)
    WHERE completed_at IS NULL AND NOT overdue AND deadline_at IS NOT NULL;
CREATE INDEX ix_workflow_runs_live ON workflow_runs (id) WHERE completed_at IS NULL;
CREATE INDEX ix_workflow_runs_origin_id ON workflow_runs (origin_id) WHERE origin_id IS NOT NULL;
CREATE INDEX ix_workflow_runs_parent_run_id ON workflow_runs (parent_run_id)
    WHERE parent_run_id IS NOT NULL;
CREATE INDEX ix_workflow_runs_status ON workflow_runs (workspace_id, status, id)
    WHERE status <> 'completed';
CREATE INDEX ix_workflow_runs_top_level ON workflow_runs (workspace_id, id)
    WHERE parent_run_id IS NULL;
CREATE INDEX ix_workflow_runs_trigger_type ON workflow_runs (workspace_id, trigger_type, id);
CREATE INDEX ix_workflow_runs_workflow_id_id ON workflow_runs (workflow_id, id);
CREATE INDEX ix_workflow_runs_workspace_id_id ON workflow_runs (workspace_id, id);

CREATE TABLE step_runs (
    run_id uuid NOT NULL,
    step_no smallint NOT NULL,
    step text NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    width integer NOT NULL DEFAULT 0,
    spawned integer NOT NULL DEFAULT 0,
    shards_left smallint NOT NULL DEFAULT 0,
    round integer NOT NULL DEFAULT 0,
    parallel integer,
    strict boolean NOT NULL DEFAULT false,
    stopping boolean NOT NULL DEFAULT false,
    continues boolean NOT NULL DEFAULT false,
    fork_path text,
    due_at timestamptz,
    started_at timestamptz,
    completed_at timestamptz,
    error_code text,
    error_message text,
    CONSTRAINT pk_step_runs PRIMARY KEY (run_id, step_no),
    CONSTRAINT ck_step_runs_status_known CHECK (
        status IN ('blocked', 'ready', 'running', 'completed', 'failed', 'skipped', 'denied',
                   'cancelled')
    )
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    fillfactor = 50
);
CREATE INDEX ix_step_runs_due ON step_runs (due_at) WHERE due_at IS NOT NULL;

-- How many items of a running step have not ended, and how those that have ended did. An item has
-- the row with the number of its own modulo 32.
CREATE TABLE fan_ins (
    run_id uuid NOT NULL,
    step_no smallint NOT NULL,
    shard smallint NOT NULL,
    remaining integer NOT NULL,
    completed integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    cancelled integer NOT NULL DEFAULT 0,
    CONSTRAINT pk_fan_ins PRIMARY KEY (run_id, step_no, shard)
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 5000,
    fillfactor = 50
);

-- What an item of a step is: an execution, a run of a workflow, or what is known without either.
CREATE TABLE step_items (
    run_id uuid NOT NULL,
    step_no smallint NOT NULL,
    item_no integer NOT NULL,
    round integer NOT NULL,
    execution_id uuid,
    child_run_id uuid,
    approval_id uuid,
    status text,
    result json,
    error_code text,
    error_message text,
    taken_over boolean NOT NULL DEFAULT false,
    CONSTRAINT pk_step_items PRIMARY KEY (run_id, step_no, item_no, round)
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 5000
);

-- The ends of items, for those who follow a run: a row is written by the statement that ends the
-- item, and never changed. ended_xid is the number of that transaction.
CREATE TABLE item_ends (
    run_id uuid NOT NULL,
    ended_xid bigint NOT NULL,
    step_no smallint NOT NULL,
    item_no integer NOT NULL,
    status text NOT NULL,
    execution_id uuid,
    child_run_id uuid,
    CONSTRAINT pk_item_ends PRIMARY KEY (run_id, ended_xid, step_no, item_no)
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 5000
);

-- The limits of the runs that have not ended: who has a slot of a key, and who waits for one. A run
-- without limits has no row; its rows are deleted with its end.
CREATE TABLE debounces (
    task_id uuid NOT NULL,
    key text NOT NULL,
    execution_id uuid NOT NULL,
    first_at timestamptz NOT NULL,
    replaced integer NOT NULL,
    due_at timestamptz NOT NULL,
    CONSTRAINT pk_debounces PRIMARY KEY (task_id, key)
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    fillfactor = 70
);
CREATE INDEX ix_debounces_due_at ON debounces (due_at);
CREATE INDEX ix_debounces_execution_id ON debounces (execution_id);

CREATE TABLE execution_labels (
    workspace_id uuid NOT NULL,
    key text NOT NULL,
    value text NOT NULL,
    execution_id uuid NOT NULL,
    CONSTRAINT pk_execution_labels PRIMARY KEY (workspace_id, key, value, execution_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
CREATE INDEX ix_execution_labels_execution ON execution_labels (execution_id);

CREATE TABLE execution_limits (
    execution_id uuid NOT NULL,
    key text NOT NULL,
    workspace_id uuid NOT NULL,
    max integer NOT NULL,
    policy text NOT NULL,
    state text NOT NULL,
    place smallint NOT NULL,
    interval_seconds double precision,
    burst integer,
    limit_id uuid,
    CONSTRAINT pk_execution_limits PRIMARY KEY (execution_id, key),
    CONSTRAINT ck_execution_limits_policy_known
        CHECK (policy IN ('queue', 'cancel_new', 'cancel_running', 'keep_latest')),
    CONSTRAINT ck_execution_limits_state_known
        CHECK (state IN ('none', 'waiting', 'elsewhere', 'held'))
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 10000,
    fillfactor = 70
);
CREATE INDEX ix_execution_limits_elsewhere
    ON execution_limits (workspace_id, key, place, execution_id) WHERE state = 'elsewhere';
CREATE INDEX ix_execution_limits_held
    ON execution_limits (workspace_id, key, execution_id) WHERE state = 'held';
CREATE INDEX ix_execution_limits_limit ON execution_limits (limit_id, state, key)
    WHERE limit_id IS NOT NULL;
CREATE INDEX ix_execution_limits_policies ON execution_limits (workspace_id, key)
    WHERE state IN ('waiting', 'elsewhere') AND policy <> 'queue';
CREATE INDEX ix_execution_limits_waiting
    ON execution_limits (workspace_id, key, place, execution_id) WHERE state = 'waiting';

CREATE TABLE limits (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    name text NOT NULL,
    task_id uuid,
    workflow_id uuid,
    of text NOT NULL,
    key text,
    max integer NOT NULL,
    seconds double precision,
    burst integer,
    policy text NOT NULL,
    count text NOT NULL,
    owner_id uuid NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    look_at timestamptz,
    walks smallint NOT NULL,
    walked_to uuid NOT NULL,
    CONSTRAINT pk_limits PRIMARY KEY (id),
    CONSTRAINT ck_limits_count_known CHECK (count IN ('running', 'active')),
    CONSTRAINT ck_limits_of_known CHECK (of IN ('executions', 'runs')),
    CONSTRAINT ck_limits_one_subject CHECK (task_id IS NULL OR workflow_id IS NULL),
    CONSTRAINT ck_limits_policy_known
        CHECK (policy IN ('queue', 'cancel_new', 'cancel_running', 'keep_latest')),
    CONSTRAINT ck_limits_runs_of_workflow CHECK (of = 'executions' OR workflow_id IS NOT NULL)
);
CREATE INDEX ix_limits_look_at ON limits (look_at) WHERE look_at IS NOT NULL;
CREATE INDEX ix_limits_runs ON limits (workflow_id) WHERE of = 'runs' AND deleted_at IS NULL;
CREATE UNIQUE INDEX uq_limits_workspace_id_name ON limits (workspace_id, name)
    WHERE deleted_at IS NULL;

CREATE TABLE execution_rates (
    workspace_id uuid NOT NULL,
    key text NOT NULL,
    next_at timestamptz NOT NULL,
    CONSTRAINT pk_execution_rates PRIMARY KEY (workspace_id, key)
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    fillfactor = 70
);
CREATE INDEX ix_execution_rates_next_at ON execution_rates (next_at);

CREATE TABLE run_limits (
    run_id uuid NOT NULL,
    key text NOT NULL,
    workspace_id uuid NOT NULL,
    max integer NOT NULL,
    policy text NOT NULL,
    count text NOT NULL,
    state text NOT NULL DEFAULT 'waiting',
    place smallint NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    limit_id uuid,
    CONSTRAINT pk_run_limits PRIMARY KEY (run_id, key),
    CONSTRAINT ck_run_limits_policy_known
        CHECK (policy IN ('queue', 'cancel_new', 'cancel_running', 'keep_latest')),
    CONSTRAINT ck_run_limits_count_known CHECK (count IN ('running', 'active')),
    CONSTRAINT ck_run_limits_state_known CHECK (state IN ('waiting', 'held', 'given_back'))
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    fillfactor = 80
);
CREATE INDEX ix_run_limits_held ON run_limits (workspace_id, key, run_id) WHERE state = 'held';
CREATE INDEX ix_run_limits_limit ON run_limits (limit_id, state, key)
    WHERE limit_id IS NOT NULL;
CREATE INDEX ix_run_limits_policies ON run_limits (workspace_id, key)
    WHERE state = 'waiting' AND policy <> 'queue';
CREATE INDEX ix_run_limits_waiting ON run_limits (workspace_id, key, place, run_id)
    WHERE state = 'waiting';

"""How each shell and Python block of the documentation is tested, by its page and words of it.

A block that is in no table fails `tests/unit/test_documentation_examples.py`, and so does an entry
without a block.
"""

USER = "0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11"
FILLED = {"0199f3a2-…": USER, "0199f3b0-…": USER, "ID": USER}
"""What stands for an id in examples, and an id."""

TOUR = "the tour of the README"
LIVE = "on a running system"
CANVAS = "with a client's Celery app, in tests/e2e/celery/test_canvas.py"
SETTINGS = "its variables are read as settings"
SALES = "tests/e2e/readme/test_sales.py runs the page"
BUILT = "tests/unit/test_workflows_documentation.py builds it"

RUN: dict[tuple[str, str], str] = {
    ("README.md", "celeriac up "): TOUR,
    ("README.md", "celeriac agents create writer"): TOUR,
    ("README.md", "# shop.py"): TOUR,
    ("README.md", "celeriac apply --module shop"): TOUR,
    ("README.md", "curl -sf"): TOUR,
    ("README.md", "# tour.py"): TOUR,
    ("README.md", "python tour.py"): TOUR,
    ("README.md", "ping.delay"): TOUR,
    ("docs/api.md", "export CELERIAC="): LIVE,
    ("docs/api.md", "from celeriac import Client"): LIVE,
    ("docs/api.md", "celeriac executions retry"): LIVE,
    ("docs/api.md", "client.executions.retry_many"): LIVE,
    ("docs/api.md", "celeriac executions export"): LIVE,
    ("docs/api.md", "client.executions.export"): LIVE,
    ("docs/api.md", "celeriac views create"): LIVE,
    ("docs/api.md", "client.views.create"): LIVE,
    ("docs/api.md", "celeriac executions search"): LIVE,
    ("docs/api.md", "client.executions.search"): LIVE,
    ("docs/apply.md", "celeriac run summarise"): LIVE,
    ("docs/apply.md", "--exit-code"): LIVE,
    ("docs/apply.md", "client.apply"): LIVE,
    ("docs/approvals.md", "client.approvals.list"): LIVE,
    ("docs/approvals.md", "curl -sS"): LIVE,
    ("docs/approvals.md", "CELERIAC_PUBLIC_URL="): SETTINGS,
    ("docs/approvals.md", "is_genuine"): LIVE,
    ("docs/budgets.md", "celeriac usage --by model"): LIVE,
    ("docs/budgets.md", "celeriac budgets set day"): LIVE,
    ("docs/budgets.md", "CELERIAC_PROVIDER_LIMITS"): SETTINGS,
    ("docs/cassettes.md", "celeriac run qualify"): LIVE,
    ("docs/celery.md", "CELERIAC_CALLS_USER="): SETTINGS,
    ("docs/celery.md", "chain("): CANVAS,
    ("docs/celery.md", "app.signature("): CANVAS,
    ("docs/command-agents.md", "CELERIAC_COMMANDS="): SETTINGS,
    ("docs/command-agents.md", "celeriac run count"): LIVE,
    ("docs/confinement.md", "CELERIAC_CONFINEMENT_DRIVER=bubblewrap"): SETTINGS,
    ("docs/confinement.md", "CELERIAC_CONFINEMENT_DRIVER=container"): SETTINGS,
    ("docs/confinement.md", "CELERIAC_CONFINEMENT_HOSTS="): SETTINGS,
    ("docs/secrets.md", "CELERIAC_SECRET_SOURCES="): SETTINGS,
    ("docs/repositories.md", "CELERIAC_REPOSITORIES_ALLOW="): SETTINGS,
    ("docs/labels.md", "celeriac run summarise"): LIVE,
    ("docs/labels.md", "client.executions.label"): LIVE,
    ("docs/bulk-jobs.md", "celeriac bulk cancel"): LIVE,
    ("docs/bulk-jobs.md", "client.bulk_jobs"): LIVE,
    ("docs/failures.md", "celeriac failures list"): LIVE,
    ("docs/failures.md", "client.failures"): LIVE,
    ("docs/logs.md", "celeriac logs last -f"): LIVE,
    ("docs/logs.md", "client.executions.logs"): LIVE,
    ("docs/mcp-server.md", "celeriac keys create assistant"): LIVE,
    ("docs/metrics.md", "celeriac stats"): LIVE,
    ("docs/metrics.md", "client.statistics.get"): LIVE,
    ("docs/models.md", "CELERIAC_PROVIDERS="): SETTINGS,
    ("docs/python-agents.md", '"score-lead"'): LIVE,
    ("docs/python-agents.md", '"send-offer"'): LIVE,
    ("docs/python-agents.md", "celeriac apply --module shop.agents"): LIVE,
    ("docs/reports.md", "--html"): LIVE,
    ("docs/sessions.md", "celeriac sessions list"): LIVE,
    ("docs/testing-agents.md", "--record-to"): LIVE,
    ("docs/tools.md", "celeriac agents create clerk"): LIVE,
    ("docs/tools.md", "CELERIAC_MCP_SERVERS="): SETTINGS,
    ("docs/hooks.md", "celeriac hooks list"): LIVE,
    ("docs/webhooks.md", "celeriac webhooks list"): LIVE,
    ("docs/webhooks.md", "def is_genuine"): LIVE,
    ("docs/workflows.md", 'Workflow("brief"'): BUILT,
    ("docs/workflows.md", 'Workflow("review"'): BUILT,
    ("docs/workflows.md", 'Workflow("sweep-leads"'): BUILT,
    ("docs/workflows.md", 'Workflow("publish"'): BUILT,
    ("docs/workflows.md", 'Workflow("book-trip"'): BUILT,
    ("docs/workflows.md", 'Workflow("nightly"'): BUILT,
    ("examples/sales/README.md", "celeriac up "): SALES,
    ("examples/sales/README.md", "alembic upgrade head"): SALES,
    ("examples/sales/README.md", "uvicorn sales.api:app"): SALES,
    ("examples/sales/README.md", "TASK=$("): SALES,
    ("examples/sales/README.md", "celeriac monitor $TASK"): SALES,
    ("examples/sales/README.md", '@celeriac.agent("qualify_lead"'): SALES,
    ("examples/sales/README.md", "celeriac workflows run sweep_leads"): SALES,
    ("examples/sales/README.md", "celeriac approvals list --run last"): SALES,
    ("examples/sales/README.md", "BATCH=$("): SALES,
    ("examples/sales/README.md", "celeriac approvals answer last --deny"): SALES,
    ("examples/sales/README.md", "celeriac schedules preview morning"): SALES,
    ("examples/sales/README.md", "celeriac limits show judging"): SALES,
    ("examples/sales/README.md", "celeriac hooks rotate website"): SALES,
    ("examples/sales/README.md", "pytest\n"): SALES,
}
"""How a block is run."""

EXEMPT: dict[tuple[str, str], str] = {
    ("docs/deployment.md", "docker build"): "needs a container engine; "
    "tests/unit/test_deployment.py checks the files",
    ("docs/deployment.md", "docker compose up"): "needs a container engine; "
    "tests/e2e/test_deployment.py runs the commands of the files",
    ("docs/deployment.md", "kubectl apply"): "needs a cluster; "
    "tests/unit/test_deployment.py checks the manifests",
    ("docs/deployment.md", "pg_dump"): "tests/e2e/test_backup.py runs it",
    ("docs/deployment.md", "pg_restore"): "tests/e2e/test_backup.py runs it",
    ("docs/traces.md", "OTEL_EXPORTER_OTLP_ENDPOINT"): "needs a collector; "
    "tests/e2e/celery/test_traces.py runs one",
    ("docs/operations.md", "celeriac why last"): "needs an execution that waits; "
    "tests/integration/services/test_why.py has each reason",
    ("docs/operations.md", "celeriac maintenance"): "needs a beat; "
    "tests/integration/api/test_maintenance.py runs this command",
    ("docs/operations.md", "celeriac pause worker"): "names a worker of a host; "
    "tests/integration/api/test_pauses.py uses it",
    ("docs/operations.md", "celeriac pause queue"): "holds up other blocks; "
    "tests/integration/api/test_pauses.py runs these commands",
    ("docs/operations.md", "client.pauses.pause"): "holds up other blocks; "
    "tests/integration/api/test_pauses.py calls these methods",
    ("docs/workflows.md", "celeriac workflows validate"): "tests/unit/cli/test_workflows.py runs "
    "these commands on files and modules of its own",
    ("docs/workflows.md", "celeriac workflows create brief"): "needs a run that ends; "
    "tests/integration/api/test_workflows.py runs these commands",
    ("docs/workflows.md", '@celeriac.agent("rank-leads")'): "needs a run with large results; "
    "tests/e2e/workflows/test_maps.py reads some in the same way",
    ("docs/workflows.md", "celeriac approvals list --run last"): "needs a run that asks; "
    "tests/e2e/cli/test_workflow_approvals.py runs these commands",
    ("docs/workflows.md", "client.workflows.start("): "needs a run that ends; "
    "tests/integration/api/test_workflows.py calls these methods",
    ("docs/workflows.md", "celeriac workflow-runs retry RUN --compensation"): "needs a failed run; "
    "tests/integration/api/test_workflows.py runs this command",
    ("docs/hooks.md", "celeriac hooks create"): "starts the demo's task; "
    "tests/integration/api/test_hooks.py runs these commands",
    ("docs/hooks.md", "client.hooks.create"): "prints a secret; "
    "tests/integration/api/test_hooks.py calls these methods",
    ("docs/hooks.md", "celeriac hooks rotate last"): "prints a secret; "
    "tests/integration/api/test_hooks.py runs these commands",
    ("docs/limits.md", "celeriac tasks update index"): "of another task; "
    "tests/integration/services/test_task_limits.py has its limits",
    ("docs/limits.md", "celeriac limits create per-customer"): "limits other blocks; "
    "tests/integration/api/test_limits.py runs these commands",
    ("docs/limits.md", 'client.limits.create("per-customer"'): "limits other blocks; "
    "tests/integration/api/test_limits.py calls these methods",
    ("docs/limits.md", "celeriac limits create releases"): "of another workflow; "
    "tests/integration/api/test_limits.py runs these commands",
    ("docs/limits.md", 'client.limits.create("releases"'): "of another workflow; "
    "tests/integration/api/test_limits.py calls these methods",
    ("docs/schedules.md", "celeriac schedules create nightly"): "of another task; "
    "tests/integration/api/test_schedules.py runs these commands",
    ("docs/schedules.md", "celeriac schedules backfill nightly"): "of another task; "
    "tests/integration/api/test_schedules.py runs these commands",
    ("docs/schedules.md", "client.schedules.create("): "of another task; "
    "tests/integration/api/test_schedules.py calls these methods",
    ("docs/webhooks.md", "celeriac webhooks create"): "needs a receiver; "
    "tests/integration/api/test_webhooks.py runs these commands",
    ("docs/webhooks.md", "client.webhooks.create"): "needs a receiver; "
    "tests/integration/api/test_webhooks.py calls these methods",
    ("docs/workspaces.md", "celeriac workspaces create"): "several people type it; "
    "tests/e2e/cli/test_workspaces.py does",
    ("README.md", "make demo "): "builds an environment; tests/e2e/cli/test_demo.py runs the demo",
    ("README.md", "pip install 'celeriac"): "needs a package index; tests/e2e/test_wheel.py "
    "installs the wheel, tests/integration/embedded/test_weights.py fetches weights",
    ("CONTRIBUTING.md", "make setup"): "builds environments, and runs this suite",
    ("docs/approvals.md", "celeriac approvals answer last"): "talks on a terminal; "
    "tests/e2e/cli/test_approvals.py types the answers",
    ("docs/benchmarks.md", "python -m benchmarks"): "takes minutes; tests/e2e/test_benchmarks.py "
    "runs the quick ones",
    ("docs/chaos.md", "make chaos"): "takes an hour; tests/chaos/test_random_faults.py runs a plan",
    ("docs/claude.md", "celeriac agents create coder"): "Claude Code asks a provider that is paid",
    ("docs/command-agents.md", "IFS= read"): "parts of examples/command/word-count.sh, which "
    "tests/integration/agents/test_command_examples.py runs",
    ("docs/python-agents.md", '"fulfil-order"'): "a part of examples/durable/orders.py, which "
    "tests/integration/services/test_durable_examples.py runs",
    ("docs/labels.md", "ctx.label"): "a part of an agent; "
    "tests/integration/agents/test_python_runner.py labels executions in the same way",
    ("docs/secrets.md", "celeriac secrets create shop-repo"): "needs an app of GitHub; "
    "tests/integration/adapters/test_github_app.py makes tokens",
    ("docs/secrets.md", "celeriac secrets create github"): "needs a token in a file; "
    "tests/integration/api/test_secrets.py runs the commands",
    ("docs/secrets.md", "client.secrets.create"): "needs a token; "
    "tests/integration/api/test_secrets.py makes the calls",
    ("docs/confinement.md", "apt install"): "a command of another program; .ci/run installs it",
    ("docs/crews.md", "celeriac crews install"): "fetches 850 MB; tests/e2e/cli/test_crews.py runs "
    "a crew",
    ("docs/mcp-server.md", "claude mcp add celeriac"): "a command of another program",
    ("docs/mcp-server.md", "claude mcp add --transport"): "a command of another program",
    ("docs/mcp-server.md", "celeriac mcp --http"): "runs until it is stopped; "
    "tests/e2e/celery/test_mcp_http.py talks to it",
    ("docs/operations.md", "FILTER (WHERE"): "tests/integration/test_operations_page.py runs it",
    ("docs/operations.md", "pg_inherits"): "tests/integration/test_operations_page.py runs it",
    ("docs/operations.md", "--phase pre"): "tests/integration/services/test_migrations.py applies "
    "the phases of a made-up release; this one has none",
    ("docs/operations.md", "CELERIAC_DATABASE_DIRECT_URL"): "needs PgBouncer; "
    "tests/chaos/test_pgbouncer.py runs behind it",
    ("docs/operations.md", "sentinel://"): "needs Sentinel; "
    "tests/chaos/test_sentinel.py runs behind it",
    ("docs/operations.md", "ALTER ROLE"): "is for a role behind PgBouncer; "
    "tests/chaos/test_pgbouncer.py does what doctor prints",
    ("docs/operations.md", "celery -A celeriac flower"): "runs until it is stopped; "
    "tests/e2e/celery/test_commands.py runs Flower",
    ("docs/sessions.md", "fork_session=True"): "needs files of a session; "
    "tests/e2e/celery/test_sessions.py goes on with sessions",
    ("docs/sessions.md", "celeriac sessions files"): "needs files of a session; "
    "tests/e2e/cli/test_sessions.py downloads some",
    ("docs/testing-agents.md", "HERE = Path"): "is examples/testing/test_sorter.py, which "
    "tests/integration/llm/test_testing.py runs",
    ("docs/testing-agents.md", "REFUNDS"): "is examples/testing/test_refunds.py, which "
    "tests/integration/llm/test_testing.py runs",
    ("docs/testing-agents.md", "sweep_leads"): "a part of a test; examples/sales/tests does so, "
    "which tests/e2e/readme/test_sales.py runs",
    ("docs/testing-agents.md", "answer=lambda"): "a part of a test; "
    "tests/integration/llm/test_testing.py answers questions so",
    ("docs/testing-agents.md", "run_function("): "a part of a test; examples/sales/tests does so, "
    "which tests/e2e/readme/test_sales.py runs",
    ("docs/testing-agents.md", "record=True"): "a part of a test; "
    "tests/integration/llm/test_testing.py records so",
    ("docs/tools.md", "@server.tool()"): "a part of a server of the reader's; "
    "tests/support/mcp_tools.py reads the key in the same way",
}
"""Why nothing runs a block. Commands of `celeriac` in it are read by the parser all the same."""

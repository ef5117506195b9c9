"""Files of working directories over HTTP: all that is inside, nothing that isn't."""

from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from celeriac.client import Client, ClientError
from celeriac.client.sessions import local_path
from celeriac.domain.executions.model import Completed
from celeriac.wiring.core import CoreServices
from tests.support.api import EXECUTE, Asker, assert_problem
from tests.support.working import begin_session, claim, finish

BODY = {"variables": {"text": "a"}}


def worked(container: CoreServices, execution_id: str | UUID) -> Path:
    """Run an execution with a session; return the directory that its agent worked in."""
    claimed = claim(container, execution_id)
    session_id = begin_session(container, claimed)
    finish(container, claimed, Completed("b"))
    directory = container.settings.home / "sessions" / str(session_id) / "work"
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
def work(ada: Asker, container: CoreServices) -> Path:
    """The working directory of a session of Ada's."""
    return worked(container, ada.post(EXECUTE, json=BODY).json()["execution_id"])


def files(work: Path) -> str:
    return f"/api/v1/sessions/{work.parent.name}/files"


@pytest.mark.requirement("A12")
def test_files_are_listed_in_pages_and_downloaded(ada: Asker, work: Path) -> None:
    (work / "notes").mkdir()
    (work / "notes" / 'a "b".html').write_text("<script>alert(1)</script>")
    (work / "z.bin").write_bytes(bytes(range(256)) * 4096)
    (work / "link").symlink_to("/etc/passwd")
    page = ada.get(f"{files(work)}?limit=1").json()
    assert [item["path"] for item in page["items"]] == ['notes/a "b".html']
    assert page["skipped"] == 1
    rest = ada.get(files(work), params={"after": page["next_after"]}).json()
    assert [(item["path"], item["size"]) for item in rest["items"]] == [("z.bin", 1 << 20)]
    assert rest["next_after"] is None
    answer = ada.get(page["items"][0]["_links"]["self"])
    assert answer.text == "<script>alert(1)</script>"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    disposition = "attachment; filename*=UTF-8''a%20%22b%22.html"
    assert answer.headers["content-disposition"] == disposition
    large = ada.get(rest["items"][0]["_links"]["self"])
    assert (len(large.content), large.headers["content-length"]) == (1 << 20, str(1 << 20))


ODD_NAMES = [
    "a\nb.txt", "\n", "end\n", "\na", "a\r\nb", "tab\there", "\x1b[2Jcleared", "\x7f", "\x01",
    "a\u2028b\u2029c\u0085d", "\ufeffmark", "\u202egnp.exe", " blank ", "100%", "a\\b",
    "\udc80".encode(errors="surrogateescape").decode("latin-1"), "…", ".hidden",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_whatever_its_name_a_file_that_is_listed_can_be_downloaded(
    ada: Asker, work: Path, name: str
) -> None:
    for place in (work, work / "with\nnewline"):
        place.mkdir(exist_ok=True)
        (place / name).write_text(f"the file {place.name} {name!r}")
    found = ada.get(files(work)).json()
    assert sorted(each["path"] for each in found["items"]) == sorted(
        (name, f"with\nnewline/{name}")
    )
    assert found["skipped"] == 0
    for each in found["items"]:
        answer = ada.get(each["_links"]["self"])
        assert answer.status_code == 200, answer.text
        assert answer.text == (work / each["path"]).read_text()
        assert "\n" not in answer.headers["content-disposition"]
    (second,) = ada.get(files(work), params={"after": found["items"][0]["path"]}).json()["items"]
    assert second == found["items"][1]


@pytest.mark.parametrize(
    "path",
    [
        "../state", "%2e%2e/state", "..%2fstate", "a/%2e%2e/%2e%2e/state", "%2fetc%2fpasswd",
        "a//b", "%00",
    ],
)  # fmt: skip
def test_no_path_leads_out(ada: Asker, work: Path, path: str) -> None:
    (work / "a.txt").touch()
    (work.parent / "state").write_text("secret")
    answer = ada.get(f"{files(work)}/{path}")
    assert answer.status_code in {404, 422}, answer.text
    assert "secret" not in answer.text


def test_what_is_no_regular_file_is_not_there(ada: Asker, work: Path) -> None:
    (work.parent / "state").write_text("secret")
    (work / "up").symlink_to("..")
    (work / "state").symlink_to("../state")
    (work / "folder").mkdir()
    for path in ("up/state", "state", "folder", "none"):
        assert_problem(ada.get(f"{files(work)}/{path}"), 404, "not_found")
    assert ada.get(files(work)).json()["items"] == []


def test_files_that_lie_elsewhere_are_explained(
    ada: Asker, work: Path, person: Callable[..., Asker]
) -> None:
    work.rmdir()
    for path in (files(work), f"{files(work)}/a.txt"):
        problem = assert_problem(ada.get(path), 404, "files_not_here")
        assert "CELERIAC_HOME" in problem["detail"]
    assert_problem(ada.get(f"/api/v1/sessions/{uuid4()}/files"), 404, "not_found")
    assert_problem(person("bob").get(files(work)), 404, "not_found")
    work.symlink_to("/etc")
    assert_problem(ada.get(f"{files(work)}/passwd"), 404, "files_not_here")


def test_an_execution_has_files_of_its_own(
    ada: Asker, container: CoreServices, person: Callable[..., Asker]
) -> None:
    accepted = ada.post(EXECUTE, json=BODY).json()
    workdir = container.settings.home / "work" / accepted["execution_id"]
    link = ada.get(accepted["_links"]["self"]).json()["_links"]["files"]
    assert_problem(ada.get(link), 404, "files_not_here")
    workdir.mkdir(parents=True)
    (workdir / "out.csv").write_text("a,b\n")
    [item] = ada.get(link).json()["items"]
    assert ada.get(item["_links"]["self"]).text == "a,b\n"
    assert_problem(person("bob").get(item["_links"]["self"]), 404, "not_found")


def test_the_client_downloads(client: Client, container: CoreServices, tmp_path: Path) -> None:
    accepted = client.executions.execute("summarise", {"text": "a"})
    work = worked(container, accepted.execution_id)
    name = "ü #1?\n%0A.txt"
    (work / "deep").mkdir()
    (work / "deep" / name).write_text("x" * 100_000)
    found = client.sessions.files(work.parent.name)
    assert [each.path for each in found.list()] == [f"deep/{name}"]
    target = local_path(tmp_path / "to", f"deep/{name}")
    assert found.download(f"deep/{name}", target) == 100_000
    assert target.read_text() == "x" * 100_000
    with pytest.raises(ClientError) as caught:
        found.download("none", tmp_path / "to" / "none")
    assert caught.value.code == "not_found"
    assert [each.name for each in (tmp_path / "to").iterdir()] == ["deep"], "nothing half done"
    for path in ("../x", "/x", "a/../../x", ""):
        with pytest.raises(ClientError):
            local_path(tmp_path, path)

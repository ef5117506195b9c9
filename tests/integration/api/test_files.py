"""Files of working directories over HTTP: all that is inside, nothing that isn't."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from celeriac.client import Client, ClientError
from celeriac.client.sessions import local_path
from celeriac.domain.artifacts import ArtifactOwner
from celeriac.kit.files import Folder, remove_tree
from celeriac.wiring.core import CoreServices, working_files
from tests.support.api import EXECUTE, Asker, assert_problem
from tests.support.working import begin_session, claim

BODY = {"variables": {"text": "a"}}


class Work:
    """The directory of an agent that is at work; `save` does what its worker does at the end."""

    def __init__(self, container: CoreServices, execution_id: str, *, in_session: bool) -> None:
        claimed = claim(container, execution_id)
        self.lease, self.workspace_id = claimed.lease, claimed.workspace_id
        id_ = begin_session(container, claimed) if in_session else UUID(execution_id)
        self.owner = ArtifactOwner(id_, is_session=in_session)
        self.path = container.settings.home / "an agent's" / "work"
        self.path.mkdir(parents=True)
        self._files = working_files(container.settings, container.database)

    def save(self) -> None:
        folder = Folder(self.path.parent, "work")
        self._files.save(self.lease, self.workspace_id, self.owner, folder)


@pytest.fixture
def work(ada: Asker, container: CoreServices) -> Work:
    """A session of Ada's."""
    return Work(container, ada.post(EXECUTE, json=BODY).json()["execution_id"], in_session=True)


def files(work: Work) -> str:
    return f"/api/v1/sessions/{work.owner.id}/files"


@pytest.mark.requirement("A12")
def test_files_are_listed_in_pages_and_downloaded(ada: Asker, work: Work) -> None:
    (work.path / "notes").mkdir()
    (work.path / "notes" / 'a "b".html').write_text("<script>alert(1)</script>")
    (work.path / "z.bin").write_bytes(bytes(range(256)) * 4096)
    (work.path / "link").symlink_to("/etc/passwd")
    assert_problem(ada.get(files(work)), 404, "files_not_here")
    work.save()
    page = ada.get(f"{files(work)}?limit=1").json()
    [first] = page["items"]
    assert (first["path"], first["media_type"]) == ('notes/a "b".html', "text/html")
    assert first["sha256"] == sha256(b"<script>alert(1)</script>").hexdigest()
    assert first["execution_id"] == str(work.lease.execution_id)
    assert page["skipped"] == 1
    rest = ada.get(files(work), params={"after": page["next_after"]}).json()
    assert [(item["path"], item["size"]) for item in rest["items"]] == [("z.bin", 1 << 20)]
    assert rest["next_after"] is None
    answer = ada.get(first["_links"]["self"])
    assert answer.text == "<script>alert(1)</script>"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    disposition = "attachment; filename*=UTF-8''a%20%22b%22.html"
    assert answer.headers["content-disposition"] == disposition
    large = ada.get(rest["items"][0]["_links"]["self"])
    assert (len(large.content), large.headers["content-length"]) == (1 << 20, str(1 << 20))


@pytest.mark.parametrize(
    ("wanted", "status", "content"),
    [
        ("bytes=2-4", 206, b"234"), ("bytes=7-", 206, b"789"), ("bytes=-2", 206, b"89"),
        ("bytes=8-99", 206, b"89"), ("bytes=-99", 206, b"0123456789"),
        ("bytes=10-", 200, b"0123456789"), ("bytes=5-2", 200, b"0123456789"),
        ("bytes=0-1,3-4", 200, b"0123456789"), ("lines=1-2", 200, b"0123456789"),
        (f"bytes={'9' * 5_000}-", 200, b"0123456789"),
    ],
)  # fmt: skip
def test_a_part_of_a_file_can_be_asked_for(
    ada: Asker, work: Work, wanted: str, status: int, content: bytes
) -> None:
    (work.path / "digits").write_bytes(b"0123456789")
    work.save()
    answer = ada.get(f"{files(work)}/digits", headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (status, content)
    assert answer.headers["content-length"] == str(len(content))
    where = f"bytes {10 - len(content) if wanted != 'bytes=2-4' else 2}-"
    assert answer.headers.get("content-range", where).startswith(where)
    assert ("content-range" in answer.headers) == (status == 206)


ODD_NAMES = [
    "a\nb.txt", "\n", "end\n", "\na", "a\r\nb", "tab\there", "\x1b[2Jcleared", "\x7f", "\x01",
    "a\u2028b\u2029c\u0085d", "\ufeffmark", "\u202egnp.exe", " blank ", "100%", "a\\b",
    "\udc80".encode(errors="surrogateescape").decode("latin-1"), "…", ".hidden",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_whatever_its_name_a_file_that_is_listed_can_be_downloaded(
    ada: Asker, work: Work, name: str
) -> None:
    for place in (work.path, work.path / "with\nnewline"):
        place.mkdir(exist_ok=True)
        (place / name).write_text(f"the file {place.name} {name!r}")
    work.save()
    found = ada.get(files(work)).json()
    assert sorted(each["path"] for each in found["items"]) == sorted(
        (name, f"with\nnewline/{name}")
    )
    assert found["skipped"] == 0
    for each in found["items"]:
        answer = ada.get(each["_links"]["self"])
        assert answer.status_code == 200, answer.text
        assert answer.text == (work.path / each["path"]).read_text()
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
def test_no_path_leads_out(ada: Asker, work: Work, path: str) -> None:
    (work.path / "a.txt").touch()
    (work.path.parent / "state").write_text("secret")
    work.save()
    answer = ada.get(f"{files(work)}/{path}")
    assert answer.status_code in {404, 422}, answer.text
    assert "secret" not in answer.text


def test_what_is_no_regular_file_is_not_there(ada: Asker, work: Work) -> None:
    (work.path.parent / "state").write_text("secret")
    (work.path / "up").symlink_to("..")
    (work.path / "state").symlink_to("../state")
    (work.path / "folder").mkdir()
    work.save()
    for path in ("up/state", "state", "folder", "none"):
        assert_problem(ada.get(f"{files(work)}/{path}"), 404, "not_found")
    assert ada.get(files(work)).json()["items"] == []


def test_what_another_workspace_has_saved_is_not_found(
    ada: Asker, work: Work, person: Callable[..., Asker]
) -> None:
    (work.path / "a.txt").touch()
    work.save()
    assert_problem(ada.get(f"/api/v1/sessions/{uuid4()}/files"), 404, "not_found")
    bob = person("bob")
    for path in (files(work), f"{files(work)}/a.txt"):
        assert_problem(bob.get(path), 404, "not_found")


def test_a_file_that_the_store_has_lost_is_explained(
    ada: Asker, work: Work, container: CoreServices
) -> None:
    (work.path / "a.txt").touch()
    work.save()
    remove_tree(container.settings.home / "objects")
    assert_problem(ada.get(f"{files(work)}/a.txt"), 404, "files_not_here")


def test_an_execution_has_files_of_its_own(
    ada: Asker, container: CoreServices, person: Callable[..., Asker]
) -> None:
    accepted = ada.post(EXECUTE, json=BODY).json()
    link = ada.get(accepted["_links"]["self"]).json()["_links"]["files"]
    assert_problem(ada.get(link), 404, "files_not_here")
    work = Work(container, accepted["execution_id"], in_session=False)
    (work.path / "out.csv").write_text("a,b\n")
    work.save()
    [item] = ada.get(link).json()["items"]
    assert ada.get(item["_links"]["self"]).text == "a,b\n"
    assert_problem(person("bob").get(item["_links"]["self"]), 404, "not_found")


def test_the_client_downloads(client: Client, container: CoreServices, tmp_path: Path) -> None:
    accepted = client.executions.execute("summarise", {"text": "a"})
    work = Work(container, str(accepted.execution_id), in_session=True)
    name = "ü #1?\n%0A.txt"
    (work.path / "deep").mkdir()
    (work.path / "deep" / name).write_text("x" * 100_000)
    work.save()
    found = client.sessions.files(work.owner.id)
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

"""What an agent has changed in its checkout: a commit, a branch, a patch and a bundle.

Everything in the checkout may be hostile, its `.git` above all: settings and attributes of git name
programs that git runs. So git works here with a directory of its own, whose settings are ours, and
takes only objects from the agent's. Attributes can still name filters and drivers, but no setting
says what these are. git runs only commands that call no hooks and look into no nested repositories,
and it runs as the agent's user, in the agent's sandbox: even a fault of git gives the agent nothing
that it did not have.
"""

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.child.process import ChildCommand
from celeriac.agents.repository.checkout import Author
from celeriac.agents.repository.git import ALLOW, ENVIRONMENT, git_program
from celeriac.agents.repository.program import Ended, run_program
from celeriac.domain.errors import RepositoryUnavailableError
from celeriac.domain.repositories import is_sha
from celeriac.kit.files import Folder, remove_tree
from celeriac.kit.json_types import JsonObject
from celeriac.kit.processes import ResourceLimits
from celeriac.kit.threads import FILES

PATCH = "changes.patch"
BUNDLE = "changes.bundle"
SCRATCH = ".collecting-"

_GRACE_SECONDS = 0.2
_SMALL = 4_096
_PACKED = 8_000_000
_BRANCH_FILE = re.compile(r"refs/[A-Za-z0-9_./@+=,#%-]+")

_SETTINGS = """\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tsymlinks = true
\tlogAllRefUpdates = false
\thooksPath = /dev/null
\tfsmonitor = false
\tuntrackedCache = false
\tattributesFile = /dev/null
\texcludesFile = /dev/null
\tprotectHFS = true
\tprotectNTFS = true
\tautocrlf = false
[gc]
\tauto = 0
[maintenance]
\tauto = false
[commit]
\tgpgSign = false
[submodule]
\trecurse = false
"""

_SCRIPT = r"""
set -eu
git=$1 top=$2 base=$3 head=$4 branch=$5 message=$6
cd "$top"
"$git" cat-file -e "$head^{commit}" 2>/dev/null || head=$base
"$git" read-tree "$head"
"$git" update-index -q --refresh --ignore-submodules >/dev/null || :
list() { "$git" diff-files --no-ext-diff --ignore-submodules=all --name-only -z "$@"; }
list --diff-filter=D >"$GIT_DIR/gone"
{ list --diff-filter=d; "$git" ls-files --others --exclude-standard -z; } >"$GIT_DIR/kept"
"$git" update-index -z --force-remove --stdin <"$GIT_DIR/gone"
"$git" update-index -z --add --replace --stdin <"$GIT_DIR/kept"
tree=$("$git" write-tree)
if [ "$tree" != "$("$git" rev-parse "$head^{tree}")" ]; then
    head=$(printf '%s\n' "$message" | "$git" commit-tree -p "$head" "$tree")
fi
echo "$head"
[ "$head" = "$base" ] && exit 0
"$git" update-ref "refs/heads/$branch" "$head"
"$git" diff-tree --no-ext-diff --no-textconv --shortstat "$base" "$head"
"$git" diff-tree -p --binary --full-index --no-renames --no-ext-diff --no-textconv \
    --src-prefix=a/ --dst-prefix=b/ "$base" "$head" >"$GIT_DIR/changes.patch"
"$git" bundle create --quiet "$GIT_DIR/changes.bundle" "$base..refs/heads/$branch"
own=$top/.git/refs/heads/$branch
mkdir -p "${own%/*}" && rm -f "$own" && echo "$head" >"$own" || :
"""
"""The branch in the agent's repository is written as a file: git would read its settings. The
change is stored also where the agent has made that impossible."""

_FIGURES = re.compile(
    r" (?P<files>\d+) files? changed(?:, (?P<added>\d+) insertions?\(\+\))?"
    r"(?:, (?P<removed>\d+) deletions?\(-\))?"
)


@dataclass(frozen=True, slots=True)
class Change:
    """What is stored of a change. `head` is `base` if nothing was changed."""

    branch: str
    base: str
    head: str
    files: int = 0
    added: int = 0
    removed: int = 0
    patch: int | None = None
    """Bytes of the patch; None if there is none, or it is larger than allowed."""
    bundle: int | None = None

    @property
    def data(self) -> JsonObject:
        """The data of the event."""
        changed = self.head != self.base
        return {
            "branch": self.branch if changed else None,
            "base": self.base,
            "head": self.head,
            "files": self.files,
            "insertions": self.added,
            "deletions": self.removed,
            "patch": PATCH if self.patch is not None else None,
            "patch_bytes": self.patch,
            "bundle": BUNDLE if self.bundle is not None else None,
        }


@dataclass(frozen=True, slots=True)
class NewCommit:
    """What the change becomes: a commit of `author` on `branch`, after the commit `base`."""

    base: str
    branch: str
    author: Author
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """Takes changes out of checkouts, as the agents' user and in their sandbox."""

    confinement: Confinement
    patch_bytes: int = 20 * 1024 * 1024
    seconds: float = 300.0

    async def collect(self, top: Path, into: Path, wanted: NewCommit) -> Change:
        """Commit what is not committed, and store the patch and the bundle in `into`.

        Raises RepositoryUnavailableError where that is not possible, as in a checkout whose `.git`
        the agent has destroyed, and after the time limit; OSError where `into` can't be written to.
        """
        scratch = top.parent / f"{SCRATCH}{uuid4().hex}"
        try:
            head = await FILES.run(_prepared, scratch, top, wanted.base)
            done = await self._run(scratch, top, head, wanted)
            if done.code:
                raise RepositoryUnavailableError(
                    f"The change in the checkout can't be stored: {done.reason}"
                )
            return await FILES.run(self._stored, scratch, into, done, wanted)
        finally:
            await FILES.run(remove_tree, scratch)

    async def _run(self, scratch: Path, top: Path, head: str, wanted: NewCommit) -> Ended:
        user = self.confinement.user
        await FILES.run(user.own, scratch)
        command = ChildCommand(
            arguments=(
                *("/bin/sh", "-c", _SCRIPT, "sh"),
                *(git_program(), str(top), wanted.base, head, wanted.branch, wanted.message),
            ),
            environment={
                **ENVIRONMENT,
                **wanted.author.environment,
                "PATH": os.defpath,
                "GIT_DIR": str(scratch),
                "GIT_WORK_TREE": str(top),
                "GIT_INDEX_FILE": str(scratch / "index"),
                ALLOW: "none",
            },
            workdir=scratch,
            stop_grace_seconds=_GRACE_SECONDS,
            limits=ResourceLimits(file_bytes=max(self.patch_bytes, 1) * 100),
            user=user,
            sandbox=self.confinement.sandbox,
            writes=(top,),
        )
        try:
            return await run_program(command, seconds=self.seconds)
        except TimeoutError:
            raise RepositoryUnavailableError(
                f"The change in the checkout was not stored within {self.seconds:g} s."
            ) from None

    def _stored(self, scratch: Path, into: Path, done: Ended, wanted: NewCommit) -> Change:
        head, *rest = done.text.splitlines() or [""]
        if not is_sha(head):
            raise RepositoryUnavailableError("The change in the checkout has no commit.")
        into.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = Folder(scratch.parent, scratch.name)
        figures = next((found for line in rest if (found := _FIGURES.match(line))), None)
        numbers = {} if figures is None else figures.groupdict(default="0")
        return Change(
            branch=wanted.branch,
            base=wanted.base,
            head=head,
            files=int(numbers.get("files", 0)),
            added=int(numbers.get("added", 0)),
            removed=int(numbers.get("removed", 0)),
            patch=self._copied(folder, PATCH, into),
            bundle=self._copied(folder, BUNDLE, into),
        )

    def _copied(self, folder: Folder, name: str, into: Path) -> int | None:
        """Copy a file that the agent's user has written, unless it is too large."""
        target = into / name
        try:
            opened = folder.open(name)
        except OSError:
            target.unlink(missing_ok=True)
            return None
        if opened.size > self.patch_bytes:
            opened.file.close()
            target.unlink(missing_ok=True)
            return None
        draft = into / f".{name}.{uuid4().hex}"
        try:
            with draft.open("xb") as file:
                for chunk in opened.chunks():
                    file.write(chunk)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        return opened.size


def set_aside(into: Path, attempt: int) -> None:
    """Keep the stored change of an earlier attempt under a name of its own."""
    for name in (PATCH, BUNDLE):
        with suppress(FileNotFoundError):
            (into / name).replace(into / f"attempt-{attempt}.{name.partition('.')[2]}")


def _prepared(scratch: Path, top: Path, base: str) -> str:
    """Make a directory of git with our settings, and return the commit that the agent is at.

    Objects that the agent's repository borrows from others are refused: those of somebody else's
    would become part of the patch.
    """
    objects = top / ".git/objects"
    real = all(stat.S_ISDIR(_mode(each)) for each in (top, top / ".git", objects, objects / "info"))
    if not real or _mode(objects / "info/alternates"):
        raise RepositoryUnavailableError(
            "The change in the checkout can't be stored: its .git is gone, or borrows objects."
        )
    for each in ("objects/info", "objects/pack", "refs/heads", "info"):
        (scratch / each).mkdir(parents=True, mode=0o700)
    (scratch / "config").write_text(_SETTINGS)
    (scratch / "HEAD").write_text("ref: refs/heads/none\n")
    (scratch / "objects/info/alternates").write_text(f"{top}/.git/objects\n")
    return head_of(top) or base


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def head_of(top: Path) -> str | None:
    """Read the commit that a checkout is at, without git and without following links."""
    folder = Folder(top.parent, top.name)
    text = _read(folder, ".git/HEAD", _SMALL)
    if text is None or is_sha(text):
        return text
    name = text.removeprefix("ref: ")
    if _BRANCH_FILE.fullmatch(name) is None or ".." in name:
        return None
    loose = _read(folder, f".git/{name}", _SMALL)
    if loose is not None:
        return loose if is_sha(loose) else None
    packed = _read(folder, ".git/packed-refs", _PACKED) or ""
    lines = (line.split(" ", 1) for line in packed.splitlines())
    found = next((parts[0] for parts in lines if parts[1:] == [name]), "")
    return found if is_sha(found) else None


def _read(folder: Folder, path: str, most: int) -> str | None:
    try:
        opened = folder.open(path)
    except (OSError, ValueError):
        return None
    file: BinaryIO
    with opened.file as file:
        text = file.read(most + 1)
    return None if len(text) > most else text.decode(errors="replace").strip()

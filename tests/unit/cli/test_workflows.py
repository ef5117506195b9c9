"""`celeriac workflows`: faults with their places, graphs, and the JSON schema."""

import json
from pathlib import Path

import pytest

from celeriac.cli.core.output import ExitCode
from celeriac.cli.main import main
from tools.cli_reference import SCHEMA, json_schema

GOOD = """\
# a comment
workflow: brief
input: {url: string}
limits: [{key: input.url, max: 2, policy: keep_latest}]
steps:
  fetch: {task: fetch-page, with: {url: "${{ input.url }}"}}
  left: {task: left, needs: [fetch]}
  right: {task: right, needs: [fetch], when: input.url != ''}
  both: {task: both, with: {a: "${{ steps.left.result }}", b: "${{ steps.right.result }}"}}
  report: {task: report, run: always, timeout: 20m}
"""

BAD = """\
workflow: brief
input: {url: string}
steps:
  fetch:
    task: fetch-page
    with:
      url: "${{ input.ulr }}"
    retrys: 3
  both:
    task: both
    when: steps.fetch.result ==
    with:
      text: |
        Dear reader,
        ${{ steps.fech.result }}
"""


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["workflows", *arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_a_valid_document_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "brief.yaml"
    file.write_text(GOOD)
    code, out, err = run(capsys, "validate", str(file))
    assert (code, err) == (ExitCode.OK, "")
    assert out.splitlines() == [
        "brief: 5 steps, 4 levels, up to 2 at a time",
        "input: url",
        "limit: 2 runs for each input.url; policy: keep_latest",
        "  1. fetch   task fetch-page",
        "  2. left    task left; needs fetch",
        "     right   task right; needs fetch; when input.url != ''",
        "  3. both    task both; needs left, right",
        "  4. report  task report; run: always; timeout 20 min 0 s",
    ]


def test_faults_have_line_column_step_and_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(BAD)
    code, out, err = run(capsys, "validate", str(file))
    assert (code, out) == (ExitCode.USAGE, "")
    assert "[workflow_invalid]" in err
    assert [line.strip().removeprefix(f"{file}:") for line in err.splitlines()[1:5]] == [
        "8:5: step fetch, retrys: there is no field retrys: did you mean retry?",
        "7:17: step fetch, with.url: the input has no ulr; did you mean url?",
        "11:32: step both, when: the expression ends too early",
        "15:1: step both, with.text: there is no step fech; did you mean fetch?",
    ]


def test_json_has_faults_and_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(GOOD)
    bad.write_text(BAD)
    code, out, _ = run(capsys, "validate", str(good), str(bad), "--json")
    found = json.loads(out)
    assert (code, found["ok"], len(found["faults"])) == (ExitCode.USAGE, False, 4)
    assert found["faults"][0] == {
        "file": str(bad), "line": 8, "column": 5, "workflow": "brief", "step": "fetch",
        "field": "steps.fetch.retrys",
        "message": "there is no field retrys: did you mean retry?",
    }  # fmt: skip
    assert found["workflows"][0]["levels"][1] == ["left", "right"]


def test_the_workflows_of_a_file_for_apply(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "project.yaml"
    entry = "  - workflow: {}\n    steps: {{a: {{task: t, needs: [{}]}}, b: {{task: t}}}}\n"
    file.write_text(
        "agents: []\nworkflows:\n" + entry.format("one", "b") + entry.format("two", "c")
    )
    code, _, err = run(capsys, "validate", str(file))
    assert code == ExitCode.USAGE
    assert f"{file}:6:34: step a, needs.0: there is no step c" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [\n", ":2:1: this is not valid YAML"),
        ("a: &x 1\nb: *x", ":1:4: anchors and aliases are not used here"),
        ("workflow: a\nworkflow: b", ":2:1: workflow is here a second time"),
        ("", "a workflow must be an object"),
        ("workflow: w\nsteps: {a: {task: t}}\n---\n", "a second document"),
    ],
)
def test_texts_that_are_no_documents(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(text)
    code, _, err = run(capsys, "validate", str(file))
    assert code == ExitCode.USAGE
    assert message in err


def test_a_large_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("a" * 300_000)
    code, _, err = run(capsys, "validate", str(file))
    assert code == ExitCode.USAGE
    assert "more than 256,000 characters" in err


def test_programs_are_run_only_where_a_name_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flows_of_test.py").write_text(
        "from pathlib import Path\n"
        "from celeriac import Workflow\n"
        "Path('ran').touch()\n"
        "brief = Workflow('brief')\n"
        "a = brief.step('a')\n"
        "bad = Workflow('bad')\n"
        "bad.step('a').when('steps.b.result')\n"
    )
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "validate", "flows_of_test.py")
    assert (code, Path("ran").exists()) == (ExitCode.USAGE, False)
    assert "flows_of_test:NAME" in err
    code, out, _ = run(capsys, "validate", "flows_of_test:brief")
    assert (code, out.startswith("brief: 1 step, 1 level")) == (ExitCode.OK, True)
    code, _, err = run(capsys, "validate", "flows_of_test:bad")
    assert code == ExitCode.USAGE
    assert "flows_of_test:bad: step a, when: there is no step b" in err
    for wrong, said in (
        ("flows_of_test:none", "has no none"),
        ("flows_of_test:Path", "is no celeriac.Workflow"),
        ("no_such_module_here:x", "can't be imported"),
        ("nothing.yaml", "can't be read"),
    ):
        code, _, err = run(capsys, "validate", wrong)
        assert code == ExitCode.USAGE
        assert said in err


def test_the_published_schema_is_that_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "schema")
    assert code == ExitCode.OK
    assert SCHEMA.read_text(encoding="utf-8") == json_schema(), "run: make docs"
    assert json.loads(out) == json.loads(json_schema())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BAD, "8:5: step fetch, retrys: there is no field retrys: did you mean retry?"),
        (GOOD, "is the workflow brief, not other."),
        ("workflows:\n  - {workflow: other, steps: {a: {task: a}}}\n", "a list of workflows"),
        ("[]", "a workflow must be an object with workflow and steps"),
        ("a: [", "2:1: this is not valid YAML"),
    ],
)
def test_what_is_no_document_of_the_workflow_is_not_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text(text)
    server = ("--api-url", "http://127.0.0.1:1", "--api-key", "none")
    code, out, err = run(capsys, "create", "other", "--spec", str(file), *server)
    assert (code, out) == (ExitCode.USAGE, "")
    assert words in err

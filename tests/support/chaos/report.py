"""The table of a run: how often each fault came, and what was lost or doubled."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from tests.support.chaos.faults import Happening
from tests.support.chaos.findings import Finding, Harm
from tests.support.chaos.plan import FAULTS, faults_of
from tests.support.chaos.running import Outcome

_HARMS = (Harm.LOST, Harm.DOUBLED, Harm.OTHER)
_EXAMPLES = 3
_RECOVERY_SECONDS = 1.0


def rows_of(outcome: Outcome) -> list[dict[str, Any]]:
    """Return the rows of the table, one for each fault, and the total."""
    windows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for each in outcome.happenings:
        windows[each.fault.name].append(_window(each))
    rows = []
    for name in FAULTS:
        if name not in windows:
            continue
        met = [life for life in outcome.lives if _meets(life, windows[name])]
        subjects = {
            harm: {
                finding.subject
                for finding in outcome.findings
                if finding.harm is harm and finding.alive and _meets(finding.alive, windows[name])
            }
            for harm in _HARMS
        }
        rows.append(_row(name, len(windows[name]), len(met), subjects))
    everything = {
        harm: {finding.subject for finding in outcome.findings if finding.harm is harm}
        for harm in _HARMS
    }
    total = _row("total", len(outcome.happenings), len(outcome.lives), everything)
    return [*rows, total]


def _row(name: str, times: int, met: int, subjects: dict[Harm, set[str]]) -> dict[str, Any]:
    counted = {harm.value: len(subjects[harm]) for harm in _HARMS}
    return {"fault": name, "times": times, "executions": met, **counted}


def _window(each: Happening) -> tuple[float, float]:
    """Return when a fault can harm: until those that it struck have found each other again."""
    return each.begun, each.ended + _RECOVERY_SECONDS


def _meets(life: tuple[float, float], windows: Sequence[tuple[float, float]]) -> bool:
    return any(life[0] <= end and begin <= life[1] for begin, end in windows)


def table(outcome: Outcome) -> str:
    """Return the table as text, with what was found below it, and how to repeat the run."""
    heads = ("fault", "times", "executions", "lost", "doubled", "other")
    lines = [heads, *(tuple(str(row[head]) for head in heads) for row in rows_of(outcome))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    rule = "-" * len(shown[0])
    counts = ", ".join(
        f"{what.replace('_', ' ')} {count}" for what, count in outcome.counts.items()
    )
    return "\n".join(
        [
            *(shown[0], rule, *shown[1:-1], rule, shown[-1], ""),
            f"{outcome.rounds} rounds of {len(outcome.plan.rounds)} in {outcome.seconds:.0f} s",
            counts,
            *_found(outcome.findings),
            "",
            f"Repeat with: {command(outcome)}",
        ]
    )


def _found(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return ["nothing lost, nothing doubled, nothing left behind"]
    lines = ["", "What did not hold:"]
    counts = Counter((finding.check, finding.harm) for finding in findings)
    for (check, harm), count in counts.most_common():
        lines.append(f"  {check} ({harm}): {count}")
        examples = [each for each in findings if (each.check, each.harm) == (check, harm)]
        lines += [f"    {each.subject}: {each.detail[:300]}" for each in examples[:_EXAMPLES]]
    return lines


def command(outcome: Outcome) -> str:
    """Return the command that carries out the same plan."""
    plan = outcome.plan
    arguments = f"SEED={plan.seed} EXECUTIONS={plan.executions}"
    if plan.pooler:
        arguments += " POOLER=1"
    if list(plan.faults) != faults_of(pooler=plan.pooler):
        arguments += f" CHAOS_ARGS='--faults {','.join(plan.faults) or 'none'}'"
    return f"make chaos {arguments}"


def document(outcome: Outcome) -> dict[str, Any]:
    """Return all of it as JSON can hold it."""
    return {
        "seed": outcome.plan.seed,
        "executions": outcome.plan.executions,
        "pooler": outcome.plan.pooler,
        "faults": list(outcome.plan.faults),
        "rounds": outcome.rounds,
        "rounds_planned": len(outcome.plan.rounds),
        "seconds": round(outcome.seconds, 1),
        "counts": outcome.counts,
        "table": rows_of(outcome),
        "findings": [
            {
                "check": each.check,
                "harm": each.harm.value,
                "subject": each.subject,
                "detail": each.detail,
            }
            for each in outcome.findings
        ],
        "happenings": [
            {
                "fault": each.fault.name,
                "target": each.fault.target,
                "begun": each.begun,
                "seconds": round(each.ended - each.begun, 3),
            }
            for each in outcome.happenings
        ],
    }

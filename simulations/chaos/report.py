"""What a run did and proved: tables to read, and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from simulations.chaos.proof import Proof
from simulations.chaos.run import Result

SHOWN = 5  # of what differs


def tables(result: Result) -> Iterator[RenderableType]:
    """Return what is printed: the faults, the requests, what was proved, and the verdict."""
    yield _faults(result)
    yield _requests(result)
    yield _proofs(result)
    for trouble in result.troubles:
        yield f"[red]{escape(trouble)}[/red]"
    yield _verdict(result)


def _faults(result: Result) -> Table:
    table = Table("round", "at", "injected", title=f"Seed {result.seed}, {result.minutes:g} minutes")
    for number, (round_, _) in enumerate(result.rounds, 1):
        for fault in round_.faults:
            table.add_row(str(number), f"{fault.at_s:.1f} s", str(fault))
        table.add_section()
    return table


def _requests(result: Result) -> Table:
    requests = result.ledger.requests
    ways = sorted({how for _, how in requests})
    table = Table("requests", *ways, title="Answers")
    for what in sorted({what for what, _ in requests}):
        table.add_row(what, *(str(requests[what, how] or "") for how in ways))
    return table


def _proofs(result: Result) -> Table:
    table = Table("", "proved", "round", "checked", title="Proofs", show_lines=False)
    for number, (_, proofs) in enumerate(result.rounds, 1):
        last = number == len(result.rounds)
        for proof in proofs:
            if last or not proof.holds:
                table.add_row(_mark(proof), _said(proof), str(number), str(proof.checked))
    return table


def _mark(proof: Proof) -> str:
    return "[green]yes[/green]" if proof.holds else "[red]NO[/red]"


def _said(proof: Proof) -> str:
    wrong = proof.differing[:SHOWN]
    more = len(proof.differing) - len(wrong)
    lines = [f"[bold]{proof.name}[/bold]: {proof.what}", *(f"  {escape(line)}" for line in wrong)]
    return "\n".join([*lines, f"  ... and {more} more"] if more else lines)


def _verdict(result: Result) -> str:
    totals = result.ledger.totals()
    told = ", ".join(
        f"{counts['acknowledged']} {kind} (+ {counts['unknown']} unknown)"
        for kind, counts in totals.items()
    )
    quiet = ", ".join(f"{seconds:.1f}" for seconds in result.quiet_s)
    faults = sum(len(round_.faults) for round_, _ in result.rounds)
    verdict = "[green]Everything holds[/green]" if result.holds else "[red]Something does not hold[/red]"
    return (
        f"Acknowledged: {told}.\nQuiet after {quiet} s.\n{verdict}: seed {result.seed}, {faults} faults."
    )


def to_json(result: Result) -> dict[str, Any]:  # Any: JSON
    """Return the same for machines."""
    return {
        "seed": result.seed,
        "minutes": result.minutes,
        "holds": result.holds,
        "rounds": [
            {
                "seconds": round_.seconds,
                "faults": [
                    {"at_s": f.at_s, "kind": f.kind.name, "target": f.target, "seconds": f.seconds}
                    for f in round_.faults
                ],
                "proofs": [
                    {
                        "name": p.name,
                        "what": p.what,
                        "checked": p.checked,
                        "differing": list(p.differing),
                    }
                    for p in proofs
                ],
            }
            for round_, proofs in result.rounds
        ],
        "quiet_s": result.quiet_s,
        "requests": [
            {"what": what, "answer": how, "count": number}
            for (what, how), number in sorted(result.ledger.requests.items())
        ],
        "ledger": result.ledger.totals(),
        "troubles": result.troubles,
    }

"""`edge-centernet doctor`: what this machine can run, and what is wrong with it."""

from __future__ import annotations

import json
import os

import click

from edge_centernet.cli import Command, echo
from edge_centernet.doctor.examine import examine
from edge_centernet.doctor.report import as_json, as_text
from edge_centernet.doctor.rules import diagnose
from edge_centernet.model_zoo import DEFAULT


@click.command(cls=Command)
@click.option(
    "--model",
    default=DEFAULT,
    show_default=True,
    metavar="PATH|NAME",
    help="Model file or the name of a shipped model.",
)
@click.option("--quick", is_flag=True, help="Skip running the engines; finishes at once but checks less.")
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object instead of text.")
@click.pass_context
def command(ctx: click.Context, model: str, quick: bool, as_object: bool) -> None:
    """Check board, system, Python, engines and cameras, and explain what is wrong and how to fix it.

    Each installed engine runs the model's self-test in a process of its own, so that a crash does no harm.
    docs/doctor.md explains every finding. The exit status is 1 if a finding is an error, otherwise 0.

    Example: edge-centernet doctor --quick
    """
    facts = examine(model, quick, notify=lambda line: echo(line, err=True))
    findings = diagnose(facts)
    if as_object:
        echo(json.dumps(as_json(facts, findings), indent=2, ensure_ascii=False))
    else:
        click.echo(as_text(facts, findings), color=False if os.environ.get("NO_COLOR") else None)
    ctx.exit(int(any(finding.level == "error" for finding in findings)))

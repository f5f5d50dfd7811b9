"""`edge-centernet doctor`."""

from __future__ import annotations

import json
import os

import click

from edge_centernet.doctor.examine import diagnose, examine
from edge_centernet.doctor.report import as_json, as_text
from edge_centernet.model_zoo import DEFAULT


@click.command(short_help="Find out what this machine can run, and what is wrong.")
@click.option(
    "--model", default=DEFAULT, show_default=True, metavar="PATH|NAME", help="Model file, or name of a shipped model."
)
@click.option("--quick", is_flag=True, help="Do not run the engines: an instant answer, about less.")
@click.option("--json", "as_object", is_flag=True, help="One JSON object instead of text.")
@click.pass_context
def command(ctx: click.Context, model: str, quick: bool, as_object: bool) -> None:
    """Look at board, system, Python, engines and cameras, and say what is wrong and how to put it right.

    Each engine that is installed answers the model's own question in a process of its own, which may crash.
    docs/doctor.md explains every finding. Exit status: 0, or 1 where a finding is an error.

    Example: edge-centernet doctor --quick
    """
    facts = examine(model, quick, notify=lambda line: click.echo(line, err=True))
    findings = diagnose(facts)
    if as_object:
        click.echo(json.dumps(as_json(facts, findings), indent=2, ensure_ascii=False))
    else:
        click.echo(as_text(facts, findings), color=False if os.environ.get("NO_COLOR") else None)
    ctx.exit(int(any(finding.level == "error" for finding in findings)))

"""`edge-centernet bundle`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_centernet.deploy.boards import PACKAGES, TARGETS, find_target
from edge_centernet.deploy.bundle import SAMPLE, Contents, make_bundle
from edge_centernet.deploy.signing import signers_line, signing_key

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(short_help="Pack everything that a board needs into one signed file.")
@click.option("--target", required=True, type=click.Choice(list(TARGETS)), help="The board.")
@click.option("--python", help="The board's Python, such as 3.13.  [default: that of its usual system]")
@click.option("--engine", type=click.Choice(PACKAGES), help="[default: the best one for the board]")
@click.option("--model", metavar="PATH|NAME", help="[default: the shipped one that suits the board]")
@click.option("--model-only", is_flag=True, help="Only the model, for boards that have a release.")
@click.option("--check-photo", type=_FILE, help="With something that the model finds.  [default: the sample photo]")
@click.option("--config", type=_FILE, metavar="TOML", help="The first camera's settings.  [default: /dev/video0]")
@click.option("--wheel", "wheels", type=_FILE, multiple=True, help="Take this wheel instead of PyPI's (repeatable).")
@click.option("--no-c", is_flag=True, help="Without the compiled decoder: slower, and no cross compiler is needed.")
@click.option(
    "--key", type=click.Path(path_type=Path), help="Private ssh key to sign with.  [default: one of your own]"
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("dist"), show_default=True)
def command(
    target: str,
    python: str | None,
    engine: str | None,
    model: str | None,
    model_only: bool,
    check_photo: Path | None,
    config: Path | None,
    wheels: tuple[Path, ...],
    no_c: bool,
    key: Path | None,
    out: Path,
) -> None:
    """Pack model, packages, service and a check into one signed file, from which a board installs without a network.

    The packages are fetched from PyPI, by the hashes that come with edge-centernet. Equal inputs give equal bytes.
    docs/deploy.md tells how to go on.

    Example: edge-centernet bundle --target pi4 --model converted/mine.tflite
    """
    board = find_target(target, python, engine)
    private = sign_with(key)
    contents = Contents(model or board.model, check_photo or SAMPLE, config, model_only, wheels, not no_c)
    path = make_bundle(board, contents, private, out, lambda line: click.echo(line, err=True))
    signers = out / "signers"
    signers.write_text(signers_line(private))
    click.echo(f"{path} ({path.stat().st_size / 1e6:.0f} MB)")
    click.echo(f"Boards must trust its signer: {signers}", err=True)


def sign_with(given: Path | None) -> Path:
    """The private key; tells of one that was made just now."""
    key, made = signing_key(given)
    if made:
        click.echo(f"Made a key to sign with: {key}. Keep it: boards that trust it take no other.", err=True)
    return key

"""`edge-centernet bundle`: one signed file with everything that a board needs."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from edge_centernet.cli import Command, echo, option_group
from edge_centernet.deploy.boards import PACKAGES, TARGETS, find_target
from edge_centernet.deploy.bundle import SAMPLE, Contents, make_bundle
from edge_centernet.deploy.signing import DEFAULT_KEY, signers_line, signing_key

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(cls=Command)
@option_group(
    click.option("--target", required=True, type=click.Choice(list(TARGETS)), help="Board to build for."),
    click.option(
        "--python", help="Python version on the board, such as 3.13.  [default: that of its usual system]"
    ),
    heading="Board",
)
@option_group(
    click.option(
        "--engine",
        type=click.Choice(PACKAGES),
        help="Inference engine.  [default: the best one for the board]",
    ),
    click.option(
        "--model",
        metavar="PATH|NAME",
        help="Model file or the name of a shipped model.  [default: the shipped one that suits the board]",
    ),
    click.option(
        "--model-only", is_flag=True, help="Pack only the model, for boards that already have a release."
    ),
    click.option(
        "--check-photo",
        type=_FILE,
        help="Photo for the check on the board; the model must detect something in it.  "
        "[default: the sample photo]",
    ),
    click.option(
        "--config",
        type=_FILE,
        metavar="TOML",
        help="Settings of the first camera.  [default: use /dev/video0]",
    ),
    click.option(
        "--wheel",
        "wheels",
        type=_FILE,
        multiple=True,
        help="Wheel to use instead of the one on PyPI; repeatable.",
    ),
    click.option(
        "--no-c",
        is_flag=True,
        help="Leave out the compiled decoder: detection is slower, but no cross compiler is needed.",
    ),
    heading="Contents",
)
@option_group(
    click.option(
        "--key",
        type=click.Path(path_type=Path),
        help=f"Private SSH key to sign with.  [default: {DEFAULT_KEY}, made at first use]",
    ),
    click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("dist"),
        show_default=True,
        help="Output folder, created if missing.",
    ),
    heading="Output",
)
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
    """Pack model, Python packages, service and self-check into one signed file that installs offline.

    The packages are downloaded from PyPI and checked against the hashes that edge-centernet carries. The same
    inputs give the same bytes. docs/deploy.md explains the next steps.

    Example: edge-centernet bundle --target pi4 --model converted/mine.tflite
    """
    board = find_target(target, python, engine)
    private = sign_with(key)
    contents = Contents(model or board.model, check_photo or SAMPLE, config, model_only, wheels, not no_c)
    path = make_bundle(board, contents, private, out, lambda line: echo(line, err=True))
    signers = out / "signers"
    signers.write_text(signers_line(private))
    echo(f"{path} ({path.stat().st_size / 1e6:.0f} MB)")
    echo(f"Boards must trust this signer: {signers}", err=True)
    echo(
        f"Next: edge-centernet deploy USER@HOST --bundle {shlex.quote(str(path))}, "
        "or put it on an SD card by edge-centernet image",
        err=True,
    )


def sign_with(given: Path | None) -> Path:
    """The private key to sign with; says so if one had to be made just now."""
    key, made = signing_key(given)
    if made:
        echo(f"Created a signing key: {key}. Keep it: boards that trust it accept no other.", err=True)
    return key

"""`edge-centernet deploy`: a release onto one board over SSH, or onto many by Ansible."""

from __future__ import annotations

import json
import shlex
import tempfile
from pathlib import Path

import click

from edge_centernet.cli import Command, echo, option_group
from edge_centernet.cli.bundle import sign_with
from edge_centernet.deploy.agent import CAMERA
from edge_centernet.deploy.bundle import SAMPLE, Contents, make_bundle
from edge_centernet.deploy.push import (
    Connection,
    Host,
    connect,
    deployed_target,
    put,
    put_many,
    roll_back,
    target_of,
)
from edge_centernet.deploy.signing import DEFAULT_KEY, as_signers, signers_line
from edge_centernet.errors import ConfigError
from edge_centernet.progress import bars

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(cls=Command)
@click.argument("host", metavar="[USER@HOST]", required=False)
@option_group(
    click.option("--rollback", is_flag=True, help="Go back to the previous release."),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Log in and pack the release, tell what would be done, and install nothing.",
    ),
    click.option("--status", is_flag=True, help="Print what is installed and how it is running, as JSON."),
    heading="Instead of installing",
)
@option_group(
    click.option(
        "--bundle",
        type=_FILE,
        help="Bundle from `edge-centernet bundle`.  [default: one is made for the board]",
    ),
    click.option(
        "--model",
        metavar="PATH|NAME",
        help="Model to deploy; on a board that has a release, it alone is sent.  [default: the one for the "
        "board]",
    ),
    click.option(
        "--config", type=_FILE, metavar="TOML", help="Settings of the first camera, for a bundle made here."
    ),
    click.option(
        "--check-photo",
        type=_FILE,
        help="Photo for the check on the board, for a bundle made here; the model must detect something in "
        "it.",
    ),
    click.option("--no-c", is_flag=True, help="Leave out the C decoder: NumPy decodes, more slowly."),
    click.option(
        "--allow-older", is_flag=True, help="Accept a bundle of a lower version than the one that runs."
    ),
    click.option(
        "--key",
        type=click.Path(path_type=Path),
        help=f"Private SSH key to sign with.  [default: {DEFAULT_KEY}, made at first use]",
    ),
    heading="Release",
)
@option_group(
    click.option(
        "--camera",
        default="camera",
        show_default=True,
        help="Name of the first camera's service and settings on a new board, not of its device.",
    ),
    click.option(
        "--signers",
        type=_FILE,
        help="Keys that a new board shall trust from now on.  [default: the key that signs]",
    ),
    click.option(
        "--watch",
        type=click.FloatRange(min=0, max=3600),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="Time within which the camera service must run well.",
    ),
    click.option(
        "--ssh",
        "ssh_options",
        default="",
        metavar="OPTIONS",
        help='Options for ssh, such as "-p 2222 -i KEY".',
    ),
    click.option("--root", default="/", help="Where /opt and /etc are on the board.", hidden=True),
    heading="Board",
)
@option_group(
    click.option("--inventory", type=_FILE, help="Ansible inventory of the boards, instead of USER@HOST."),
    click.option(
        "--batches",
        default="1,25%,100%",
        show_default=True,
        help="How many boards of the inventory to update at a time.",
    ),
    click.option(
        "--ansible", "ansible_options", default="", metavar="OPTIONS", help="Options for ansible-playbook."
    ),
    heading="Many boards",
)
def command(
    host: str | None,
    inventory: Path | None,
    bundle: Path | None,
    model: str | None,
    rollback: bool,
    status: bool,
    dry_run: bool,
    watch: float,
    camera: str,
    config: Path | None,
    check_photo: Path | None,
    no_c: bool,
    allow_older: bool,
    signers: Path | None,
    key: Path | None,
    ssh_options: str,
    batches: str,
    root: str,
    ansible_options: str,
) -> None:
    """Deploy a release to a board: upload, verify, install, check, switch, watch; if one fails, roll back.

    The old release keeps running until the new one has passed its check on the board. It is restored if the
    connection breaks, the power fails, the disk is full or the camera service does not run well within
    --watch seconds. The running and the previous release are kept.

    Example: edge-centernet deploy pi@raspberrypi.local
    """
    if (host is None) == (inventory is None):
        raise ConfigError("deploy: expected USER@HOST or --inventory FILE, one of them; try deploy --help")
    if dry_run and (host is None or status or rollback):
        raise ConfigError(
            "--dry-run: expected USER@HOST and a release to install; --ansible --check is Ansible's"
        )
    if no_c and (bundle or host is None):
        raise ConfigError(
            "--no-c: expected only for a bundle that is made here, without --bundle and --inventory"
        )
    if inventory is not None and bundle is None and not rollback:
        raise ConfigError(
            "--inventory: expected --bundle FILE with it; make one with `edge-centernet bundle`"
        )
    if not CAMERA.fullmatch(camera):
        raise ConfigError(f"--camera: expected letters, digits, '.', '_' and '-', got {camera!r}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if inventory is not None:  # by Ansible; boards of one kind share a bundle, so that it must be given
            values: dict[str, object] = {"camera": camera, "watch": watch, "rollback": rollback}
            values["batches"] = [int(part) if part.isdigit() else part for part in batches.split(",")]
            if bundle is not None:
                trusted = _signers(signers, key, folder)
                values |= {"bundle": str(bundle.absolute()), "signers": str(trusted)}
                values["allow_older"] = allow_older
            put_many(inventory, values, shlex.split(ansible_options))
            return
        assert host is not None
        with connect(Host(host, tuple(shlex.split(ssh_options)), root)) as connection:
            if status:
                echo(json.dumps(connection.ask("status"), indent=1))
            elif rollback:
                echo(f"{host}: {roll_back(connection, watch, _say)}")
            else:
                trusted = _signers(signers, key, folder)
                made = bundle or _make(connection, model, config, check_photo, key, no_c, folder)
                if dry_run:
                    _tell_plan(host, connection, made, camera)
                    return
                with bars() as progress:
                    name = put(
                        connection,
                        made,
                        trusted,
                        camera=camera,
                        watch_s=watch,
                        allow_older=allow_older,
                        say=_say,
                        progress=progress,
                    )
                echo(f"{host}: {name}")


def _say(line: str) -> None:
    echo(line, err=True)


def _make(
    connection: Connection,
    model: str | None,
    config: Path | None,
    photo: Path | None,
    key: Path | None,
    no_c: bool,
    folder: Path,
) -> Path:
    """The bundle for this board: the model alone where that was asked and a release is there."""
    status = connection.ask("status")
    only_model = model is not None and status["current"] is not None
    target = deployed_target(status) if only_model else target_of(status)
    board = status["model"] or status["machine"]
    _say(f"board: {board}, Python {target.python}: {target.name} with {target.engine}")
    contents = Contents(model or target.model, photo or SAMPLE, config, only_model, compiled=not no_c)
    return make_bundle(target, contents, sign_with(key), folder, _say)


def _tell_plan(host: str, connection: Connection, bundle: Path, camera: str) -> None:
    """What deploying would do, by what the board says of itself; nothing is installed or switched."""
    status = connection.ask("status")
    cameras = ", ".join(status["cameras"]) or f"edge-centernet@{camera}.service, new"
    size = bundle.stat().st_size / 1e6
    echo(
        f"{host} runs {status['current'] or 'no release'}; its previous one is {status['previous'] or 'none'}"
    )
    echo(
        f"Would upload {bundle.name} ({size:.0f} MB), install and check it, switch to it and restart: "
        f"{cameras}"
    )
    if not status["pinned"]:
        echo("The board trusts nobody yet: it would trust the key that signs from now on")
    echo("Dry run: nothing was installed")


def _signers(given: Path | None, key: Path | None, folder: Path) -> Path:
    """A file with the keys that the board shall trust: those given, else the key that signs."""
    path = folder / "signers"
    path.write_text(as_signers(given) if given else signers_line(sign_with(key)))
    return path

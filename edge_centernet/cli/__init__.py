"""The command line. Importing this imports click only; a command's module is loaded when it is used."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, NoReturn

import click

from edge_centernet import __version__
from edge_centernet.errors import EdgeCenterNetError, MissingDependency

# name -> ("module:command", one line of help, pip extra that the command needs beside the base packages)
COMMANDS = {
    "detect": ("edge_centernet.cli.detect:command", "Find objects in pictures, videos or a camera.", ""),
    "eval": ("edge_centernet.cli.eval:command", "Measure a model on a COCO data set.", "eval"),
    "inspect": ("edge_centernet.cli.inspect:command", "Show what a model file is.", ""),
    "convert": ("edge_centernet.cli.convert:command", "Make OpenVINO, TFLite and ONNX files.", "convert"),
    "data": ("edge_centernet.cli.data:command", "Look into a data set before training.", ""),
    "label": ("edge_centernet.cli.label:command", "Label photos by detectors that agree.", "label"),
    "models": ("edge_centernet.cli.models:command", "List the models that ship with the package.", ""),
    "train": ("edge_centernet.cli.train:command", "Train a network: float, then for INT8.", "train"),
    "verify": ("edge_centernet.cli.verify:command", "Compare a model file with its source, layer by layer.", "convert"),
    "import": (
        "edge_centernet.cli.import_:command",
        "Take over a CenterNet made elsewhere.",
        "convert",
    ),
    "export-c": ("edge_centernet.cli.export_c:command", "Write a model's constants for the C decoder.", ""),
    "bench": ("edge_centernet.cli.bench:command", "Measure how fast this machine detects, engine beside engine.", ""),
    "export-frigate": (
        "edge_centernet.cli.export_frigate:command",
        "Write a model that Frigate runs.",
        "convert",
    ),
    "doctor": ("edge_centernet.cli.doctor:command", "Find out what this machine can run, and what is wrong.", ""),
    "bundle": ("edge_centernet.cli.bundle:command", "Pack everything that a board needs into one signed file.", ""),
    "deploy": ("edge_centernet.cli.deploy:command", "Put a bundle onto boards over ssh, or take it back.", ""),
    "image": ("edge_centernet.cli.image:command", "Make an SD card image that detects when it gets power.", ""),
    "flash": ("edge_centernet.cli.flash:command", "Write an image to an SD card, safely.", ""),
}
# For commands without an extra of their own: module that could not be imported -> extra that brings it. Those of the
# engines are in their records.
_EXTRAS = {
    "paho": "live",
    "prometheus_client": "live",
    "tornado": "live",
    "onnx": "convert",
    "flatbuffers": "convert",
    "tflite": "convert",
    "pycocotools": "eval",
    "faster_coco_eval": "eval",
    "ncnn": "label",
    "torch": "train",
    "matplotlib": "train",
    "tensorboard": "train",
    "onnxsim": "train",
    "safetensors": "train",
    "tqdm": "train",
}
_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


class LazyGroup(click.Group):
    """Commands from COMMANDS, imported on use; every expected failure becomes one line and exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        try:
            command: click.Command = getattr(import_module(module), attribute)
        except ImportError as error:
            raise _missing(error, cmd_name) from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text, _) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; name the pip extra when a package is missing."""
        try:
            return super().invoke(ctx)
        except ImportError as error:
            raise _missing(error, ctx.invoked_subcommand or "") from error

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """As click's (a reader that leaves: quiet, 1), with our own exit codes: 2 for every error, 130 for Ctrl-C."""
        run: Any = super().main  # click types it as never returning
        if not standalone_mode:
            return run(*args, standalone_mode=False, **extra)
        try:
            code = run(*args, standalone_mode=False, **extra)
        except EdgeCenterNetError as error:
            _fail(str(error), error.exit_code)
        except click.ClickException as error:
            error.show()
            sys.exit(2)
        except (KeyboardInterrupt, click.Abort):
            click.echo("Interrupted.", err=True)
            sys.exit(_INTERRUPTED)
        except OSError as error:  # disk full, no permission: nothing a traceback would explain better
            _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(code if isinstance(code, int) else 0)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-centernet")
def cli() -> None:
    """CenterNet object detection for small computers, in INT8.

    Example: edge-centernet detect --source photo.jpg
    """


def main() -> NoReturn:
    """Entry point of `edge-centernet`; ends the process with 0, 2 for any error, or 130 for Ctrl-C."""
    cli.main(prog_name="edge-centernet")
    raise AssertionError("click returned")  # pragma: no cover


def _fail(message: str, code: int = 2) -> NoReturn:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _missing(error: ImportError, command: str) -> EdgeCenterNetError | ImportError:
    """The error that names the pip extra, or the ImportError itself when it is a bug of ours."""
    from edge_centernet.runtimes.engines import ENGINES  # here: --help need not load it

    package = (error.name or "").partition(".")[0]
    extras = _EXTRAS | {module: engine.extra for engine in ENGINES.values() for module in engine.modules}
    extra = COMMANDS[command][2] if command in COMMANDS and COMMANDS[command][2] else extras.get(package, "")
    if not extra or package not in extras:
        return error
    return MissingDependency.for_extra(f"edge-centernet {command}", extra)

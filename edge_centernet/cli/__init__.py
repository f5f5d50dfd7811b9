"""The command line. Importing this imports click only; a command's module is loaded when it is used."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

import click

from edge_centernet import __version__
from edge_centernet.errors import EdgeCenterNetError, MissingDependency, printable

# name -> ("module:command" of this package, one line of help, pip extra that the command needs, if any)
COMMANDS = {
    "detect": ("detect:command", "Detect, track and count objects in images or live video.", ""),
    "demo": ("demo:command", "Watch people being counted, without a camera.", ""),
    "report": ("report:command", "Summarize what a camera counted: tables, charts, a page.", ""),
    "store": ("store:command", "Export what many cameras counted as Parquet.", ""),
    "audit": ("audit:command", "Watch a recording to find out how right the counts are.", "live"),
    "tune": ("tune:command", "Find the model, input size and line that fit a view.", "convert"),
    "models": ("models:command", "List the models that come with the package.", ""),
    "doctor": ("doctor:command", "Check what this machine can run and how to fix problems.", ""),
    "bench": ("bench:command", "Measure how fast each engine detects on this machine.", ""),
    "inspect": ("models:inspect", "Show what a model file contains.", ""),
    "convert": ("convert:command", "Convert a model to OpenVINO, TFLite, ONNX or TensorRT.", "convert"),
    "verify": ("verify:command", "Compare a model file with its source, layer by layer.", "convert"),
    "eval": ("eval:command", "Evaluate a model on a labelled data set (COCO metrics).", "eval"),
    "import": ("import_:command", "Import and quantize a CenterNet trained elsewhere.", "convert"),
    "data": ("data:command", "Check, split or sample data sets.", ""),
    "label": ("label:command", "Label photos automatically with one or more detectors.", "label"),
    "train": ("train:command", "Train a model on your own classes.", "train"),
    "bundle": ("bundle:command", "Pack everything a board needs into one signed file.", ""),
    "deploy": ("deploy:command", "Install, update or roll back a release on boards over SSH.", ""),
    "image": ("image:command", "Build an SD card image that detects as soon as it boots.", ""),
    "flash": ("flash:command", "Flash an SD card and verify it.", ""),
    "export-c": ("export_c:command", "Export a model's constants for the C decoder.", ""),
    "export-frigate": ("export_frigate:command", "Export a model for Frigate.", "convert"),
}
# Headings of `edge-centernet --help`, in the order in which people need the commands.
SECTIONS = {
    "Detect": ("detect", "demo", "report", "store", "audit", "tune", "models", "doctor", "bench"),
    "Convert and evaluate": ("inspect", "convert", "verify", "eval", "import"),
    "Data and training": ("data", "label", "train"),
    "Boards": ("bundle", "deploy", "image", "flash"),
    "Export to other programs": ("export-c", "export-frigate"),
}
# For commands without an extra of their own: module that could not be imported -> extra that brings it. Those
# of the engines are in their records.
_EXTRAS = {
    "paho": "live",
    "prometheus_client": "live",
    "tomlkit": "live",
    "tornado": "live",
    "duckdb": "fleet",
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
# What of such a command needs the module, where most of the command does without.
_USES = {
    "paho": "MQTT (--mqtt)",
    "prometheus_client": "the live page (--serve)",
    "tomlkit": "the live page (--serve)",
    "tornado": "the live page (--serve)",
}
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
_BROWSER_SIGNS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")  # variables; without one there is no window


Function = Callable[..., Any]


def echo(message: object, err: bool = False, nl: bool = True) -> None:
    """Print as click.echo, without control characters; every command prints by this."""
    click.echo(printable(str(message)), err=err, nl=nl)


def open_browser(url: str) -> None:
    """Show a page in the user's browser, where there is one with a window; returns at once.

    Over SSH it would be a browser for the terminal, in which the command is running.
    """
    if sys.platform == "darwin" or any(os.environ.get(name) for name in _BROWSER_SIGNS):
        import webbrowser

        # On a thread: some browsers return when they are closed.
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


class Command(click.Command):
    """A command whose help lists options below the headings of `option_group`, and all others at the end."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each heading, in the order of their first options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            # Arguments are explained in the text.
            if record is not None and not isinstance(param, click.Argument):
                sections.setdefault(getattr(param, "heading", ""), []).append(record)
        general = sections.pop("", [])  # --help, and the options of a command that has no headings
        for heading, records in [*sections.items(), ("Other options" if sections else "Options", general)]:
            with formatter.section(heading):
                formatter.write_dl(records)


def option_group(*decorators: Function, heading: str) -> Function:
    """Make one decorator of several options, in the order in which the help lists them below `heading`."""

    def decorate(function: Function) -> Function:
        for decorator in reversed(decorators):  # click lists first what was applied last
            function = decorator(function)
            # The option just added.
            function.__click_params__[-1].heading = heading  # type: ignore[attr-defined]
        return function

    return decorate


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
            command: click.Command = getattr(import_module(f"edge_centernet.cli.{module}"), attribute)
        except ImportError as error:
            raise _missing(error, cmd_name) from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands below the headings of SECTIONS, without importing them."""
        width = max(map(len, COMMANDS))
        for heading, names in SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), COMMANDS[name][1]) for name in names])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's; an unknown command's error names the one that was probably meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from edge_centernet.classes import did_you_mean  # here: it is needed for this alone

            hint = did_you_mean(args[0], list(COMMANDS)) or "."
            raise click.UsageError(error.message.removesuffix(".") + hint, ctx) from None

    def _explained(self, error: click.ClickException) -> click.ClickException:
        """Of an unknown option tell whose it is: this command's under a longer name, or another command's."""
        if not isinstance(error, click.NoSuchOption) or error.ctx is None:
            return error
        wanted, ctx = error.option_name, error.ctx
        word = wanted.strip("-")
        if longer := [name for name in _options(ctx.command) if word in name.strip("-").split("-")]:
            return click.UsageError(f"No such option '{wanted}'; did you mean {' or '.join(longer)}?", ctx)
        others = []
        for name in COMMANDS:
            with suppress(EdgeCenterNetError, ImportError):  # one whose packages are not installed
                command = self.get_command(ctx, name)
                if command is not None and wanted in _options(command):
                    others.append(f"`{name}`")
        if not others:
            return error
        have = f"{', '.join(others[:-1])} and {others[-1]} have" if others[1:] else f"{others[0]} has"
        return click.UsageError(f"No such option '{wanted}'; {have} it.", ctx)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; name the pip extra when a package is missing."""
        try:
            return super().invoke(ctx)
        except ImportError as error:
            raise _missing(error, ctx.invoked_subcommand or "") from error

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """As click's, with our own exit codes: 2 for an error, unless it has its own, and 130 for Ctrl-C.

        A reader that leaves early, such as `head`, ends the command quietly with 1, as click does it.
        """
        run: Any = super().main  # click types it as never returning
        if not standalone_mode:
            return run(*args, standalone_mode=False, **extra)
        try:
            code = run(*args, standalone_mode=False, **extra)
        except EdgeCenterNetError as error:
            _fail(str(error), error.exit_code)
        except click.ClickException as error:
            shown = io.StringIO()
            self._explained(error).show(shown)
            echo(shown.getvalue(), err=True, nl=False)
            sys.exit(2)
        except (KeyboardInterrupt, click.Abort):
            echo("Interrupted.", err=True)
            sys.exit(INTERRUPTED)
        except OSError as error:  # disk full, no permission: nothing a traceback would explain better
            _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(code if isinstance(code, int) else 0)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-centernet")
def cli() -> None:
    """Object detection for small computers, with quantized CenterNet models.

    Example: edge-centernet detect photo.jpg
    """


def main() -> NoReturn:
    """Entry point of `edge-centernet`; ends the process with 0, 2 for any error, or 130 for Ctrl-C."""
    cli.main(prog_name="edge-centernet")
    raise AssertionError("click returned")  # pragma: no cover


def _options(command: click.Command) -> list[str]:
    """The long names of its options."""
    return [name for param in command.params for name in param.opts if name.startswith("--")]


def _fail(message: str, code: int = 2) -> NoReturn:
    echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _missing(error: ImportError, command: str) -> EdgeCenterNetError | ImportError:
    """The error that names the pip extra, or the ImportError itself when it is a bug of ours."""
    from edge_centernet.runtimes.engines import ENGINES  # here: --help need not load it

    package = (error.name or "").partition(".")[0]
    extras = _EXTRAS | {module: engine.extra for engine in ENGINES.values() for module in engine.modules}
    own = COMMANDS[command][2] if command in COMMANDS else ""
    if package not in extras:
        return error
    what = f"edge-centernet {command}"
    return MissingDependency.for_extra(what if own else _USES.get(package, what), own or extras[package])

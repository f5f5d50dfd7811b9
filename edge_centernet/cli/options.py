"""Options that several commands share: models and engines, input sizes, data sets; and what they open."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_centernet.classes import did_you_mean
from edge_centernet.cli import echo, option_group
from edge_centernet.errors import ConfigError
from edge_centernet.manifest import InputSize
from edge_centernet.model_zoo import DEFAULT
from edge_centernet.runtimes import ENGINES, NAMES, open_runtime, select_engine
from edge_centernet.runtimes.base import Runtime
from edge_centernet.runtimes.engines import CPU
from edge_centernet.system.logs import quiet_libraries

if TYPE_CHECKING:
    from edge_centernet.data import DataSource

# ---- models and engines ------------------------------------------------------------------------------


model_option = click.option(
    "--model",
    # Not click's envvar, which would win over a configuration file.
    default=lambda: os.environ.get("EDGE_CENTERNET_MODEL") or DEFAULT,
    metavar="PATH|NAME",
    help="Model file (.xml, .tflite or .onnx) or the name of a shipped model."
    f"  [default: $EDGE_CENTERNET_MODEL, else {DEFAULT}]",
)
_runtime_option = click.option(
    "--runtime",
    type=click.Choice(NAMES),
    default="auto",
    show_default=True,
    help="Inference engine. auto chooses by the file's suffix; for a shipped model TFLite on ARM, "
    "OpenVINO elsewhere.",
)
device_option = click.option(
    "--device",
    default=CPU,
    show_default=True,
    metavar="CPU|GPU|NPU|AUTO",
    help="Device that OpenVINO computes on, by its name there, such as GPU.1; AUTO lets it choose. One whose "
    "answers are wrong, or that does not compute in int8, is refused.",
)
_threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="Number of CPU threads.  [default: the engine decides]"
)
# --runtime, --device, --threads; passed on as runtime, device, threads to `open_model`.
engine_options = option_group(_runtime_option, device_option, _threads_option, heading="Inference engine")

# The same with --model.
model_options = option_group(model_option, _runtime_option, device_option, _threads_option, heading="Model")

# --tiles; passed on as it is, to `Detector`.
tiles_option = click.option(
    "--tiles",
    metavar="COLUMNSxROWS|auto",
    help="Look for small objects in so many overlapping tiles, too, such as 2x2; each takes as long as the "
    "whole image. auto chooses by the sizes of what is found.  [default: the whole image only]",
)


def open_model(
    model: str | Path, runtime: str = "auto", threads: int | None = None, device: str = CPU
) -> Runtime:
    """Open what the options say, and say on stderr which engine runs which file, and on which device.

    An engine that fails its self-check on this machine is named and, where auto leaves the choice, the next
    one taken. Raises what `select_engine` and `open_runtime` raise.
    """
    path, name = select_engine(model, runtime, device, tell=functools.partial(echo, err=True))
    with quiet_libraries():
        opened = open_runtime(path, name, threads, device)
    on = f" on {opened.device}" if opened.device else ""
    echo(f"Using {ENGINES[name].title}{on}, {opened.manifest.precision}: {path}", err=True)
    return opened


def input_size(_: click.Context, option: click.Parameter, text: str | None) -> InputSize | None:
    """Callback of an option --size: 512x384, or one number for a square."""
    if text is None:
        return None
    try:
        return InputSize.of(text)
    except ConfigError as error:
        raise click.BadParameter(str(error).removeprefix("size: "), param=option) from None


# ---- labelled data sets, several at once -------------------------------------------------------------


def set_options(data: str, val: str) -> Callable[..., Any]:
    """--val, --images, --val-images and --labelled-only; passed on as tuples, for `sources`.

    data: how the training sets are given, as "--data". val: the help of --val.
    """
    each = "with several sets, repeat it once for each in the same order, or write NAME=FOLDER."
    return option_group(
        click.option("--val", multiple=True, type=click.Path(path_type=Path), help=val),
        click.option(
            "--images",
            multiple=True,
            metavar="FOLDER",
            help=f"Image folder of {data}, if it is not the usual one; {each}",
        ),
        click.option(
            "--val-images",
            multiple=True,
            metavar="FOLDER",
            help="Image folder of --val, given in the same way as --images.",
        ),
        click.option(
            "--labelled-only",
            multiple=True,
            metavar="SET=A,B",
            help=f"Classes that are labelled in one set of {data} or --val (its path, or a folder or file "
            "name in it), if not all are; repeatable.  [default: as its files declare, else all classes]",
        ),
        heading="Data",
    )


def sources(
    title: str,
    data: Sequence[Path],
    images: Sequence[str],
    val: Sequence[Path],
    val_images: Sequence[str],
    labelled_only: Sequence[str],
) -> tuple[tuple[DataSource, ...], tuple[DataSource, ...]]:
    """Training sets and validation sets.

    Args:
        title: how the training sets are given, as "--data".
        data: their paths.
        images: their image folders: one for each in their order, or NAME=FOLDER.
        val: paths of the validation sets.
        val_images: their image folders, likewise.
        labelled_only: NAME=CLASS,CLASS for sets of either kind.

    NAME is a set's path as it was given, or one part of it: a folder, or the file with or without its suffix.
    Raises ConfigError for a name of no set or of several, a folder too many or too few, and what is not
    NAME=...
    """
    from edge_centernet.data import DataSource  # here: detect shares this module and reads no data set

    paths = [*data, *val]
    folders = [
        *_folders("--images", images, title, data),
        *_folders("--val-images", val_images, "--val", val),
    ]
    only: list[tuple[str, ...] | None] = [None] * len(paths)
    for text in labelled_only:
        name, equals, classes = text.rpartition("=")
        words = tuple(word.strip() for word in classes.split(","))
        if not equals or not all(words):
            raise ConfigError(
                f"--labelled-only: expected SET=CLASS,CLASS with a set of {title} or --val, got {text!r}"
            )
        for i in _named("--labelled-only", name, paths):
            if only[i] is not None:
                raise ConfigError(
                    f"--labelled-only {text}: {paths[i]} is named twice; name all its classes at once"
                )
            only[i] = words
    found = tuple(DataSource(*one) for one in zip(paths, folders, only, strict=True))
    return found[: len(data)], found[len(data) :]


def _folders(option: str, texts: Sequence[str], title: str, paths: Sequence[Path]) -> list[Path | None]:
    """The image folder of each set, None for one that none was given for."""
    folders: list[Path | None] = [None] * len(paths)
    in_order = []
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).exists():  # an existing folder may have "=" in its name
            in_order.append(Path(text))
            continue
        for i in _named(option, name, paths):
            folders[i] = Path(folder)
    if not in_order:
        return folders
    open_ = [i for i, folder in enumerate(folders) if folder is None]
    if not paths:
        raise ConfigError(f"{option}: expected {title} with it, the set whose images these are")
    if len(in_order) != len(open_):
        raise ConfigError(
            f"{option}: expected one folder for each set of {title}, {len(open_)}, "
            f"or NAME=FOLDER for some of them; got {len(in_order)}"
        )
    for i, path in zip(open_, in_order, strict=True):
        folders[i] = path
    return folders


def _named(option: str, name: str, paths: Sequence[Path]) -> list[int]:
    """Which of the sets a name means: those of this very path, otherwise the one that has such a part."""
    if exact := [i for i, path in enumerate(paths) if path == Path(name)]:
        return exact
    found = [i for i, path in enumerate(paths) if name in {*path.absolute().parts, path.stem}]
    different = list(dict.fromkeys(paths[i] for i in found))
    if len(different) == 1:
        return found
    shown = ", ".join(str(path) for path in different or paths) or "none"
    if different:
        raise ConfigError(f"{option}: {name!r} names several sets ({shown}); write the path of one")
    known = [part for path in paths for part in (str(path), path.stem, path.absolute().parent.name)]
    raise ConfigError(
        f"{option}: expected the name of a set ({shown}), got {name!r}{did_you_mean(name, known)}"
    )

"""`edge-centernet tune`: which model, input size, threshold and line fit a view."""

from __future__ import annotations

from pathlib import Path

import click
import cv2

from edge_centernet.cli import Command, echo, option_group
from edge_centernet.cli.options import model_options
from edge_centernet.errors import ConfigError
from edge_centernet.files import prepare_folder, write_atomic
from edge_centernet.progress import bars
from edge_centernet.tuning.report import as_text, as_toml, convert_command, sheet
from edge_centernet.tuning.run import RESERVE, Wish, tune
from edge_centernet.tuning.view import STRETCH


@click.command(cls=Command)
@click.argument("source", metavar="VIDEO|CAMERA|FOLDER")
@option_group(
    click.option(
        "--classes", default="person", show_default=True, metavar="A,B", help="What is to be detected."
    ),
    click.option(
        "--fps",
        type=click.FloatRange(min=0, min_open=True),
        help=f"Frames per second that this machine must keep up with; {1 - RESERVE:.0%} of the time is the "
        "detector's.  [default: no more time than the model takes today]",
    ),
    click.option(
        "--max-ms",
        type=click.FloatRange(min=0, min_open=True),
        help="Milliseconds that a frame may take from image to boxes, instead of --fps.",
    ),
    click.option(
        "--labels",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="What is true: gt.txt of the MOT Challenge for a video, COCO JSON, VOC or YOLO for a folder of "
        "images.  [default: what the models agree on]",
    ),
    heading="Task",
)
@model_options
@option_group(
    click.option(
        "--frames",
        type=click.IntRange(min=2 * STRETCH),
        default=240,
        show_default=True,
        help="Frames to look at, at most; spread over all that is watched.",
    ),
    click.option(
        "--seconds",
        type=click.FloatRange(min=10),
        default=600.0,
        show_default=True,
        help="How much of a video or camera to watch, at most.",
    ),
    heading="Effort",
)
@option_group(
    click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("tuned"),
        show_default=True,
        help="Folder for camera.toml and tune.png, created if missing.",
    ),
    click.option("--apply", is_flag=True, help="Write the proposed model's file there too."),
    heading="Output",
)
def command(
    source: str, classes: str, fps: float | None, max_ms: float | None, labels: Path | None, model: str,
    runtime: str, device: str, threads: int | None, frames: int, seconds: float, out: Path, apply: bool,
) -> None:  # fmt: skip
    """Propose model, input size, threshold and counting line for a view.

    Each shipped model looks at it at several input sizes. The proposal is chosen on the first half of the
    frames and checked on the second; unless it is clearly better there than --model, --model is kept.
    Writes camera.toml for 'detect --config', and tune.png, which shows the reasons.

    \b
    Examples:
      edge-centernet tune entrance.mp4
      edge-centernet tune rtsp://camera/live --seconds 120 --fps 10 --threads 2 --apply
    """  # noqa: D301 (click keeps the lines below a real backspace as they are)
    if fps is not None and max_ms is not None:
        raise ConfigError("--fps and --max-ms: expected one of them, got both")
    wanted = tuple(name.strip() for name in classes.split(",") if name.strip())
    if not wanted:
        raise ConfigError("--classes: expected names such as person, got none")
    prepare_folder(out)
    budget = max_ms if fps is None else 1000.0 / fps * (1.0 - RESERVE)
    wish = Wish(source, model, runtime, device, threads, wanted, budget, labels, frames, seconds)
    with bars() as progress:
        tuned = tune(wish, out if apply else None, progress, lambda line: echo(line, err=True))
    echo(as_text(tuned))
    ok, picture = cv2.imencode(".png", sheet(tuned))
    assert ok  # of an array in memory, it always can
    write_atomic(out / "tune.png", picture.tobytes())
    config = out / "camera.toml"
    write_atomic(config, as_toml(tuned, out))
    echo(f"{config}, {out / 'tune.png'}")
    if not apply and (line := convert_command(tuned.choice.look.candidate, out)):
        echo(f"The model's file: {line}")
    echo(f"Then: edge-centernet detect --config {config} --camera 0")

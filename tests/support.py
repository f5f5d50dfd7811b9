"""Names and helpers that tests in several folders import."""

from __future__ import annotations

import shutil
from pathlib import Path

ENGINES = ("openvino", "tflite", "onnxruntime")
SUFFIX = {"openvino": ".xml", "tflite": ".tflite", "onnxruntime": ".onnx"}


def copy_artifact(source: Path, folder: Path) -> Path:
    """A copy of a model file, with its .bin if it has one, to damage."""
    for part in source.parent.glob(f"{source.stem}.*"):
        if part.suffix in (source.suffix, ".bin" if source.suffix == ".xml" else source.suffix):
            shutil.copy(part, folder / part.name)
    return folder / source.name


class Result(NamedTuple):
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run `edge-centernet ARGS` in this process; output is captured below Python, so that C libraries count too."""
    from edge_centernet.cli import cli

    def call(*args: str | Path) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(arg) for arg in args], prog_name="edge-centernet")
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Result(int(ended.value.code or 0), out, err)

    return call

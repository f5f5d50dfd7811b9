"""`edge-centernet import`: from a checkpoint of the original CenterNet to boxes in INT8."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support import ENGINES, SUFFIX, Result

torch = pytest.importorskip("torch", reason="needs the train extra")

import file_precision  # noqa: E402
import reference_ctdet  # noqa: E402
from reference_ctdet import CLASSES, draw_squares  # noqa: E402

from edge_centernet import qdq  # noqa: E402
from edge_centernet.artifact import read_manifest  # noqa: E402
from edge_centernet.boxes import iou  # noqa: E402
from edge_centernet.calibration.images import pick_images  # noqa: E402
from edge_centernet.cli import cli  # noqa: E402
from edge_centernet.converters import convert  # noqa: E402
from edge_centernet.errors import SourceError  # noqa: E402
from edge_centernet.heads import real_values  # noqa: E402
from edge_centernet.network.checkpoint import read_header  # noqa: E402
from edge_centernet.preprocess import prepare  # noqa: E402
from edge_centernet.qdq.reference import ASSETS  # noqa: E402
from edge_centernet.runtimes import open_runtime  # noqa: E402

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def reference() -> Any:
    """A network in the original's form that finds red, green and blue squares."""
    return reference_ctdet.squares_network()


@pytest.fixture(scope="module")
def checkpoint(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its checkpoint, as the original's training code writes it on several GPUs."""
    path = tmp_path_factory.mktemp("checkpoint") / "squares.pth"
    state = {f"module.{name}": tensor for name, tensor in reference.state_dict().items()}
    torch.save({"epoch": 140, "state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def imported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command wrote, at 128 pixels, calibrated on eight pictures."""
    photos, out = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("imported")
    for seed in range(8):
        cv2.imwrite(str(photos / f"{seed}.png"), draw_squares(seed)[0])
    options = ("--classes", ",".join(CLASSES), "--size", "128", "--calibration", photos, "--out", out)
    cli.main([str(word) for word in ("import", checkpoint, *options)], standalone_mode=False)
    return out


@pytest.fixture(scope="module")
def artifacts(imported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Engine -> the converted INT8 file; each was verified against the imported network."""
    out = tmp_path_factory.mktemp("artifacts")
    made = convert(imported / "squares.onnx", ["openvino", "tflite", "onnx"], "int8", out)
    return dict(zip(ENGINES, (artifact.path for artifact in made), strict=True))


@pytest.mark.slow
def test_it_writes_float_weights_and_the_interchange_file(imported: Path) -> None:
    """Named after the checkpoint; the manifest says which pictures it was calibrated on."""
    assert sorted(os.listdir(imported)) == ["squares.onnx", "squares.safetensors"]
    assert read_header(imported / "squares.safetensors")[2] == "float"
    assert len(read_manifest(imported / "squares.onnx").calibration_sha256) == 64


@pytest.mark.slow
def test_onnx_of_the_original_becomes_the_same_network(
    run: Run, reference: Any, imported: Path, tmp_path: Path
) -> None:
    """Exported by PyTorch, imported as ONNX: weights, scales and biases equal those from the checkpoint."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its retirement
        torch.onnx.export(
            reference.eval(), (torch.zeros(1, 3, 128, 128),), str(tmp_path / "squares.onnx"), dynamo=False,
            input_names=["input"], output_names=["hm", "wh", "reg"],
        )  # fmt: skip
    for seed in range(8):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), draw_squares(seed)[0])
    options = (
        "--classes",
        ",".join(CLASSES),
        "--size",
        "128",
        "--calibration",
        tmp_path,
        "--out",
        tmp_path / "out",
    )
    done = run("import", tmp_path / "squares.onnx", *options)
    assert done.code == 0, done.err
    ours, theirs = (qdq.load(folder / "squares.onnx") for folder in (tmp_path / "out", imported))

    assert "detections above 0.3 agree" in done.out
    for one, other in zip(ours.ops, theirs.ops, strict=True):
        assert type(one) is type(other)
        assert one.y.shape == other.y.shape
        if isinstance(one, qdq.Conv) and isinstance(other, qdq.Conv):
            np.testing.assert_allclose(one.weight, other.weight, atol=2 * float(other.weight_scale.max()))
            assert one.y.quant.scale == pytest.approx(other.y.quant.scale, rel=0.01)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.slow
def test_every_engine_detects_the_squares(
    run: Run, artifacts: dict[str, Path], tmp_path: Path, engine: str
) -> None:
    """Both squares of an image that calibration has not seen, with their colours and places, nothing else."""
    assert artifacts[engine].suffix == SUFFIX[engine]
    picture, boxes = draw_squares(99)
    cv2.imwrite(str(tmp_path / "x.png"), picture)
    options = (
        "--model",
        artifacts[engine],
        "--runtime",
        engine,
        "--format",
        "jsonl",
        "--no-save",
        "--out",
        tmp_path,
    )
    done = run("detect", "--source", tmp_path / "x.png", *options)
    assert done.code == 0, done.err
    written = [
        *done.out.splitlines(),
        *(line for f in tmp_path.rglob("*.jsonl") for line in f.read_text().splitlines()),
    ]
    found = next(json.loads(line) for line in written if line.startswith("{"))["detections"]

    assert {one["class"] for one in found} == set(boxes)
    assert len(found) == len(boxes)
    for one in found:
        assert iou(np.array([one["box"]], float), np.array([boxes[one["class"]]], float)) > 0.6


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.slow
def test_int8_heads_follow_the_reference(reference: Any, artifacts: dict[str, Path], engine: str) -> None:
    """On average within 0.2 logits of the float heat, 0.1 cells of its size and 0.05 cells of its offset."""
    runtime = open_runtime(artifacts[engine], engine, threads=1)
    errors: dict[str, list[float]] = {"heat": [], "size": [], "offset": []}
    for seed in range(100, 104):
        picture, _ = draw_squares(seed)
        heads = runtime.run(prepare(picture, runtime.manifest)[0])
        with torch.no_grad():
            expected = reference(reference_ctdet.preprocess(picture))
        for role, got, wanted in zip(errors, heads, expected, strict=True):
            real = real_values(np.array(got), getattr(runtime.manifest, role))
            errors[role].append(float(np.abs(real - wanted[0].numpy()).mean()))
    runtime.close()
    means = {role: float(np.mean(values)) for role, values in errors.items()}

    assert means["heat"] < 0.2, means
    assert means["size"] < 0.1, means
    assert means["offset"] < 0.05, means


@pytest.mark.slow
def test_everything_runs_in_int8(imported: Path, artifacts: dict[str, Path]) -> None:
    """All 30 convolutions, with the colour transform and those for transposed ones; no float tensor."""
    convolutions = [op for op in qdq.load(imported / "squares.onnx").ops if isinstance(op, qdq.Conv)]

    assert len(convolutions) == 1 + 20 + 3 + 6
    assert len(file_precision.openvino_kernels(artifacts["openvino"])) == len(convolutions)
    assert file_precision.openvino_float_layers(artifacts["openvino"]) == []
    assert file_precision.tflite_float_tensors(artifacts["tflite"]) == []


@pytest.mark.slow
def test_the_picture_s_border_is_padded_as_in_training(imported: Path) -> None:
    """The colour transform stores the 0 of zero padding exactly: its zero point lies within the range."""
    recolor = qdq.load(imported / "squares.onnx").ops[0]
    assert isinstance(recolor, qdq.Conv)

    assert (recolor.weight != 0).sum() == 3
    # One weight a channel; scales up to 1 % coarser than it needs (docs/decisions/0006) may store it as 62.
    assert set(np.abs(recolor.weight_int8).max(axis=(1, 2, 3)).tolist()) <= {62, 63}
    assert -128 < recolor.y.quant.zero_point < 127


PHOTOS = ("--calibration", str(ASSETS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--classes", "a,b,c"),
            "--calibration: expected a folder or a data set; int8 needs ranges measured on",
        ),
        (("--classes", "a,b", *PHOTOS), "--classes: expected 3 names, as many as squares.pth has, got 2"),
        (("--classes", "coco", *PHOTOS), "--classes: expected 3 names, as many as squares.pth has, got 80"),
        (("--classes", "a,b,b", *PHOTOS), "expected distinct names"),
        (
            ("--classes", "a,b,c", "--size", "100", *PHOTOS),
            "expected a multiple of 32 pixels up to 4096, got 100",
        ),
        (
            ("--classes", "a,b,c", "--mean", "0.4", *PHOTOS),
            "expected three numbers with commas between them, got '0.4'",
        ),
        (("--classes", "a,b,c", "--std", "0,1,1", *PHOTOS), "expected three numbers each, std > 0"),
        (("--classes", "a,b,c", "--calibration", "nowhere"), "nowhere: expected a folder of images"),
    ],
)
def test_bad_options_are_one_line(
    run: Run, checkpoint: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    """Exit code 2, nothing written."""
    done = run("import", checkpoint, *arguments, "--out", tmp_path / "out")

    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_class_names_come_from_a_file_too(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    """One a line; the message counts them."""
    (tmp_path / "names.txt").write_text("red\n\ngreen apple\n", encoding="utf-8")
    done = run("import", checkpoint, "--classes", tmp_path / "names.txt", *PHOTOS, "--out", tmp_path / "out")

    assert "expected 3 names, as many as squares.pth has, got 2" in done.err


def test_calibration_images_are_spread_over_the_folder(tmp_path: Path) -> None:
    """Ten images in two folders, four wanted: two from each; other files do not count; none is an error."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for i in range(5):
            (tmp_path / folder / f"{i}.JPG").touch()
    (tmp_path / "a" / "notes.txt").touch()

    assert [p.relative_to(tmp_path).as_posix() for p in pick_images(tmp_path, 4)] == [
        *("a/0.JPG", "a/2.JPG", "b/0.JPG", "b/2.JPG")
    ]
    assert len(pick_images(tmp_path)) == 10
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"expected a folder of images .* found none in it"):
        pick_images(tmp_path / "empty")

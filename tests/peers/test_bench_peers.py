"""scripts/bench_peers.py from its command line: our rows, a peer's, and those that are absent."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import bench_peers
import pytest
from click.testing import CliRunner
from yolox import write_yolox

import edge_centernet
from edge_centernet.peers.families import FAMILIES

ROOT = Path(__file__).parents[2]
ASSETS = Path(edge_centernet.__file__).parent / "assets"


def write_photos(folder: Path) -> Path:
    """A COCO file of eight photos: four times the astronaut (person, lower 9 tenths) and the cat."""
    from edge_centernet.imageio import read_image

    (folder / "photos").mkdir(parents=True)
    images, annotations = [], []
    for number in range(8):
        name = ("astronaut.jpg", "cat.jpg")[number % 2]
        height, width = read_image(ASSETS / name).shape[:2]
        shutil.copy(ASSETS / name, folder / "photos" / f"{number}.jpg")
        images.append(
            {"id": number + 1, "file_name": f"photos/{number}.jpg", "width": width, "height": height}
        )
        box = [0, 0.1 * height, width, 0.9 * height]
        annotations.append(
            {"id": number + 1, "image_id": number + 1, "category_id": number % 2 + 1, "bbox": box}
        )
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "cat"}]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own."""
    command = [sys.executable, ROOT / "scripts/bench_peers.py", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_our_rows_a_peer_and_the_absent(tmp_path: Path) -> None:
    """Eight photos: five rows with all their numbers, seven peers named as absent, a table and a chart."""
    data = write_photos(tmp_path / "data")
    peer = write_yolox(tmp_path / "fixed.onnx", (0.0, 0.1, 1.0, 1.0), class_id=0)
    out, chart = tmp_path / "peers.json", tmp_path / "peers.png"
    result = run("--data", data, "--peer", f"yolox-nano={peer}", "--rounds", "2", "--block", "3",
                 "--json", out, "--chart", chart)  # fmt: skip
    assert result.returncode == 0, result.stderr
    record = json.loads(out.read_text())
    rows = record["results"]
    assert [(row["network"], row["runtime"], row["precision"]) for row in rows] == [
        ("centernet-mbv2-320", "openvino", "int8"),
        ("centernet-mbv2-320", "tflite", "int8"),
        ("centernet-nano-256", "openvino", "int8"),
        ("centernet-nano-256", "tflite", "int8"),
        ("YOLOX-nano 416", "openvino", "fp32"),
    ]
    for row in rows:
        assert row["threads"] == 1
        assert row["classes"] == 2
        assert 20 < row["peak_rss_mb"] < 1000
        stages = set(row["p50_ms"])
        assert stages == {"preprocess", "inference", "decode", "end_to_end"}
        assert all(0 <= row["p50_ms"][s] <= row["p90_ms"][s] <= row["p99_ms"][s] for s in stages)
    # The peer's letterbox is wide: its box is the person's in the astronaut's square photo, and no cat's.
    assert rows[0]["AP50"] > 0.4
    assert rows[0]["AP50"] == rows[1]["AP50"]
    assert rows[4]["size_bytes"] == peer.stat().st_size
    assert len(record["absent"]) == len(FAMILIES) - 1
    assert "YOLOX-nano 416" not in {row["peer"] for row in record["absent"]}
    for row in record["absent"]:
        assert row["where"]
        assert row["licence"]
        assert f"| {row['peer']} | `{row['option']}` | {row['where']} | " in result.stdout
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_percentiles_of_the_whole_are_not_the_sum_of_the_steps() -> None:
    """Two images, each slow in another step: both take 12 ms, but the steps' 99th percentiles sum to 21."""
    times = [
        {"preprocess": 10.0, "inference": 1.0, "decode": 1.0},
        {"preprocess": 1.0, "inference": 10.0, "decode": 1.0},
    ]
    found = bench_peers.percentiles(times)
    assert found["p50_ms"]["end_to_end"] == 12.0
    assert found["p99_ms"]["end_to_end"] == 12.0
    assert sum(found["p99_ms"][stage] for stage in bench_peers.STAGES) > 20


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--peer", "yolov9=x.onnx"), "expected FAMILY=FILE with one of nanodet-m"),
        (
            ("--peer", "yolox-nano=absent.onnx"),
            "absent.onnx: no such file; get it from https://github.com/Megvii",
        ),
        (("--peer", f"yolox-nano={Path(__file__)}"), "expected one of .onnx, .xml, .tflite, .param"),
    ],
)
def test_a_peer_that_cannot_be_run_is_one_line(args: tuple[str, ...], message: str) -> None:
    """What was expected, what came, exit code 2."""
    result = CliRunner().invoke(bench_peers.main, args)
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") == 1


def test_every_family_says_where_it_comes_from() -> None:
    """The place and the licence of each; the COCO classes."""
    for family in FAMILIES.values():
        assert len(family.classes) == 80
        assert family.licence
        assert "http" in family.where or "npm" in family.where

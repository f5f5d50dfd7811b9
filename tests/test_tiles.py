"""Tiles: where they lie, that heads put together have one peak an object, and what the two levels say."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import squares
from numpy.typing import NDArray

from edge_centernet.boxes import iou
from edge_centernet.decoder import decode_levels
from edge_centernet.detections import Detections
from edge_centernet.detector import Detector
from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.heads import Heads
from edge_centernet.manifest import Manifest, ModelSpec, Quant, TensorSpec
from edge_centernet.runtimes import open_runtime
from edge_centernet.tiles import Chooser, Grid, TiledInput, Tiler, Tiling

SPEC = ModelSpec("drawn", "1", 192, 256, ("a", "b"), stride=8)
QUANTS = {"heat": Quant(0.08, 40), "size": Quant(0.2, -128), "offset": Quant(1 / 100, -50)}


def manifest() -> Manifest:
    """Of a network of two classes with int8 heads."""
    heads = {
        name: TensorSpec(name, (1, 2, *SPEC.cells), "NCHW", "int8", quant) for name, quant in QUANTS.items()
    }
    image = TensorSpec("image", (1, 3, SPEC.height, SPEC.width), "NCHW", "uint8", Quant(1 / 128, 128))
    return Manifest(SPEC, image, **heads, precision="int8")


class Drawn:
    """What an ideal network would answer: each object's visible part, as training cuts boxes at the border.

    Sizes are wrong by up to `noise`, another in each pass, as those of a real network.
    """

    def __init__(
        self, boxes: NDArray[np.float64], labels: NDArray[np.int64], noise: float, seed: int
    ) -> None:
        """labels: (N,) class of each of the boxes, (N, 4) in pixels of the image."""
        self._boxes, self._labels, self._noise = boxes, labels, noise
        self._rng = np.random.default_rng(seed)

    def heads(self, scale: tuple[float, float], left: float, top: float) -> Heads:
        """Of the view whose upper left corner lies at (left, top) of the image that was enlarged by scale."""
        height, width = SPEC.cells
        heat = np.full((2, height, width), -6.0)
        size, offset = np.ones((2, height, width)), np.full((2, height, width), 0.5)
        owner = np.full((height, width), -6.0)
        ys, xs = np.mgrid[:height, :width]
        for box, label in zip(self._boxes, self._labels, strict=True):
            corners = (box * (*scale, *scale) - (left, top, left, top)) / SPEC.stride
            x1, x2 = np.clip(corners[[0, 2]], 0, width)
            y1, y2 = np.clip(corners[[1, 3]], 0, height)
            if x2 - x1 < 0.5 or y2 - y1 < 0.5:
                continue
            cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
            reach_x, reach_y = max((x2 - x1) / 6, 0.6), max((y2 - y1) / 6, 0.6)
            splat = 4.0 - ((xs + 0.5 - cx) / reach_x) ** 2 - ((ys + 0.5 - cy) / reach_y) ** 2
            splat = np.maximum(splat, -6.0)
            heat[label] = np.maximum(heat[label], splat)
            mine = splat > owner
            owner[mine] = splat[mine]
            wrong = 1 + self._rng.uniform(-self._noise, self._noise, 2)
            size[0][mine], size[1][mine] = (x2 - x1) * wrong[0], (y2 - y1) * wrong[1]
            offset[0][mine], offset[1][mine] = (
                np.clip((cx - xs)[mine], -0.7, 1.7),
                np.clip((cy - ys)[mine], -0.7, 1.7),
            )
        stored = [
            np.clip(np.rint(values / QUANTS[name].scale) + QUANTS[name].zero_point, -128, 127).astype(np.int8)
            for name, values in (("heat", heat), ("size", size), ("offset", offset))
        ]
        return Heads(*stored)


def detect(drawn: Drawn, tiler: Tiler, how: Tiling) -> Detections:
    """What is found of it, by the same code as with a real network but for the pixels."""
    views = [
        (
            (how.coarse.new_width / how.coarse.src_width, how.coarse.new_height / how.coarse.src_height),
            -how.coarse.left,
            -how.coarse.top,
        )
    ]
    canvas = (how.frame.new_width / how.frame.src_width, how.frame.new_height / how.frame.src_height)
    views += [
        (canvas, t.left * SPEC.stride - how.frame.left, t.top * SPEC.stride - how.frame.top)
        for t in how.tiles
    ]
    answers = iter(drawn.heads(*view) for view in views)
    size = how.canvas.model.height, how.canvas.model.width
    blank = TiledInput(np.zeros(manifest().input.shape, np.uint8), np.zeros((1, 3, *size), np.uint8), how)
    heads = tiler.run(blank, lambda _: next(answers))
    return decode_levels(
        heads.coarse,
        heads.fine,
        (manifest(), how.decoded),
        frames=(how.coarse.frame, how.frame.frame),
        tiles=how.tiles,
        levels=how.levels,
        threshold=0.3,
    )


def seams(how: Tiling) -> list[tuple[float, float]]:
    """Points of the image on every seam, and where seams cross."""
    across = sorted({t.x1 for t in how.tiles} - {0}), sorted({t.y1 for t in how.tiles} - {0})
    ways = [
        [(cell * SPEC.stride - before) * src / new for cell in cells]
        for cells, before, src, new in (
            (across[0], how.frame.left, how.frame.src_width, how.frame.new_width),
            (across[1], how.frame.top, how.frame.src_height, how.frame.new_height),
        )
    ]
    points = list(product(*ways))
    points += [(x, how.frame.src_height * part) for x in ways[0] for part in (0.2, 0.8)]
    return points + [(how.frame.src_width * part, y) for y in ways[1] for part in (0.2, 0.8)]


@pytest.mark.parametrize("scenes", [15, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("grid", "width", "height"),
    [("2x2", 640, 480), ("3x2", 1280, 720), ("3x3", 1000, 1000), ("2x1", 900, 300), ("2x3", 480, 800)],
)
def test_500_scenes_have_no_double_and_no_cut_object(grid: str, width: int, height: int, scenes: int) -> None:
    """Objects of every size across every seam: each is found once, whole, and nothing else."""
    rng = np.random.default_rng(7)
    tiler = Tiler(manifest(), manifest(), Grid.of(grid))
    how = tiler.tiling(width, height)
    points = seams(how)
    smallest = 2.5 * SPEC.stride * width / how.frame.new_width  # what the fine level can resolve at all
    objects = 0
    for scene in range(scenes):
        # 1. One object across a seam, whose size is the scene's; others anywhere, if they have room.
        boxes: list[NDArray[np.float64]] = []
        for number in range(40):
            share = scene / (scenes - 1) if number == 0 else rng.uniform()
            side = smallest * (0.8 * min(width, height) / smallest) ** share
            w, h = side * rng.uniform(0.7, 1.3, 2)
            point = points[scene % len(points)] if number == 0 else rng.uniform(0, (width, height))
            x, y = np.asarray(point) + rng.uniform(-0.5, 0.5, 2) * (w, h) * (number == 0)
            box = np.array(
                [max(x - w / 2, 0), max(y - h / 2, 0), min(x + w / 2, width), min(y + h / 2, height)]
            )
            room = 3 * SPEC.stride * width / how.coarse.new_width
            near = [box + np.array([-room, -room, room, room])] if boxes else []
            if min(box[2] - box[0], box[3] - box[1]) < smallest or any(
                iou(one[None], np.array(boxes)).any() for one in near
            ):
                continue
            boxes.append(box)
        truth, labels = np.array(boxes).reshape(-1, 4), rng.integers(0, 2, len(boxes))
        # 2. Each has its box, and each box an object.
        found = detect(Drawn(truth, labels, 0.08, scene), tiler, how)
        overlap = iou(found.xyxy, truth) * (found.class_id[:, None] == labels)
        assert (overlap.max(axis=0, initial=0) > 0.6).all(), (scene, "lost or cut", truth, found.xyxy)
        assert len(found) == len(truth), (scene, "double", truth, found.xyxy)
        objects += len(truth)
    assert objects > 3 * scenes


def test_tiles_cover_the_canvas_once_and_lie_a_multiple_of_32_apart() -> None:
    """Every cell counts once, each in the middle part of its tile."""
    sizes = ((640, 480), (300, 900), (33, 40), (4000, 2000))
    for grid, (width, height) in product(("2x2", "3x2", "5x1", "1x4"), sizes):
        how = Tiler(manifest(), manifest(), Grid.of(grid)).tiling(width, height)
        count = np.zeros(how.canvas.model.cells, int)
        for tile in how.tiles:
            count[tile.y1 : tile.y2, tile.x1 : tile.x2] += 1
            assert (tile.left * 8 % 32, tile.top * 8 % 32) == (0, 0)
            assert tile.left <= tile.x1 < tile.x2 <= tile.left + 32
            assert tile.top <= tile.y1 < tile.y2 <= tile.top + 24
        assert (count == 1).all()


def test_the_coarse_level_is_large_enough_for_what_tiles_cut() -> None:
    """The more tiles enlarge, the more they overlap: what they cut is a tenth of the coarse input."""
    scales = []
    for grid in ("2x2", "3x3", "4x4", "6x6"):
        how = Tiler(manifest(), manifest(), Grid.of(grid)).tiling(1024, 768)
        scales.append(how.frame.scale)
        assert how.levels.width * how.coarse.scale >= 0.1 * 192
        assert how.levels.height * how.coarse.scale >= 0.1 * 192
    assert all(a < b for a, b in pairwise(scales))


def test_a_real_network_finds_each_square_on_a_seam_once(onnx_model: Path) -> None:
    """Squares too small for one pass, at every place near a seam, by an engine: one box each, in place."""
    plain = Detector(open_runtime(onnx_model, threads=1), threshold=0.5)
    tiled = Detector(plain.runtime, threshold=0.5, tiles="4x4")
    image = squares.scene(width=320, height=192)  # as large as the canvas, so that they keep their size
    for step in range(-12, 13, 2):
        left, top = 84 + step, 52 + 5 * step % 24  # seams lie at 96 and 64
        image[...] = 128
        places = {"red": (left, top), "green": (10, top), "blue sky": (left + 120, 8)}
        for name, (x, y) in places.items():
            image[y : y + 24, x : x + 24] = squares.BGR[name]
        found = tiled.detect(image)
        assert sorted(found.class_id.tolist()) == [0, 1, 2]
        expected = [[x, y, x + 24, y + 24] for x, y in places.values()]
        np.testing.assert_allclose(found.xyxy[np.argsort(found.class_id)], expected, atol=3)
        assert len(plain.detect(image)) == 0


def test_chosen_classes_and_limits_hold_with_tiles(onnx_model: Path) -> None:
    """`only`, thresholds of each class and the limit act on both levels; what is no image is refused."""
    image = squares.scene(("red", 84, 52), ("green", 20, 20), width=320, height=192)
    runtime = open_runtime(onnx_model, threads=1)
    assert Detector(runtime, threshold=0.5, only=["green"], tiles="4x4").detect(image).class_id.tolist() == [
        1
    ]
    picky = Detector(runtime, threshold=[1.0, 0.5, 0.5], only=["red", "green"], tiles="4x4")
    assert picky.detect(image).class_id.tolist() == [1]
    assert len(Detector(runtime, threshold=0.5, max_detections=1, tiles="4x4").detect(image)) == 1
    with pytest.raises(SourceError, match="expected"):
        picky.detect(image[..., 0])


def found(side: float, count: int = 20) -> Detections:
    """So many objects of this size, in pixels."""
    box = np.array([[0, 0, side, side]], np.float32).repeat(count, axis=0)
    return Detections(box, np.ones(count), np.zeros(count))


@pytest.mark.parametrize(
    ("side", "budget_ms", "expected"),
    [
        (80.0, None, None),
        (38.0, None, (2, 2)),
        (25.0, None, (3, 3)),
        (5.0, None, (3, 3)),
        (5.0, 60.0, (2, 2)),
        (5.0, 35.0, None),
    ],
)
def test_auto_takes_the_fewest_tiles_that_enlarge_enough(
    side: float, budget_ms: float | None, expected: tuple[int, int] | None
) -> None:
    """Large objects need no tiles, small ones as many as the time allows."""
    chooser = Chooser(SPEC, budget_ms)
    assert chooser.grid == (2, 2)
    chooser.passed(25.0)
    chooser.passed(10.0)
    for _ in range(25):
        chooser.learn(found(side), 640, 480)
    assert chooser.grid == expected


def test_auto_changes_the_grid_between_images(onnx_model: Path) -> None:
    """Where nothing small is found, a detector goes on without tiles, and finds the same as one without."""
    runtime = open_runtime(onnx_model, threads=1)
    detector = Detector(runtime, threshold=0.5, tiles="auto")
    image = squares.scene(("red", 10, 18), ("green", 58, 38))
    for _ in range(25):
        detector.detect(image)
    assert detector.prepare(image)[0].shape == runtime.manifest.input.shape  # type: ignore[union-attr]
    assert (
        detector.detect(image).xyxy.tolist() == Detector(runtime, threshold=0.5).detect(image).xyxy.tolist()
    )


def test_what_is_no_grid_is_refused() -> None:
    """The error says what was expected."""
    for text in ("2", "0x2", "9x1", "1x1", "2x2x2", "many"):
        with pytest.raises(
            ConfigError, match=r"expected COLUMNSxROWS such as 2x2, each 1 to 8, or auto, got"
        ):
            Grid.of(text)
    assert Grid.of("3X2") == (3, 2)

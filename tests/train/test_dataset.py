"""Augmentation moves boxes exactly as it moves pixels; processes share batches."""

from __future__ import annotations

import statistics
import time
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="needs the train extra")

from edge_centernet.manifest import GREY
from edge_centernet.train.dataset import Augment, BatchSampler, input_shapes

STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
NONE = Augment(scale=(1, 1), flip=0, translate=False, **STILL)


def apply(
    augment: Augment,
    image: NDArray[np.uint8],
    boxes: list[list[float]],
    seed: int = 0,
    size: tuple[int, int] = (64, 64),
) -> tuple[Any, Any, Any, Any]:
    """One view of an image whose boxes have the labels 0, 1, ..."""
    array = np.array(boxes, np.float32).reshape(-1, 4)
    labels, scores = np.arange(len(array)), np.ones(len(array), np.float32)
    return augment(image, array, labels, scores, np.random.default_rng(seed), *size)


def noise(height: int, width: int) -> NDArray[np.uint8]:
    """A random BGR image."""
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)


def test_with_everything_off_it_is_a_conversion_to_rgb() -> None:
    """Same size, no jitter: pixels and boxes unchanged."""
    image = noise(64, 64)
    rgb, boxes, labels, scores = apply(NONE, image, [[1, 2, 30, 40]])
    assert np.array_equal(rgb, image[..., ::-1])
    assert rgb.dtype == np.uint8
    assert boxes.tolist() == [[1, 2, 30, 40]]
    assert (labels.tolist(), scores.tolist()) == ([0], [1])
    assert boxes.dtype == np.float32


def test_a_mirror_image_is_exact() -> None:
    """Not one pixel off: column 0 becomes the last one."""
    image = noise(64, 64)
    rgb, boxes, _, _ = apply(Augment(scale=(1, 1), flip=1, translate=False, **STILL), image, [[1, 2, 30, 40]])
    assert np.array_equal(rgb, image[:, ::-1, ::-1])
    assert boxes.tolist() == [[34, 2, 63, 40]]


def test_letterbox_is_the_middle_of_the_range() -> None:
    """Scale 1 without translation is the letterbox that a device applies."""
    image = cv2.GaussianBlur(noise(48, 96), (9, 9), 3)
    rgb, boxes, _, _ = apply(NONE, image, [[0, 0, 96, 48]])
    expected = np.full((64, 64, 3), GREY, np.uint8)
    expected[16:48] = cv2.resize(image, (64, 32), interpolation=cv2.INTER_LINEAR)[..., ::-1]
    assert boxes.tolist() == [[0, 16, 64, 48]]
    difference = cv2.absdiff(rgb, expected)
    assert difference[17:47, 1:63].max() <= 2  # 5-bit interpolation weights in warpAffine
    assert (difference[:15].max(), difference[49:].max()) == (0, 0)


def test_boxes_stay_on_their_objects() -> None:
    """A white rectangle is, to within a pixel, where its box is, however it was moved."""
    checked = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        height, width = (int(n) for n in rng.integers(160, 300, 2))  # no enlarging by more than the jitter
        x1, y1 = int(rng.integers(0, width - 40)), int(rng.integers(0, height - 40))
        x2, y2 = int(rng.integers(x1 + 30, width + 1)), int(rng.integers(y1 + 30, height + 1))
        image = np.zeros((height, width, 3), np.uint8)
        image[y1:y2, x1:x2] = 255
        rgb, boxes, _, scores = apply(Augment(**STILL), image, [[x1, y1, x2, y2]], seed, (128, 160))
        if len(boxes) and scores[0]:
            checked += 1
            white = np.argwhere(rgb[..., 1] > 192)  # the padding is 128
            (top, left), (bottom, right) = white.min(axis=0), white.max(axis=0) + 1
            np.testing.assert_allclose(boxes[0], [left, top, right, bottom], atol=1.01)
    assert checked > 120


def test_scale_and_place_cover_their_ranges() -> None:
    """Sizes from half to 1.6 times the letterbox, mirrored half of the time, placed all over."""
    augment = Augment(min_visible=0, min_ignore=0, **STILL)
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32] = 255
    widths, mirrored, lefts = [], 0, []
    for seed in range(200):
        rgb, boxes, _, _ = apply(augment, image, [[0, 0, 64, 64]], seed)
        widths.append(boxes[0, 2] - boxes[0, 0])
        lefts.append(boxes[0, 0])
        white = np.flatnonzero((rgb[..., 0] == 255).any(axis=0)).mean()
        mirrored += white > (boxes[0, 0] + boxes[0, 2]) / 2
    assert 32 <= min(widths) < 35
    assert max(widths) == 64
    assert 75 < mirrored < 125
    assert max(lefts) > 25


def test_what_is_cut_off_is_dropped_or_ignored() -> None:
    """Kept while the centre and a quarter are inside; a visible rest is ignored; a sliver is dropped."""
    twice = Augment(scale=(2, 2), flip=0, translate=False, **STILL)  # shows the middle half of each side
    boxes = [
        [20, 20, 40, 40],
        [8, 20, 40, 40],
        [8, 20, 22, 40],
        [0, 20, 17, 40],
        [0, 0, 10, 10],
        [0, 0, 64, 64],
    ]
    _, left, labels, scores = apply(twice, noise(64, 64), boxes)
    assert labels.tolist() == [0, 1, 2, 5]
    assert scores.tolist() == [1, 1, 0, 1]
    assert left.tolist() == [[8, 8, 48, 48], [0, 8, 48, 48], [0, 8, 12, 48], [0, 0, 64, 64]]
    _, _, labels, scores = apply(
        Augment(scale=(3, 3), flip=0, translate=False, **STILL), noise(64, 64), [[0, 0, 64, 64]]
    )
    assert (labels.tolist(), scores.tolist()) == ([0], [0])  # a ninth shows


def test_an_object_too_small_to_see_is_ignored_and_ignored_stays_ignored() -> None:
    """Half a pixel wide in the output is nothing to learn from."""
    rgb, boxes, labels, scores = NONE(
        noise(64, 64),
        np.array([[1, 1, 1.5, 9], [1, 1, 9, 9]], np.float32),
        np.array([3, 4]),
        np.array([1, 0], np.float32),
        np.random.default_rng(0),
        64,
        64,
    )
    assert (rgb.shape, len(boxes)) == ((64, 64, 3), 2)
    assert (labels.tolist(), scores.tolist()) == ([3, 4], [0, 0])


def test_a_cover_hides_a_part_of_an_object_and_leaves_its_box() -> None:
    """15 to 50 % of the pixels in a box change, none outside, and the box is still the whole object."""
    image, box = noise(64, 64), [10, 12, 50, 60]
    covered = Augment(scale=(1, 1), flip=0, translate=False, occlude=0.5, **STILL)
    shares = []
    for seed in range(100):
        rgb, boxes, _, scores = apply(covered, image, [box], seed)
        assert (boxes.tolist(), scores.tolist()) == ([box], [1])
        changed = (rgb != image[..., ::-1]).any(axis=2)
        shares.append(changed[12:60, 10:50].mean())
        changed[12:60, 10:50] = False
        assert not changed.any()
    hidden = [share for share in shares if share > 0]
    assert 35 <= len(hidden) <= 65
    assert (min(hidden), max(hidden)) == pytest.approx((0.15, 0.5), abs=0.03)


def test_an_image_without_objects_is_fine() -> None:
    """Background images are training images."""
    rgb, boxes, labels, scores = apply(Augment(), noise(30, 50), [])
    assert (rgb.shape, boxes.shape, labels.shape, scores.shape) == ((64, 64, 3), (0, 4), (0,), (0,))


def test_padding_is_grey_whatever_the_colours_become() -> None:
    """On a device the padding is exactly 128; here it may be one level off."""
    augment = Augment(scale=(0.5, 0.5), flip=0, translate=False)
    for seed in range(100):
        rgb, _, _, _ = apply(augment, noise(64, 64), [], seed)
        assert np.abs(rgb[:15].astype(int) - GREY).max() <= 1


def test_colour_is_what_its_parts_say() -> None:
    """Brightness shifts, contrast turns about grey, saturation and hue leave grey alone and keep the luma."""
    grey = np.full((64, 64, 3), 100, np.uint8)
    red = np.zeros((64, 64, 3), np.uint8) + np.array([60, 60, 160], np.uint8)  # BGR
    luma = np.array([0.299, 0.587, 0.114])

    def colours(image: NDArray[np.uint8], **changes: float) -> NDArray[np.float64]:
        augment = Augment(scale=(1, 1), flip=0, **{**STILL, **changes})
        return np.array([apply(augment, image, [], seed)[0][0, 0] for seed in range(80)], np.float64)

    bright = colours(grey, brightness=20)
    assert (bright.min(), bright.max()) == pytest.approx((80, 120), abs=2)
    assert (bright[:, 0] == bright[:, 2]).all()
    contrast = colours(grey, contrast=0.5)
    assert (contrast.min(), contrast.max()) == pytest.approx((128 - 42, 128 - 14), abs=2)
    for changes in ({"saturation": 0.5}, {"hue": 30.0}):
        assert np.abs(colours(grey, **changes) - 100).max() <= 1
        np.testing.assert_allclose(colours(red, **changes) @ luma, luma @ [160, 60, 60], atol=1.5)
    vivid = np.ptp(colours(red, saturation=0.5), axis=1)
    assert (vivid.min(), vivid.max()) == pytest.approx((50, 150), abs=4)
    turned = colours(red, hue=30.0)
    assert (turned[:, 1] - turned[:, 2]).min() < -20
    assert (turned[:, 1] - turned[:, 2]).max() > 20


def test_equal_random_states_give_equal_views() -> None:
    """Resuming a training depends on it."""
    image = noise(50, 70)
    one, two, other = (apply(Augment(), image, [[5, 5, 50, 40]], seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0], other[0])


def test_it_leaves_its_input_alone() -> None:
    """Images are cached between epochs."""
    image, boxes = noise(50, 70), np.array([[5, 5, 50, 40]], np.float32)
    before = image.copy(), boxes.copy()
    for seed in range(10):
        Augment()(image, boxes, np.array([0]), np.array([False]), np.random.default_rng(seed), 64, 64)
    assert np.array_equal(image, before[0])
    assert np.array_equal(boxes, before[1])


def test_it_is_cheap() -> None:
    """Under 1.5 ms of processor time an image at 256 pixels: it runs beside the training."""
    image, boxes = noise(288, 384), [[10.0, 10.0, 200.0, 200.0]] * 5
    times = []
    for seed in range(60):
        start = time.thread_time()
        apply(Augment(), image, boxes, seed, (256, 256))
        times.append(time.thread_time() - start)
    assert statistics.median(times) < 1.5e-3


# ---- batches


def test_processes_share_every_batch_of_the_same_order() -> None:
    """Two processes with batches of 4 see the two halves of what one sees, also from the second batch on."""
    alone = BatchSampler(10, 4, seed=3)
    parts = [BatchSampler(10, 4, seed=3, rank=r, processes=2) for r in range(2)]
    for sampler in (alone, *parts):
        sampler.set_epoch(5, shapes=input_shapes(64, 64, 0.5), start=1)

    assert [a + b for a, b in zip(*parts, strict=True)] == list(alone)
    assert len(list(alone)) == 1
    assert len(alone) == 2


def test_input_sizes_around_a_size_are_multiples_of_32_of_like_shape() -> None:
    """A quarter around 320: 256 to 384; a non-square input keeps its shape as far as 32 pixels allow."""
    assert input_shapes(320, 320, 0.25) == [(256, 256), (288, 288), (320, 320), (352, 352), (384, 384)]
    assert input_shapes(192, 320, 0.2) == [(160, 256), (160, 288), (192, 320), (224, 352), (224, 384)]
    assert input_shapes(96, 160, 0.0) == [(96, 160)]

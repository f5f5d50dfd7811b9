"""Each decision of `tune`, on scenes in which it is known what is there and what every candidate sees."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_centernet.camera_config import read_config
from edge_centernet.data import Dataset
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.evaluation.coco import evaluate_samples
from edge_centernet.manifest import InputSize
from edge_centernet.sources import Frame
from edge_centernet.tracking.zone_counter import parse_zone
from edge_centernet.tuning.candidates import Candidate, Look, sizes_for
from edge_centernet.tuning.choice import choose, judge, still_things, threshold
from edge_centernet.tuning.report import as_text, as_toml, sheet
from edge_centernet.tuning.run import Tuned, Wish, conclude
from edge_centernet.tuning.truth import agreed, labelled
from edge_centernet.tuning.view import RATE, STRETCH, View, watch

SIZE = (320, 240)
FRAMES = 120
WISH = Wish("film.mp4", "today", "auto", "CPU", None, ("person",), None, None, 240, 600.0)
Run = Callable[..., Any]


def view_of(count: int = FRAMES, moving: bool = True) -> View:
    """So many grey frames."""
    image = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
    frames = tuple(Frame(f"{i}.png", i, image, i / RATE if moving else 0.0) for i in range(count))
    return View("film.mp4", frames, moving, SIZE)


def walkers(count: int = FRAMES) -> list[Any]:
    """(N, 4) boxes for each frame: people who walk to the right and to the left, and a post that stands."""
    scene = []
    for i in range(count):
        boxes = []
        for k in range(3):
            x = (12.0 * i + 110 * k) % 330 - 10
            boxes.append([x, 100 + 20 * k, x + 20, 150 + 20 * k])
            x = 310 - (9.0 * i + 100 * k) % 330
            boxes.append([x, 95 + 20 * k, x + 20, 145 + 20 * k])
        seen = np.array(boxes, np.float32).clip(0, 320)
        scene.append(seen[seen[:, 2] - seen[:, 0] > 15])
    return scene


def look_of(
    name: str,
    ms: float,
    recall: float,
    *,
    wrong: float = 0.1,
    seed: int = 0,
    scene: Any = None,
    post: float = 0.0,
) -> Look:
    """A candidate that finds each object with a probability, and so many things a frame that are not there.

    post: score of a thing that never moves, found in every frame.
    """
    random = np.random.default_rng(seed)
    scene = walkers() if scene is None else scene

    def once(boxes: Any) -> Detections:
        found = boxes[random.random(len(boxes)) < recall]
        found = found + random.normal(0.0, 0.6, found.shape)
        false = random.random((random.poisson(wrong), 2)) * [280, 180]
        false = np.hstack([false, false + np.array([20, 50])])
        still = np.array([[150, 20, 170, 70]] if post else []).reshape(-1, 4)
        xyxy = np.vstack([found, false, still])
        score = [
            *random.uniform(0.5, 0.9, len(found)),
            *random.uniform(0.1, 0.6, len(false)),
            *[post] * len(still),
        ]
        order = np.argsort(-np.array(score))
        return Detections(xyxy[order], np.array(score)[order], np.zeros(len(score)), ("person",))

    own = name == "today"
    file = Path(f"{name}.xml" if own else f"{name}-320.xml")
    candidate = Candidate(name, Path(f"{name}.onnx"), InputSize(320, 320), file, own)
    return Look(candidate, tuple(map(once, scene)), tuple(map(once, scene)), ms)


def test_what_finds_more_in_no_more_time_is_proposed_with_its_gain() -> None:
    """Of three candidates the slowest finds most, but is too slow; the next best is proposed."""
    looks = [
        look_of("today", 10.0, 0.6),
        look_of("better", 9.0, 0.85, seed=1),
        look_of("best", 20.0, 0.97, seed=2),
    ]
    choice = choose(looks, view_of(), None, None)
    assert choice.look.candidate.name == "better-320"
    assert choice.gain is not None
    assert 0.05 < choice.gain[1] < choice.gain[0] < choice.gain[2]
    # With more time the best one is.
    assert choose(looks, view_of(), None, 25.0).look.candidate.model == "best"


def test_what_is_no_better_than_chance_explains_is_not_proposed() -> None:
    """Eight candidates that all see alike: one is first on the first half, and none is proposed."""
    looks = [look_of("today", 10.0, 0.7), *(look_of(f"other{i}", 9.0, 0.7, seed=i + 1) for i in range(7))]
    choice = choose(looks, view_of(), None, None)
    assert not choice.changed
    assert "today" in {one.candidate.name for one in choice.ratings}


def test_a_size_that_measures_worse_on_the_second_half_is_not_proposed() -> None:
    """It finds more on the first half, where people are far, and less on the second, where they are near."""
    scene = walkers()
    good, bad = look_of("larger", 9.0, 0.95, seed=1), look_of("larger", 9.0, 0.4, seed=2)
    half = len(scene) // 2
    mixed = Look(
        good.candidate, good.found[:half] + bad.found[half:], good.mirrored[:half] + bad.mirrored[half:], 9.0
    )
    choice = choose(
        [look_of("today", 10.0, 0.7), mixed, look_of("third", 30.0, 0.9, seed=3)], view_of(), None, None
    )
    assert not choice.changed
    assert "on the second its AP50 differs by -0." in choice.reason


def test_what_only_one_candidate_sees_does_not_become_true() -> None:
    """A candidate that sees people everywhere, in its mirror images too, does not raise its own accuracy."""
    ghosts = [
        np.vstack([boxes, [[40 + i % 200, 180, 60 + i % 200, 230]]]) for i, boxes in enumerate(walkers())
    ]
    looks = [
        look_of("today", 10.0, 0.8),
        look_of("ghosts", 9.0, 0.8, seed=1, scene=ghosts),
        look_of("third", 9.0, 0.8, seed=2),
        look_of("fourth", 9.0, 0.8, seed=3),
    ]
    choice = choose(looks, view_of(), None, None)
    assert choice.rating(looks[1]).checked_on < choice.rating(looks[0]).checked_on
    assert choice.look is not looks[1]


def test_paths_are_true_in_frames_in_which_most_missed_them_and_a_post_judges_nobody() -> None:
    """Nine tenths of all people are in the truth, though each finds six tenths; the post is ignored."""
    looks = [look_of(f"{i}", 10.0, 0.6, seed=i, post=0.8) for i in range(5)]
    truth = agreed(looks, view_of())
    people = sum(len(boxes) for boxes in walkers())
    assert 0.9 * people < sum(int(sample.counted.sum()) for sample in truth.samples) < 1.1 * people
    at_post = [s.ignore[(abs(s.boxes - [150, 20, 170, 70]) < 8).all(1)] for s in truth.samples]
    assert np.concatenate(at_post).mean() > 0.95
    assert len(np.concatenate(at_post)) > 0.9 * FRAMES


def test_too_few_objects_change_nothing() -> None:
    """An empty hall: today's model stays, and the reason says what to do."""
    nobody = [np.zeros((0, 4), np.float32)] * FRAMES
    looks = [look_of("today", 10.0, 0.7, scene=nobody), look_of("other", 9.0, 0.9, scene=nobody)]
    choice = choose(looks, view_of(), None, None)
    assert not choice.changed
    assert "watch for longer" in choice.reason
    tuned = conclude(WISH, view_of(), looks)
    assert tuned.cut is None
    assert tuned.place is None
    assert "No line" in as_text(tuned)
    assert sheet(tuned).ndim == 3


def test_where_today_is_too_slow_the_best_that_is_quick_enough_is_taken() -> None:
    """At a limit that today's model does not meet."""
    looks = [
        look_of("today", 30.0, 0.9),
        look_of("small", 8.0, 0.5, seed=1),
        look_of("quick", 9.0, 0.7, seed=2),
    ]
    choice = choose(looks, view_of(), None, 10.0)
    assert choice.look is looks[2]
    assert "30.0 ms and 10.0 ms are allowed" in choice.reason
    assert choose(looks, view_of(), None, 1.0).look is looks[1]  # nothing is: the quickest, and it says so


def test_ap50_is_that_of_coco() -> None:
    """The figure that is bootstrapped is the one that `eval` reports."""
    look, labels = look_of("today", 10.0, 0.7, wrong=2.0), true_labels()
    mine = judge(look.found, labels).ap50(np.ones(FRAMES))
    pytest.importorskip("faster_coco_eval", reason="compares with COCO's metrics")
    assert mine == pytest.approx(evaluate_samples(look.found, labels)["AP50"], abs=1e-9)


def true_labels() -> Dataset:
    """The walkers as labels: what five candidates that miss nothing agree on, all of it counted."""
    sure = [look_of(f"{i}", 1.0, 1.0, wrong=0.0, seed=i) for i in range(3)]
    return agreed(sure, view_of())


def test_labels_decide_where_they_are_given(tmp_path: Path) -> None:
    """Rows of the MOT Challenge: what agrees with them is proposed, whatever others agree on."""
    path = tmp_path / "gt.txt"
    rows = [
        (i + 1, k, *box[:2], box[2] - box[0], box[3] - box[1], 1)
        for i, boxes in enumerate(walkers())
        for k, box in enumerate(boxes)
    ]
    np.savetxt(path, np.array(rows), delimiter=",", fmt="%.2f")
    labels = labelled(path, view_of(), ["person"])
    elsewhere = [boxes + 60.0 for boxes in walkers()]
    looks = [look_of("today", 10.0, 0.9, seed=i, scene=elsewhere) for i in range(4)]
    looks.append(look_of("right", 9.0, 0.6, seed=9))
    assert choose(looks, view_of(), labels, None).look.candidate.model == "right"
    assert choose(looks, view_of(), None, None).look.candidate.model == "today"
    with pytest.raises(ConfigError, match="one class"):
        labelled(path, view_of(), ["person", "dog"])
    with pytest.raises(SourceError, match="another one"):
        labelled(path, view_of(900), ["person"])
    path.write_text("no rows")
    with pytest.raises(SourceError, match="MOT Challenge"):
        labelled(path, view_of(), ["person"])


def test_threshold_frees_from_what_never_moves() -> None:
    """A post is found with a score of 0.45 in every frame, people from 0.5 on: the threshold lies between."""
    looks = [look_of("today", 10.0, 0.8, seed=i, post=0.45) for i in range(3)]
    cut = threshold(looks[0], agreed(looks, view_of()), view_of())
    assert 0.45 < cut.value <= 0.55
    assert cut.remaining == ()
    boxes, often = still_things(looks[0].found, np.array([0.4, 0.5]))
    np.testing.assert_allclose(boxes, [[150, 20, 170, 70]], atol=1)
    assert often.tolist() == [[True, False]]


def test_what_never_moves_at_any_threshold_gets_a_zone_to_ignore(tmp_path: Path) -> None:
    """A post of 0.95: told, drawn, and in the file as a comment, which makes a zone around its foot."""
    looks = [look_of("today", 10.0, 0.8, seed=i, post=0.95) for i in range(3)]
    tuned = conclude(WISH, view_of(), looks)
    assert tuned.cut is not None
    assert len(tuned.cut.remaining) == 1
    assert "never moves, in one place: see in the picture whether it is a person" in as_text(tuned)
    text = as_toml(tuned, tmp_path)
    path = tmp_path / "camera.toml"
    path.write_text(text)
    assert "zone" not in read_config(path)
    before, mark, zones = text.partition("its lines.\n")
    path.write_text(before + mark + zones.replace("# ", ""))
    zone = parse_zone(read_config(path)["zone"][0])
    assert zone.ignore
    size = view_of().size
    feet = [(160.0, 70.0), (160.0, 60.0), (145.0, 70.0), (160.0, 80.0)]
    assert zone.hold(feet, size) == [True, False, False, False]
    plain = conclude(WISH, view_of(), [look_of("today", 10.0, 0.8, seed=i) for i in range(3)])
    assert (sheet(tuned)[-640:, :640] != sheet(plain)[-640:, :640]).any()


def test_line_lies_across_the_way_that_people_walk() -> None:
    """They walk to the right and to the left: the line is steep, away from the border, and counts them."""
    tuned = conclude(WISH, view_of(), [look_of("today", 10.0, 0.95, seed=i) for i in range(3)])
    assert tuned.place is not None
    (x1, y1), (x2, y2) = tuned.place.line.pixels(SIZE)
    assert abs(y2 - y1) > 2 * abs(x2 - x1)
    assert 40 < (x1 + x2) / 2 < 280
    assert min(tuned.place.inward, tuned.place.outward) >= 5
    assert min(y1, y2) < 145  # from the feet that are farthest away to the nearest
    assert max(y1, y2) > 190


def test_configuration_is_what_detect_reads(tmp_path: Path) -> None:
    """Model, threshold, classes and line arrive, also where a folder's name has quotes and variables."""
    tuned = conclude(WISH, view_of(), [look_of("today", 10.0, 0.6), *better()])
    folder = tmp_path / 'a "b" ${HOME}'
    path = tmp_path / "camera.toml"
    path.write_text(as_toml(tuned, folder))
    settings = read_config(path)
    assert settings["model"] == str(folder / "better-320.xml")
    assert settings["classes"] == "person"
    assert float(settings["threshold"]) == tuned.cut.value if tuned.cut else False
    assert settings["count_line"][0].startswith("line=")
    assert f"--size 320x320 --target openvino --out {folder}" in path.read_text()
    assert "proposed" in as_text(tuned)
    picture = sheet(tuned)
    assert picture.shape[1] == 3 * 640
    assert picture.std() > 10


def better() -> list[Look]:
    """Two candidates that find more."""
    return [look_of("better", 9.0, 0.9, seed=1), look_of("third", 30.0, 0.9, seed=2)]


@pytest.mark.parametrize("view", [(480, 360), (1920, 1080), (360, 640), (100, 100), (3000, 400)])
def test_sizes_have_the_shape_of_the_view(view: tuple[int, int]) -> None:
    """Multiples of 32 that the view fills, each larger than the one before, within what it has pixels for."""
    sizes = sizes_for(InputSize(256, 256), view)
    pixels = [size.width * size.height for size in sizes]
    assert all(side % 32 == 0 for size in sizes for side in size)
    assert all(a < b for a, b in itertools.pairwise(pixels))
    assert not pixels or pixels[-1] <= 1.2 * 2 * view[0] * view[1]
    if view == (480, 360):
        assert InputSize(512, 384) in sizes
        assert InputSize(256, 192) in sizes
    if view == (1920, 1080):
        assert all(1.5 < size.width / size.height < 2.1 for size in sizes)


def test_single_images_are_judged_without_paths() -> None:
    """Photos that have nothing to do with each other: what most agree on is true, and there is no line."""
    scene = [boxes[::2] for boxes in walkers()]
    view = view_of(moving=False)
    looks = [look_of("today", 10.0, 0.6, scene=scene), *(
        look_of(f"better{i}", 9.0 + i, 0.95, seed=i + 1, scene=scene) for i in range(3)
    )]  # fmt: skip
    tuned = conclude(WISH, view, looks)
    assert tuned.choice.changed
    assert tuned.paths is None
    assert "line" not in as_text(tuned)


def test_frames_are_spread_over_the_whole_source(tmp_path: Path) -> None:
    """A minute of video and 40 frames: two stretches, the first of them from the beginning."""
    from test_tune import write_video

    images = [np.full((64, 64, 3), i % 250, np.uint8) for i in range(600)]
    view = watch(str(write_video(tmp_path / "film.avi", images)), 2 * STRETCH, 600.0, lambda *_: None, print)
    times = [frame.seconds for frame in view.frames]
    assert len(times) == 2 * STRETCH
    assert times[0] == 0.0
    assert times[STRETCH] > 15.0
    assert times[1] == pytest.approx(1 / RATE)
    with pytest.raises(SourceError, match="8 seconds of video"):
        watch(str(tmp_path / "film.avi"), 240, 5.0, lambda *_: None, print)


def test_mistakes_are_told_before_the_work(run: Run, tmp_path: Path) -> None:
    """Both limits, no classes, a model that has no other sizes, a class that it does not know."""
    from test_tune import write_video

    film = write_video(tmp_path / "film.avi", [np.zeros((64, 64, 3), np.uint8)] * 100)
    out = ("--out", tmp_path / "out")
    assert "got both" in run("tune", film, "--fps", "5", "--max-ms", "5", *out).err
    assert "expected names" in run("tune", film, "--classes", ",", *out).err
    assert "interchange" not in run("tune", film, "--model", "x.tflite", *out).out
    told = run("tune", film, "--model", "x.tflite", *out)
    assert (told.code, "expected the name of a shipped model" in told.err) == (2, True)
    assert "unknown class 'unicorn'" in run("tune", film, "--classes", "unicorn", *out).err
    assert run("tune", tmp_path / "missing.mp4", *out).code == 2
    assert list((tmp_path / "out").iterdir()) == []


def test_report_names_every_candidate() -> None:
    """The table has a row for each, with today's and the proposed one marked."""
    tuned: Tuned = conclude(WISH, view_of(), [look_of("today", 10.0, 0.6), *better()])
    text = as_text(tuned)
    assert text.count("320x320") >= 3
    assert {"today", "proposed", "too slow"} <= {line.split("  ")[-1].strip() for line in text.splitlines()}

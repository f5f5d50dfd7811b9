"""What `tune` found: in words, as a configuration for `detect`, and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from edge_centernet import draw
from edge_centernet.errors import printable
from edge_centernet.imageio import Image
from edge_centernet.preprocess import Letterbox
from edge_centernet.runtimes.engines import engine_by_suffix, is_cpu
from edge_centernet.tracking.geometry import Point, Size
from edge_centernet.tuning.candidates import Candidate
from edge_centernet.tuning.choice import Rating
from edge_centernet.tuning.run import Tuned

_SIDE = 640  # pixels of a panel
_GREY, _WHITE, _GREEN, _ORANGE = (130, 130, 130), (240, 240, 240), (90, 200, 90), (60, 150, 255)  # BGR


def as_text(tuned: Tuned) -> str:
    """The candidates as a table, then what is proposed and why."""
    view, choice = tuned.view, tuned.choice
    length = f", {view.seconds:.0f} s of video" if view.moving else ""
    heights = tuned.heights
    what = ", ".join(tuned.wish.classes)
    rows = [("model", "input", "ms", "AP50", "checked", "")]
    for one in choice.ratings:
        marks = [
            *(["today"] if one.candidate is choice.today.candidate else []),
            *(["too slow"] if one.ms > choice.budget else []),
            *(["proposed"] if one.candidate is choice.look.candidate else []),
        ]
        rows.append(
            (
                one.candidate.model, str(one.candidate.size), f"{one.ms:.1f}", _figure(one.chosen_on),
                _figure(one.checked_on), ", ".join(marks),
            )
        )  # fmt: skip
    wide = [max(len(row[i]) for row in rows) for i in range(5)]
    table = [
        f"{m:<{wide[0]}}  {s:<{wide[1]}}  {ms:>{wide[2]}}  {a:>{wide[3]}}  {b:>{wide[4]}}  {mark}".rstrip()
        for m, s, ms, a, b, mark in rows
    ]
    source = "labels" if tuned.wish.labels is not None else "what the models agree on"
    lines = [
        f"{view.name}: {len(view.frames)} frames of {view.size[0]}x{view.size[1]}{length}; "
        f"{len(heights)} sightings of {what}",
        f"AP50 on the first half of the frames, and checked on the second; true is {source}:",
        "",
        *table,
        "",
        *reasons(tuned),
    ]
    return "\n".join(lines) + "\n"


def reasons(tuned: Tuned) -> list[str]:
    """What is proposed, a sentence or two each: model and size, threshold, line."""
    choice, cut, place = tuned.choice, tuned.cut, tuned.place
    rating, today = choice.rating(choice.look), choice.rating(choice.today)
    what = " or ".join(tuned.wish.classes)
    verb = "Take" if choice.changed else "Keep"
    lines = [
        f"{verb} {rating.candidate.model} at {rating.candidate.size} ({rating.ms:.1f} ms; "
        f"{choice.budget:.1f} ms are allowed): {choice.reason}."
    ]
    heights = tuned.heights
    if len(heights):
        middle = float(np.median(heights))
        sizes = [f"{middle * _scale(tuned, today.candidate):.0f} pixels in {today.candidate.size}"]
        if choice.changed:
            sizes.append(f"{middle * _scale(tuned, rating.candidate):.0f} in {rating.candidate.size}")
        lines.append(f"Half of the objects are less than {middle:.0f} pixels high: {', '.join(sizes)}.")
    if cut is not None:
        why = f"best F1, {cut.f1:.2f}"
        if cut.value > cut.best:
            why = (
                f"F1 is best at {cut.best:.2f}, where something that never moves is found in "
                f"{_places(cut.still)}; here in {_places(len(cut.remaining))}, at an F1 of {cut.f1:.2f}"
            )
        lines.append(f"Threshold {cut.value:.2f}: {why}.")
        if cut.remaining:
            where = _places(len(cut.remaining))
            lines.append(
                f"Something never moves, in {where}: see in the picture whether it is a {what}. If not, "
                "ignore it by the zones at the end of camera.toml."
            )
    if place is not None:
        lines.append(
            "Count at the line in the picture, where many are seen long before and after they cross it "
            f"squarely: {place.inward} in and {place.outward} out in {place.seconds:.0f} s."
        )
    elif tuned.view.moving:
        lines.append("No line: too few walked far enough through the view.")
    return lines


def convert_command(candidate: Candidate, folder: Path) -> str:
    """What makes the file of a candidate; "" where the package ships it."""
    if candidate.own:
        return ""
    target = engine_by_suffix(candidate.file).targets[0]
    return (
        f"edge-centernet convert {candidate.model} --size {candidate.size} --target {target} --out {folder}"
    )


def as_toml(tuned: Tuned, folder: Path) -> str:
    """A configuration for `detect --config`, with the reasons as comments. folder: of the model's file."""
    candidate = tuned.choice.look.candidate
    model = candidate.model if candidate.own else str((folder / candidate.file.name).absolute())
    lines = [
        "# Proposed by `edge-centernet tune`; add --camera or --source.",
        *(f"# {printable(one)}" for one in reasons(tuned)),
    ]
    if command := convert_command(candidate, folder):
        lines.append(f"# The model's file: {printable(command)}")
    lines.append(f"model = {_quoted(model)}")
    if tuned.wish.runtime != "auto":
        lines.append(f"runtime = {_quoted(tuned.wish.runtime)}")
    if not is_cpu(tuned.wish.device):
        lines.append(f"device = {_quoted(tuned.wish.device)}")
    if tuned.wish.threads is not None:
        lines.append(f"threads = {tuned.wish.threads}")
    if tuned.cut is not None:
        lines.append(f"threshold = {tuned.cut.value:.2f}")
    lines.append(f"classes = [{', '.join(map(_quoted, tuned.wish.classes))}]")
    if tuned.place is not None:
        line = tuned.place.line
        lines += [
            "", "[[line]]", f"name = {_quoted(line.name)}",
            f"from = {list(line.start)}", f"to = {list(line.end)}",
        ]  # fmt: skip
    if tuned.cut is not None and tuned.cut.remaining:
        # As comments: who waits or works there for an hour is no mistake.
        lines += ["", "# What never moves; if it is a mistake, take away the # in front of its lines."]
        for i, box in enumerate(tuned.cut.remaining, 1):
            corners = [[round(x, 3), round(y, 3)] for x, y in around_feet(box, tuned.view.size)]
            lines += ["# [[zone]]", f'# name = "ignored {i}"', f"# points = {corners}", "# ignore = true"]
    return "\n".join(lines) + "\n"


def around_feet(box: tuple[float, float, float, float], size: Size) -> list[Point]:
    """The corners of a zone that holds the feet of a box that never moves, in fractions of the image.

    box: x1, y1, x2, y2 in pixels of an image of (width, height) `size`. It is a little larger than the feet
    move from frame to frame, which is a few percent of the box, and much smaller than the box.
    """
    x1, y1, x2, y2 = box
    middle, aside, high = (x1 + x2) / 2, max(0.35 * (x2 - x1), 3.0), max(0.15 * (y2 - y1), 3.0)
    left, right = (min(1.0, max(0.0, x / size[0])) for x in (middle - aside, middle + aside))
    top, low = (min(1.0, max(0.0, y / size[1])) for y in (y2 - high, y2 + high))
    return [(left, top), (right, top), (right, low), (left, low)]


def _quoted(text: str) -> str:
    """A basic string of TOML, in which the variables of a configuration mean themselves."""
    # JSON's escapes are TOML's, too, but for the solidus, which it does not write.
    return json.dumps(text.replace("${", "$${"), ensure_ascii=False)


def _places(count: int) -> str:
    return "one place" if count == 1 else f"{count or 'no'} places"


def _figure(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _scale(tuned: Tuned, candidate: Candidate) -> float:
    return Letterbox(*tuned.view.size, *candidate.size).scale


# ---- the picture ---------------------------------------------------------------------------------------


def sheet(tuned: Tuned) -> Image:
    """The view with paths and line, sizes of objects, accuracy over time: (H, W, 3) uint8 BGR."""
    panels = [
        draw.tile(_view(tuned), _SIDE, ["the view, with paths and the proposed line"]),
        draw.tile(
            _candidates(tuned.choice.ratings, tuned), _SIDE, ["AP50 on the checked half over milliseconds"]
        ),
        draw.tile(_sizes(tuned), _SIDE, ["heights of the objects, in pixels of the frame"]),
    ]
    body = draw.grid(panels, len(panels))
    words = [draw.banner(line, body.shape[1]) for line in reasons(tuned)]
    return np.vstack([*words, body])


def _view(tuned: Tuned) -> Image:
    """A frame in which nobody can be recognised, with paths and line."""
    view = tuned.view
    i = view.half
    found = tuned.choice.look.found[i]
    hidden = draw.blur(view.frames[i].image.copy(), found.xyxy[found.score >= 0.1])
    canvas, scale = draw.fit(hidden, _SIDE)
    if tuned.paths is not None:
        for feet in tuned.paths.feet.values():
            points = np.array([[x * scale, y * scale] for _, x, y, _ in feet]).round().astype(np.int32)
            cv2.polylines(canvas, [points.reshape(-1, 1, 2)], False, _ORANGE, 1, cv2.LINE_AA)
    for box in tuned.cut.remaining if tuned.cut is not None else ():
        x1, y1, x2, y2 = (round(v * scale) for v in box)
        draw.dashed_box(canvas, (x1, y1, x2, y2), _WHITE, 2)
        draw.draw_label(canvas, "never moves", (x1, y1), _GREY)
    if tuned.place is not None:
        size = canvas.shape[1], canvas.shape[0]
        start, end = (tuple(round(v) for v in point) for point in tuned.place.line.pixels(size))
        tail, tip = (tuple(round(v) for v in point) for point in tuned.place.line.arrow(size, 40.0))
        cv2.line(canvas, start, end, _GREEN, 3, cv2.LINE_AA)
        cv2.arrowedLine(canvas, tail, tip, _GREEN, 3, cv2.LINE_AA, tipLength=0.3)
        label = f"in {tuned.place.inward}, out {tuned.place.outward}"
        draw.draw_label(canvas, label, (int(tip[0]), int(tip[1])), _GREEN)
    return canvas


def _axes(xs: Sequence[tuple[float, str]], ys: Sequence[tuple[float, str]]) -> tuple[Image, int, int]:
    """An empty chart with marks at fractions of its sides; the canvas, its left and its lower margin."""
    canvas = np.full((_SIDE, _SIDE, 3), 30, np.uint8)
    left, low = 60, _SIDE - 50
    cv2.rectangle(canvas, (left, 20), (_SIDE - 20, low), _GREY, 1)
    for at, text in xs:
        draw.caption(canvas, text, (round(left + at * (_SIDE - 20 - left)) - 8, low + 20))
    for at, text in ys:
        y = round(low - at * (low - 20))
        cv2.line(canvas, (left, y), (_SIDE - 20, y), (60, 60, 60), 1)
        draw.caption(canvas, text, (14, y + 5))
    return canvas, left, low


def _candidates(ratings: Sequence[Rating], tuned: Tuned) -> Image:
    """Each candidate as a point: milliseconds to the right, AP50 upwards, the budget as a line."""
    most = 1.1 * max(
        *(one.ms for one in ratings), min(tuned.choice.budget, 2.0 * max(one.ms for one in ratings))
    )
    xs = [(part, f"{part * most:.1f} ms") for part in (0.0, 0.25, 0.5, 0.75)]
    canvas, left, low = _axes(xs, [(part, f"{part:.1f}") for part in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)])
    if tuned.choice.budget <= most:
        x = round(left + tuned.choice.budget / most * (_SIDE - 20 - left))
        draw.dashed_box(canvas, (x, 20, x, low), _GREY, 1)
        draw.caption(canvas, "allowed", (x + 4, low - 8))
    shades = {model: i for i, model in enumerate(dict.fromkeys(one.candidate.model for one in ratings))}
    for i, (model, shade) in enumerate(shades.items()):
        cv2.circle(canvas, (left + 14, 38 + 18 * i), 5, draw.class_color(shade), cv2.FILLED, cv2.LINE_AA)
        draw.caption(canvas, model, (left + 26, 43 + 18 * i))
    for one in ratings:
        if np.isnan(one.checked_on):
            continue
        x, y = round(left + one.ms / most * (_SIDE - 20 - left)), round(low - one.checked_on * (low - 20))
        cv2.circle(canvas, (x, y), 5, draw.class_color(shades[one.candidate.model]), cv2.FILLED, cv2.LINE_AA)
        if one.candidate is tuned.choice.look.candidate:
            cv2.circle(canvas, (x, y), 11, _GREEN, 2, cv2.LINE_AA)
        if one.candidate is tuned.choice.today.candidate:
            cv2.circle(canvas, (x, y), 8, _WHITE, 1, cv2.LINE_AA)
        draw.caption(canvas, str(one.candidate.size), (min(x + 12, _SIDE - 90), y + 5))
    return canvas


def _sizes(tuned: Tuned) -> Image:
    """A histogram of the objects' heights, with the sizes that they have in the inputs."""
    heights = tuned.heights
    most = float(heights.max()) if len(heights) else 1.0
    counts, _ = np.histogram(heights, bins=24, range=(0.0, most))
    xs = [(part, f"{part * most:.0f}") for part in (0.0, 0.25, 0.5, 0.75)]
    canvas, left, low = _axes(xs, [(1.0, str(int(counts.max())))])
    step = (_SIDE - 20 - left) / len(counts)
    for i, count in enumerate(counts / max(1, counts.max())):
        corner = round(left + i * step) + 1, round(low - count * (low - 20))
        cv2.rectangle(canvas, corner, (round(left + (i + 1) * step) - 1, low), _ORANGE, cv2.FILLED)
    for k, one in enumerate(dict.fromkeys((tuned.choice.today.candidate, tuned.choice.look.candidate))):
        text = f"1 pixel is {_scale(tuned, one):.2f} in {one.name}"
        draw.caption(canvas, text, (left + 260, 44 + 18 * k))
    return canvas

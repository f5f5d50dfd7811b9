"""A data set in parts that share no scene: near-duplicates and the frames of a video stay together.

    parts = split(data, {"train": 0.8, "val": 0.2}, seed=0)
    parts.images["val"]   # indices into data.samples

Frames of one recording on both sides make a validation set that praises what was learned by heart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.data.base import Dataset, Sample
from edge_centernet.data.coco import file_name
from edge_centernet.data.duplicates import correlations, find_alike, thumbnail
from edge_centernet.errors import ConfigError
from edge_centernet.progress import Progress, unseen, with_progress

# A numbered series is a video if its name says so, or if this is the median correlation of neighbours' 9x8
# thumbnails: frames of one camera are far above it, photos of different things far below.
SAME_VIEW = 0.8
_LEAST_FRAMES = 5
BLOCKS = 10  # runs of images into which a scene is cut that has more than half of them
_NUMBERED = re.compile(r"^(.*?)(\d+)\D*$")
_ROBOFLOW = re.compile(r"_(?:jpe?g|png|bmp)\.rf\.\w+$", re.I)  # what Roboflow adds to a name
_VIDEO = re.compile(r"frame|(?:^|[._-])(?:mp4|avi|mov|mkv|webm|m4v)(?:[._-]|$)", re.I)


@dataclass(frozen=True)
class Split:
    """Parts of a data set.

    images: part -> indices of its images, ascending. scenes: part -> number of its groups of images that
    belong together. cut: whether one scene had more than half of the images and was cut into BLOCKS runs.
    """

    images: dict[str, list[int]]
    scenes: dict[str, int]
    cut: bool


def split(data: Dataset, shares: Mapping[str, float], seed: int = 0, progress: Progress = unseen) -> Split:
    """Split a data set into parts with about these shares of its images and of each class's objects.

    Args:
        data: what to split; every image is read.
        shares: part -> its share, above 0, of all 1.
        seed: of the order in which scenes are dealt out; the same seed gives the same parts.
        progress: shows a bar while images are read and compared.

    Raises ConfigError where there are fewer scenes than parts, SourceError for an image that cannot be read.
    """
    read = with_progress(data.samples, "read images", progress)
    thumbnails = np.asarray([thumbnail(sample.read()) for sample in read], np.uint8).reshape(-1, 8, 9)
    groups, cut = _scenes(data.samples, thumbnails, progress)
    if len(groups) < len(shares):
        raise ConfigError(
            f"expected a scene for each of {len(shares)} parts, found {len(groups)} in {len(data)} images"
        )
    owner = _deal(data, groups, shares, np.random.default_rng(seed))
    images = {part: sorted(i for g in own for i in groups[g]) for part, own in owner.items()}
    if empty := [part for part, own in images.items() if not own]:
        raise ConfigError(
            f"no scene is left for {empty[0]}: {len(groups)} scenes are too few for such a share"
        )
    return Split(images, {part: len(own) for part, own in owner.items()}, cut)


def to_coco(data: Dataset, images: Sequence[int], out: Path) -> dict[str, Any]:
    """Return some images of a data set as a COCO instances JSON that is to be written to `out`.

    Names of images are relative to its folder. What was ignored or unlabelled, and scores, are kept.
    """
    annotations: list[dict[str, Any]] = []
    entries = []
    for number, i in enumerate(images, 1):
        sample = data.samples[i]
        entry: dict[str, Any] = {"id": number, "file_name": file_name(sample.path, out)}
        entry |= {"width": sample.width, "height": sample.height}
        if len(sample.unlabelled):
            entry["labelled_only"] = [c for k, c in enumerate(data.classes) if k not in sample.unlabelled]
        entries.append(entry)
        assert sample.area is not None  # filled in by Sample
        for box, label, ignore, area, score in zip(
            sample.boxes.astype(float), sample.labels, sample.ignore, sample.area, sample.scores, strict=True
        ):
            x1, y1, x2, y2 = (round(float(v), 2) for v in box)
            one: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": int(label) + 1,
            }
            one |= {"bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)], "area": round(float(area), 2)}
            one |= {"iscrowd": 0} | ({"ignore": 1} if ignore else {})
            annotations.append(one | ({"score": round(float(score), 4)} if score < 1 else {}))
    categories = [{"id": i, "name": name} for i, name in enumerate(data.classes, 1)]
    return {"images": entries, "annotations": annotations, "categories": categories}


# ---- scenes


def _scenes(
    samples: Sequence[Sample], thumbnails: NDArray[np.uint8], progress: Progress
) -> tuple[list[list[int]], bool]:
    """Return groups of images that belong together, and whether one had to be cut into runs."""
    above = list(range(len(samples)))  # a forest: the root of each tree stands for its group

    def root(i: int) -> int:
        while above[i] != i:
            above[i] = above[above[i]]
            i = above[i]
        return i

    for alike in find_alike(thumbnails, progress=progress, title="compare images"):
        above[root(alike.image)] = root(alike.other)
    for video in _videos([sample.path for sample in samples], thumbnails):
        for i in video[1:]:
            above[root(i)] = root(video[0])
    groups: dict[int, list[int]] = {}
    for i in range(len(samples)):
        groups.setdefault(root(i), []).append(i)
    found, cut = [], False
    for group in groups.values():
        if 2 * len(group) <= len(samples) or len(group) < 2 * BLOCKS:
            found.append(group)
            continue
        # One camera, one video: no part could be made without it, so it is cut where time passes.
        cut = True
        in_order = sorted(group, key=lambda i: _natural(samples[i].path))
        found += [block.tolist() for block in np.array_split(np.asarray(in_order), BLOCKS)]
    return found, cut


def _videos(paths: Sequence[Path], thumbnails: NDArray[np.uint8]) -> Iterator[list[int]]:
    """Return the frames of each video, in order: images in one folder whose names differ in their number."""
    series: dict[tuple[Path, str], list[tuple[int, int]]] = {}
    for i, path in enumerate(paths):
        if match := _NUMBERED.match(_ROBOFLOW.sub("", path.stem)):
            series.setdefault((path.parent, match[1]), []).append((int(match[2]), i))
    for (_, name), numbered in series.items():
        frames = [i for _, i in sorted(numbered)]
        if _VIDEO.search(name):
            yield frames
        elif len(frames) >= _LEAST_FRAMES:
            pairs = correlations(thumbnails[frames[1:]], thumbnails[frames[:-1]])
            if float(np.median(pairs)) >= SAME_VIEW:
                yield frames


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts frame 9 before frame 10."""
    return [
        (int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d+)", str(path)) if word
    ]


# ---- parts


def _deal(
    data: Dataset, groups: Sequence[Sequence[int]], shares: Mapping[str, float], rng: np.random.Generator
) -> dict[str, list[int]]:
    """Return part -> indices of its groups: the rarest class first, to the part that lacks it most.

    Iterative stratification, Sechidis et al. 2011 (https://doi.org/10.1007/978-3-642-23808-6_10), by groups.
    """
    # The last column counts images, so that those without objects are dealt out evenly as well.
    content = np.zeros((len(groups), len(data.classes) + 1))
    for g, group in enumerate(groups):
        content[g, -1] = len(group)
        for i in group:
            content[g, :-1] += np.bincount(data.samples[i].labels, minlength=len(data.classes))
    parts = list(shares)
    lacking = np.asarray([[shares[part]] for part in parts]) * content.sum(axis=0)  # (parts, classes + 1)
    # Large groups first, because small ones level out what they leave; equal ones in a random order.
    order = rng.permutation(len(groups))
    order = order[np.argsort(-content[order, -1], kind="stable")]
    left = order.tolist()
    owner: dict[str, list[int]] = {part: [] for part in parts}
    while left:
        remaining = content[left].sum(axis=0)
        present = [k for k in range(len(data.classes)) if remaining[k] > 0]
        rarest = min(present, key=lambda k: remaining[k]) if present else -1
        for g in [g for g in left if content[g, rarest] > 0]:
            best = max(range(len(parts)), key=lambda p: (lacking[p, rarest], lacking[p, -1]))
            owner[parts[best]].append(g)
            lacking[best] -= content[g]
            left.remove(g)
    return owner

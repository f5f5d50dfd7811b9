"""Several labelled data sets as one.

Their class lists may differ, and each may be labelled for some of the classes only.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from edge_centernet.classes import class_key, coco_word, did_you_mean, find_class
from edge_centernet.data.base import (
    Annotations,
    Chosen,
    Objects,
    choose_classes,
    list_names,
    log,
    warn_absent,
)
from edge_centernet.errors import ConfigError


def merge(
    sets: Sequence[Annotations],
    classes: Sequence[str] | None = None,
    labelled_only: Sequence[Sequence[str] | None] = (),
) -> Annotations:
    """Merge data sets: the images and objects of the first, then those of the next, and so on.

    classes: read only these, in this order; by default all that the sets have, those of the first set first.
        Two classes are one if either name is a synonym of the other (`edge_centernet.classes`); the merged
        class then has COCO's word.
    labelled_only: for each set None, or the classes that were labelled in it; takes precedence over what its
        files say.

    A class is unlabelled in an image (Sample.unlabelled) if its set does not have the class or was not
    labelled for it. Objects of unlabelled classes stay, for they may come from a detector.

    An image file that several sets have stays in all of them, with one warning that gives their number
    (logger "edge_centernet.data"). Raises SourceError for a set that has none of `classes`, ConfigError for
    an unknown class in `labelled_only`.
    """
    if not sets:
        raise ValueError("expected at least one data set to merge, got none")
    merged = tuple(classes) if classes is not None else _union([found.classes for found in sets])
    objects = Objects()
    images: list[tuple[Path, int, int]] = []
    unlabelled: list[tuple[int, ...]] = []
    absent = frozenset(range(len(merged)))
    for found, only in zip(sets, labelled_only or [None] * len(sets), strict=True):
        # 1. The index among the merged classes of each of the set's own, None for one that is left out.
        chosen = choose_classes(found.source, found.classes, merged)
        labels = [chosen.label_of.get(name) for name in found.classes]
        # 2. Its objects with these classes, behind the images of the sets before it.
        own = found.objects
        rows = zip(own.image, own.label, own.box, own.place, own.ignore, own.area, own.score, strict=True)
        for image, label, box, place, ignore, area, score in rows:
            if (new := labels[label]) is not None:
                objects.add(len(images) + image, new, box, place, ignore, area, score)
        # 3. What was not labelled in its images.
        unlabelled += _unlabelled(found, labels, chosen.absent, merged, only)
        images += found.images
        absent &= chosen.absent
    source = " + ".join(found.source for found in sets)
    warn_absent(source, Chosen(merged, {}, absent))
    _warn_shared(sets)
    return Annotations(source, merged, tuple(images), objects, tuple(unlabelled) if any(unlabelled) else ())


def _union(lists: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return all classes by first appearance; synonyms are one, under COCO's word if their words differ."""
    if len(lists) == 1:  # a set alone keeps its list, even one that has two words for a class
        return tuple(lists[0])
    names: dict[str, list[str]] = {}
    for name in (name for classes in lists for name in classes):
        names.setdefault(class_key(name), []).append(name)
    return tuple(same[0] if len(set(same)) == 1 else coco_word(same[0]) for same in names.values())


def _unlabelled(
    found: Annotations,
    labels: Sequence[int | None],
    absent: frozenset[int],
    merged: Sequence[str],
    only: Sequence[str] | None,
) -> list[tuple[int, ...]]:
    """Return for each image of a set the merged classes that are unlabelled in it.

    Args:
        found: the set.
        labels: index of the merged class for each of the set's classes, None for one that is left out.
        absent: indices of the merged classes that the set does not have.
        merged: the merged classes.
        only: names of the classes that were labelled, None for what the set's files say.
    """
    if only is None:

        @functools.cache  # most images of a set have the same few tuples
        def of(own: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(
                sorted(absent.union(label for label in (labels[i] for i in own) if label is not None))
            )

        return [of(own) for own in found.unlabelled or ((),) * len(found.images)]

    labelled: set[int | None] = set()  # None stands for a class that was left out of the merged ones
    for name in only:
        # A class that only another set has may be named too: images without it were searched for it.
        ours, own = find_class(name, merged), find_class(name, found.classes)
        if ours is None and own is None:
            known = [*merged, *(other for other in found.classes if find_class(other, merged) is None)]
            raise ConfigError(
                f"{found.source}: labelled only for {name!r}: expected one of the classes {list_names(known)}"
                f"{did_you_mean(name, known)}"
            )
        labelled.add(labels[own] if ours is None and own is not None else ours)
    return [tuple(i for i in range(len(merged)) if i not in labelled)] * len(found.images)


def _warn_shared(sets: Sequence[Annotations]) -> None:
    """Log how many image files are in several sets: what they show counts double."""
    folder = functools.cache(os.path.realpath)  # not for every file: a set has 100,000 files in few folders
    owner: dict[str, int] = {}
    shared: dict[str, tuple[int, int]] = {}
    for number, found in enumerate(sets):
        for path, _, _ in found.images:
            file = os.path.join(folder(path.parent), path.name)
            if owner.setdefault(file, number) != number:
                shared.setdefault(file, (owner[file], number))
    if shared:
        file, (one, other) = next(iter(shared.items()))
        log.warning(
            "%d image files are in several of the data sets and count once for each: "
            "%s, for one, is in %s and in %s",
            len(shared),
            file,
            sets[one].source,
            sets[other].source,
        )

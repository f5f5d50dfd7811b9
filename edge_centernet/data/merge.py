"""Several labelled data sets as one; their class lists may differ, and not all classes need be labelled in each."""

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
    """Several data sets as one: the images and objects of the first, then those of the next, and so on.

    classes: read only these, in this order; by default all that the sets have, those of the first set first.
        Classes meet where one name is a synonym of the other (`edge_centernet.classes`); the merged class
        then has COCO's word.
    labelled_only: for each set None, or the classes that were labelled in it; wins over what its files say.

    A class is unlabelled in an image (Sample.unlabelled) where its set does not have it, or was not labelled
    for it. Objects of unlabelled classes stay, for they may be a detector's.

    An image file that several sets have stays in all of them, with one counted warning (logger
    "edge_centernet.data"). Raises SourceError for a set that has none of `classes`, ConfigError for an
    unknown class in `labelled_only`.
    """
    if not sets:
        raise ValueError("expected at least one data set to merge, got none")
    merged = tuple(classes) if classes is not None else _union([found.classes for found in sets])
    objects = Objects()
    images: list[tuple[Path, int, int]] = []
    unlabelled: list[tuple[int, ...]] = []
    absent = frozenset(range(len(merged)))
    for found, only in zip(sets, labelled_only or [None] * len(sets), strict=True):
        chosen = choose_classes(found.source, found.classes, merged)
        labels = [chosen.label_of.get(name) for name in found.classes]
        unlabelled += _unlabelled(found, labels, chosen.absent, merged, only)
        _add(objects, found, labels, len(images))
        images += found.images
        absent &= chosen.absent
    source = " + ".join(found.source for found in sets)
    warn_absent(source, Chosen(merged, {}, absent))
    _warn_shared(sets)
    return Annotations(source, merged, tuple(images), objects, tuple(unlabelled) if any(unlabelled) else ())


def _union(lists: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """All classes in the order in which they first come; synonyms are one, by COCO's word if the words differ."""
    if len(lists) == 1:
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
    """For each image of a set the merged classes that are unlabelled in it.

    Args:
        found: the set.
        labels: index of the merged class for each of the set's classes, None for one that is left out.
        absent: indices of the merged classes that the set does not have.
        merged: the merged classes.
        only: names of the classes that were labelled, None for what the set's files say.
    """
    if only is not None:
        labelled = _labelled(found, labels, merged, only)
        return [tuple(i for i in range(len(merged)) if i not in labelled)] * len(found.images)

    @functools.cache
    def of(own: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(absent.union(label for label in (labels[i] for i in own) if label is not None)))

    return [of(own) for own in found.unlabelled or ((),) * len(found.images)]


def _labelled(
    found: Annotations, labels: Sequence[int | None], merged: Sequence[str], only: Sequence[str]
) -> frozenset[int | None]:
    """Indices of the merged classes that `only` names; None stands for a class that was left out of them."""
    labelled: set[int | None] = set()
    for name in only:
        ours, own = find_class(name, merged), find_class(name, found.classes)
        if ours is None and own is None:
            known = [*merged, *(other for other in found.classes if find_class(other, merged) is None)]
            raise ConfigError(
                f"{found.source}: labelled only for {name!r}: expected one of the classes {list_names(known)}"
                f"{did_you_mean(name, known)}"
            )
        labelled.add(labels[own] if ours is None and own is not None else ours)
    return frozenset(labelled)


def _add(objects: Objects, found: Annotations, labels: Sequence[int | None], first: int) -> None:
    """Append a set's objects; first: index of its first image among those merged."""
    own = found.objects
    rows = zip(own.image, own.label, own.box, own.place, own.ignore, own.area, own.score, strict=True)
    for image, label, box, place, ignore, area, score in rows:
        merged = labels[label]
        if merged is not None:
            objects.add(first + image, merged, box, place, ignore, area, score)


def _warn_shared(sets: Sequence[Annotations]) -> None:
    """Say in the log how many image files several sets have: what they show counts double."""
    folder = functools.cache(os.path.realpath)
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
            "%d image files are in several of the data sets and count once for each: %s, for one, is in %s and in %s",
            len(shared),
            file,
            sets[one].source,
            sets[other].source,
        )

"""Which candidate to propose, and its threshold.

Candidates are ranked on the first half of the frames. The best one that is quick enough is then compared
with what is used today on the second half, which it was not chosen on: only if it is better there by more
than chance explains, it is proposed. Chance is measured by a paired bootstrap (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993): frames are drawn with repetition, the same ones for both, in blocks of a
video's consecutive frames, as those resemble each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_centernet.boxes import iou
from edge_centernet.data import Dataset
from edge_centernet.detections import Detections
from edge_centernet.evaluation.coco import match_samples
from edge_centernet.evaluation.crowds import NOT_COUNTED, RIGHT
from edge_centernet.labelling.ensemble import cluster
from edge_centernet.tuning.candidates import Candidate, Look
from edge_centernet.tuning.truth import agreed
from edge_centernet.tuning.view import View

WORTH = 0.03  # least gain in AP50 for which a camera is set up anew
SAME_TIME = 1.03  # times that differ by less are equal: on a busy machine two measurements do
FEWEST = 30  # objects in each half, below which nothing can be said
_DRAWS = 300  # of the bootstrap
_BLOCK = 10  # frames of a video, two seconds
_EQUAL = 0.005  # of AP50: of candidates so close the quickest is taken
_THRESHOLDS = np.round(np.arange(0.1, 0.91, 0.01), 2)
_STILL = 0.5  # share of the frames in which something is found at one place, from which on it never moves
_COSTS = 0.05  # F1 that may be given up to be rid of what never moves


@dataclass(frozen=True, eq=False)
class Judged:
    """A candidate's detections against the truth, those that count, best score first.

    score: (N,). right: (N,) bool. frame, class_id: (N,) int64. objects: (F, C) number of objects.
    """

    score: NDArray[np.float64]
    right: NDArray[np.bool_]
    frame: NDArray[np.int64]
    class_id: NDArray[np.int64]
    objects: NDArray[np.int64]

    def ap50(self, weights: NDArray[np.float64]) -> float:
        """AP at IoU 0.5 as COCO computes it, mean over the classes that occur; NaN if none does.

        weights: (F,) how often each frame counts.
        """
        aps = []
        for k in range(self.objects.shape[1]):
            total = float(weights @ self.objects[:, k])
            if total <= 0.0:
                continue
            mine = self.class_id == k
            weight, right = weights[self.frame[mine]], self.right[mine]
            hits, all_ = np.cumsum(weight * right), np.cumsum(weight)
            precision = np.divide(hits, all_, out=np.zeros_like(hits), where=all_ > 0)
            best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or beyond
            at = np.searchsorted(hits / total, np.linspace(0.0, 1.0, 101) - 1e-12)
            aps.append(float(np.append(best, 0.0)[at].mean()))
        return float(np.mean(aps)) if aps else float("nan")

    def f1(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """(T,) F1 over all frames and classes at each threshold."""
        shown = np.searchsorted(-self.score, -thresholds, side="right")
        hits = np.concatenate([[0], np.cumsum(self.right)])[shown]
        return np.asarray(2.0 * hits / np.maximum(shown + self.objects.sum(), 1), np.float64)


@dataclass(frozen=True)
class Rating:
    """A candidate in figures: AP50 on the first and second half, milliseconds a frame."""

    candidate: Candidate
    chosen_on: float
    checked_on: float
    ms: float


@dataclass(frozen=True)
class Choice:
    """What is proposed.

    look: of the proposed candidate. today: of what is used now, the first candidate.
    ratings: of all candidates, in their order. budget: milliseconds that it may take.
    gain: in AP50 on the second half with its 95 % interval; None where nothing was compared.
    reason: in one sentence. truth: that they were ranked by.
    """

    look: Look
    today: Look
    ratings: tuple[Rating, ...]
    budget: float
    gain: tuple[float, float, float] | None
    reason: str
    truth: Dataset

    @property
    def changed(self) -> bool:
        """Whether it is another candidate than today's."""
        return self.look is not self.today

    def rating(self, look: Look) -> Rating:
        """The figures of a candidate."""
        return next(one for one in self.ratings if one.candidate is look.candidate)


def judge(found: Sequence[Detections], truth: Dataset) -> Judged:
    """Match what a candidate found in each frame with the truth at IoU 0.5."""
    classes = found[0].classes
    matches = match_samples(found, truth, classes)
    counted = [one.verdict != NOT_COUNTED for one in matches]
    score = np.concatenate([f.score[kept] for f, kept in zip(found, counted, strict=True)]).astype(np.float64)
    right = np.concatenate([m.verdict[kept] == RIGHT for m, kept in zip(matches, counted, strict=True)])
    class_id = np.concatenate([f.class_id[kept] for f, kept in zip(found, counted, strict=True)])
    frame = np.repeat(np.arange(len(found)), [int(kept.sum()) for kept in counted])
    objects = np.stack(
        [np.bincount(s.labels[s.counted], minlength=len(classes))[: len(classes)] for s in truth.samples]
    )
    order = np.argsort(-score, kind="stable")
    return Judged(score[order], right[order], frame[order], class_id[order].astype(np.int64), objects)


def choose(looks: Sequence[Look], view: View, labels: Dataset | None, budget: float | None) -> Choice:
    """Propose a candidate.

    Args:
        looks: of all candidates, that of what is used today first.
        view: what they looked at.
        labels: the truth, where it is known.
        budget: milliseconds that a frame may take; what today's takes, by SAME_TIME, unless given.
    """
    today = looks[0]
    limit = SAME_TIME * today.ms if budget is None else budget
    truth = agreed(looks, view) if labels is None else labels
    first = (np.arange(len(view.frames)) < view.half).astype(np.float64)
    # 1. Rank on the first half.
    judged = [judge(one.found, truth) for one in looks]
    ratings = tuple(
        Rating(one.candidate, each.ap50(first), each.ap50(1.0 - first), one.ms)
        for one, each in zip(looks, judged, strict=True)
    )

    def decide(look: Look, gain: tuple[float, float, float] | None, reason: str) -> Choice:
        return Choice(look, today, ratings, limit, gain, reason, truth)

    counted = judged[0].objects.sum(axis=1)
    fewest = int(min(first @ counted, (1.0 - first) @ counted))
    quick = [i for i, one in enumerate(looks) if one.ms <= limit]
    fits = 0 in quick
    if not quick:
        quickest = min(range(len(looks)), key=lambda i: looks[i].ms)
        return decide(
            looks[quickest],
            None,
            f"no model is done in {limit:.1f} ms on this machine; the quickest takes "
            f"{looks[quickest].ms:.1f} ms",
        )
    if fewest < FEWEST:
        kept = looks[0] if fits else looks[min(quick, key=lambda i: looks[i].ms)]
        return decide(
            kept,
            None,
            f"only {fewest} objects could be made sure of in one half, {FEWEST} are needed to compare "
            "models; watch for longer, or when more is going on",
        )
    top = max(ratings[i].chosen_on for i in quick)
    best = min((i for i in quick if ratings[i].chosen_on >= top - _EQUAL), key=lambda i: looks[i].ms)
    if not fits:
        return decide(
            looks[best],
            None,
            f"{today.candidate.name} takes {today.ms:.1f} ms and {limit:.1f} ms are allowed; of what is "
            "quick enough this finds most",
        )
    if best == 0:
        return decide(today, None, "nothing that is as quick finds more on the first half")
    # 2. The check on the second half, in which neither of the two has a vote.
    umpire = agreed(looks, view, (today, looks[best])) if labels is None else labels
    gain = difference(judge(looks[best].found, umpire), judge(today.found, umpire), view)
    name, interval = looks[best].candidate.name, f"{gain[1]:+.2f} to {gain[2]:+.2f}"
    if gain[0] < WORTH or gain[1] <= 0.0:
        return decide(
            today,
            gain,
            f"{name} came first on the first half, but on the second its AP50 differs by {gain[0]:+.2f} "
            f"({interval}), which is not surely better by {WORTH:g}",
        )
    return decide(
        looks[best],
        gain,
        f"on the second half, which it was not chosen on, AP50 rises by {gain[0]:.2f} ({interval})",
    )


def difference(a: Judged, b: Judged, view: View) -> tuple[float, float, float]:
    """AP50 of `a` less that of `b` on the second half, and the bounds of its 95 % interval."""
    frames = np.arange(view.half, len(view.frames))
    second = np.zeros(len(view.frames))
    second[frames] = 1.0
    blocks = np.array_split(frames, max(1, len(frames) // (_BLOCK if view.moving else 1)))
    drawn = []
    random = np.random.default_rng(0)
    for _ in range(_DRAWS):
        weights = np.zeros(len(view.frames))
        for block in random.integers(0, len(blocks), len(blocks)).tolist():
            weights[blocks[block]] += 1.0
        drawn.append(a.ap50(weights) - b.ap50(weights))
    low, high = np.nanquantile(drawn, [0.025, 0.975]).tolist()
    return a.ap50(second) - b.ap50(second), low, high


@dataclass(frozen=True)
class Threshold:
    """The threshold to propose.

    value: 0..1. f1: there. best: the threshold of the best F1. still: how many things that never move are
    found at `best`. remaining: those found at `value`, boxes (x1, y1, x2, y2) in pixels of the frames.
    """

    value: float
    f1: float
    best: float
    still: int
    remaining: tuple[tuple[float, float, float, float], ...]


def threshold(look: Look, truth: Dataset, view: View) -> Threshold:
    """That of the best F1, or a higher one that frees from what never moves where this costs little."""
    f1 = judge(look.found, truth).f1(_THRESHOLDS)
    best = int(f1.argmax())
    boxes, at = still_things(look.found if view.moving else (), _THRESHOLDS)
    still = at.sum(axis=0)
    # Of all thresholds that cost little the lowest at which the fewest of them are left.
    cheap = [i for i in range(best, len(f1)) if f1[i] >= f1[best] - _COSTS]
    value = min(cheap, key=lambda i: (still[i], i))
    return Threshold(
        float(_THRESHOLDS[value]),
        float(f1[value]),
        float(_THRESHOLDS[best]),
        int(still[best]),
        tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in boxes[at[:, value]].tolist()),
    )


def still_things(
    found: Sequence[Detections], thresholds: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What is in one place in half of all frames or more: (N, 4) boxes, and (N, T) at which thresholds."""
    if not found:
        return np.zeros((0, 4)), np.zeros((0, len(thresholds)), np.bool_)
    kept = [one[one.score >= thresholds[0]] for one in found]
    score = np.concatenate([one.score for one in kept]).astype(np.float64)
    xyxy = np.concatenate([one.xyxy for one in kept]).astype(np.float64)
    frame = np.repeat(np.arange(len(kept)), [len(one) for one in kept])
    order = np.argsort(-score, kind="stable")
    centres, owner = cluster(xyxy[order], score[order], 0.5)
    often = np.zeros((len(centres), len(thresholds)), np.bool_)
    for i in range(len(centres)):
        mine = order[owner == i]
        if len(mine) < _STILL * len(found):
            continue
        mine = mine[iou(xyxy[mine], centres[i : i + 1])[:, 0] > 0.5]
        for t, limit in enumerate(thresholds):
            often[i, t] = len(np.unique(frame[mine[score[mine] >= limit]])) >= _STILL * len(found)
    return centres[often.any(axis=1)], often[often.any(axis=1)]

"""Render the clip that `edge-centernet demo` plays: people of lofted tubes who walk through a small shop.

    python scripts/render_demo.py edge_centernet/assets/demo.mp4

Nothing in it was photographed or taken from anybody: figures, clothes and shop are geometry and random
numbers of this file. A body is a set of tubes around bones, cut into small quadrilaterals that are shaded one
by one and painted from back to front; legs and arms swing with the way walked. Who walks where is the list
`WALKS`, from which tests take how often the door was crossed.

Coordinates: metres; x to the right, y up from the floor, z away from the camera. It needs ffmpeg with
libx264, and takes a minute or two.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Image = NDArray[np.float32]  # (H, W, 3) BGR, 0..1

WIDTH, HEIGHT, FPS = 640, 360, 15
SECONDS = 39.0
SCALE = 3  # supersampling
FOCAL = 470.0  # pixels
_EYE = np.array([0.0, 2.15, 0.0])  # metres
_PITCH = np.radians(13.0)  # the camera looks down by so much
_WALL_Z = 6.2
_LIGHT = np.array([-0.45, 0.8, -0.5]) / np.linalg.norm([-0.45, 0.8, -0.5])  # towards the lamp
_SEGMENTS = 18  # of a tube's ring
_ANGLES = np.linspace(0.0, 2 * np.pi, _SEGMENTS, endpoint=False)
RIGHT, UP, AHEAD = np.eye(3)

Colour = tuple[float, float, float]  # RGB, 0..1
Ring = tuple[Floats, Floats, Floats]  # centre, and two half axes


# ---- the camera ------------------------------------------------------------------------------------


def project(points: Floats, scale: float = 1.0) -> Floats:
    """(..., 3) metres -> (..., 3): x, y in pixels of the frame times `scale`, and the distance in metres."""
    off = points - _EYE
    cos, sin = np.cos(_PITCH), np.sin(_PITCH)
    depth = off[..., 2] * cos - off[..., 1] * sin
    up = off[..., 2] * sin + off[..., 1] * cos
    x = WIDTH / 2 + FOCAL * off[..., 0] / depth
    y = HEIGHT / 2 - FOCAL * up / depth
    return np.stack([x * scale, y * scale, depth], -1)


# ---- people ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """A person: clothes, skin, hair, measures. height: metres. girth: 1 is usual."""

    shirt: Colour
    trousers: Colour
    skin: Colour
    hair: Colour
    shoes: Colour = (0.12, 0.11, 0.11)
    height: float = 1.75
    girth: float = 1.0
    long_hair: bool = False
    stripes: bool = False
    coat: bool = False
    short_sleeves: bool = False


class _Body:
    """Quadrilaterals of a person of 1.75 m who stands at the origin and faces +z."""

    def __init__(self, look: Look, phase: float, stride: float) -> None:
        """phase: of the gait, radians. stride: 0 (stands) to 1 (walks)."""
        self.look, self.phase, self.stride = look, phase, stride
        self._rng = np.random.default_rng(int(look.height * 1000))  # the same in each frame
        folds = self._rng.standard_normal((64, 3 * _SEGMENTS))
        folds[:, : 2 * _SEGMENTS] = np.hstack([folds[:, 2 * _SEGMENTS :]] * 2)  # no seam where a ring closes
        self._folds = 1.0 + 0.12 * cv2.GaussianBlur(folds, (0, 0), 1.3)[:, _SEGMENTS : 2 * _SEGMENTS]
        self._lean = 0.04 * stride
        self._corners: list[Floats] = []
        self._colours: list[Floats] = []
        self._legs()
        self._trunk()
        self._arms()
        self._head()

    def quads(self) -> tuple[Floats, Floats]:
        """Corners (N, 4, 3), metres, the lower foot on the floor, and colours (N, 3)."""
        corners = np.concatenate(self._corners)
        corners[..., 1] -= corners[..., 1].min()
        return corners * (self.look.height / 1.75), np.concatenate(self._colours)

    def _legs(self) -> None:
        for sign, turn in ((-1.0, self.phase), (1.0, self.phase + np.pi)):
            thigh = self.stride * (0.42 * np.sin(turn) + 0.05)
            lifted = max(0.0, np.sin(turn + 0.98)) ** 1.5  # the knee bends while the leg swings ahead
            shank = thigh - 0.06 - self.stride * (0.12 + 0.75 * lifted)
            hip = np.array([sign * 0.095 * self.look.girth, 0.91, 0.0])
            knee = hip + 0.42 * np.array([0.0, -np.cos(thigh), np.sin(thigh)])
            ankle = knee + 0.41 * np.array([-sign * 0.015, -np.cos(shank), np.sin(shank)])
            tilt = np.clip(0.9 * shank + self.stride * 0.12, -0.9, 0.35)
            toe = ankle + np.array([sign * 0.03, 0.19 * np.sin(tilt) - 0.055, 0.19 * np.cos(tilt)])
            heel = ankle - np.array([0.0, 0.05 + 0.05 * np.sin(tilt), 0.06])
            hem = ankle + 0.03 * UP
            self._limb(
                [hip, hip - 0.07 * UP + 0.1 * (knee - hip), knee, 0.5 * (knee + ankle), hem],
                self.look.girth * np.array([0.070, 0.088, 0.064, 0.064, 0.056]),
                RIGHT,
                self._cloth(self.look.trousers, 15, 16),
            )
            self._limb([hem, ankle - 0.02 * UP], [0.04, 0.04], RIGHT, 0.6 * np.array(self.look.skin), 3)
            middle = 0.5 * (heel + toe) + 0.012 * UP
            self._limb(
                [heel - 0.01 * AHEAD, heel + 0.01 * UP, middle, toe, toe + 0.02 * AHEAD],
                [0.01, 0.042, 0.045, 0.036, 0.008],
                RIGHT,
                np.array(self.look.shoes),
                9,
            )

    def _trunk(self) -> None:
        g, coat = self.look.girth, self.look.coat
        rows = _smooth(
            [  # height, half width, half depth
                (0.60 if coat else 0.80, 0.205 * g, 0.150 * g),
                (0.90, 0.192 * g, 0.136 * g),
                (1.06, 0.160 * g, 0.114 * g),
                (1.22, 0.172 * g, 0.118 * g),
                (1.34, 0.190 * g, 0.116 * g),
                (1.42, 0.175 * g, 0.095),
                (1.465, 0.105, 0.070),
                (1.49, 0.060, 0.058),
            ],
            24,
        )
        colours = self._cloth(self.look.shirt, 23, 16)
        if self.look.stripes:
            colours = colours * np.where(np.arange(23) // 2 % 2, 1.0, 0.45)[:, None, None]
        if coat:  # open: what is below it shows in front
            front = np.abs(_ANGLES - np.pi / 2) < 0.3
            colours = np.where(front[None, :, None], self._cloth((0.75, 0.75, 0.72), 23), colours)
        across, ahead = self._shoulders()
        lean = [np.array([0.0, y, self._lean * (y - 0.9)]) for y in rows[:, 0]]
        self._loft([(c, w * across, d * ahead) for c, (_, w, d) in zip(lean, rows, strict=True)], colours)

    def _arms(self) -> None:
        g, (across, _) = self.look.girth, self._shoulders()
        for sign, turn in ((-1.0, self.phase + np.pi), (1.0, self.phase)):
            swing = self.stride * 0.40 * np.sin(turn) + 0.02  # against the legs
            bend = swing + 0.16 + self.stride * (0.22 + 0.18 * np.sin(turn))
            shoulder = np.array([0.0, 1.395, self._lean * 0.5]) + sign * 0.178 * g * across
            elbow = shoulder + 0.29 * np.array([sign * 0.16, -np.cos(swing), np.sin(swing)])
            wrist = elbow + 0.25 * np.array([0.0, -np.cos(bend), np.sin(bend)])
            hand = wrist + 0.15 * np.array([-sign * 0.05, -np.cos(bend), np.sin(bend)])
            top = shoulder + 0.04 * UP - sign * 0.04 * across
            skin = np.array(self.look.skin)
            if self.look.short_sleeves:
                cut = shoulder + 0.6 * (elbow - shoulder)
                sleeve = [0.02, 0.058 * g, 0.058 * g]
                self._limb([top, shoulder, cut], sleeve, AHEAD, self._cloth(self.look.shirt, 8, 40))
                self._limb([cut, elbow, wrist], [0.045 * g, 0.042 * g, 0.030], AHEAD, skin, 10)
            else:
                sleeve = [0.02, 0.058 * g, 0.052 * g, 0.042]
                cloth = self._cloth(self.look.shirt, 15, 40)
                self._limb([top, shoulder, elbow, wrist], sleeve, AHEAD, cloth)
            fingers = [wrist, wrist + 0.4 * (hand - wrist), hand - 0.03 * (hand - wrist), hand]
            self._limb(fingers, [0.028, 0.040, 0.028, 0.006], AHEAD, skin, 8)

    def _head(self) -> None:
        skin, hair = np.array(self.look.skin), np.array(self.look.hair)
        base = 0.6 * self._lean * AHEAD
        self._limb([base + 1.44 * UP, base + 1.55 * UP + 0.01 * AHEAD], [0.058, 0.054], RIGHT, skin * 0.85, 5)
        rows = _smooth(
            [  # height, half width, half depth, forward
                (1.515, 0.012, 0.015, 0.060),
                (1.525, 0.040, 0.045, 0.045),
                (1.56, 0.062, 0.080, 0.022),
                (1.62, 0.076, 0.097, 0.006),
                (1.68, 0.077, 0.098, -0.004),
                (1.72, 0.062, 0.078, -0.008),
                (1.745, 0.030, 0.040, -0.01),
                (1.752, 0.004, 0.004, -0.01),
            ],
            26,
        )
        rings = [(base + y * UP + f * AHEAD, w * RIGHT, d * AHEAD) for y, w, d, f in rows]
        # 1. A face is painted on: what is so far from its middle, radians, and so high.
        off = np.abs(_ANGLES + np.pi / _SEGMENTS - np.pi / 2)[None, :]
        y = 0.5 * (rows[:-1, 0] + rows[1:, 0])[:, None]
        tint = np.broadcast_to(skin, (25, _SEGMENTS, 3)).copy()
        tint[(np.abs(y - 1.635) < 0.008) & (np.abs(off - 0.42) < 0.22)] = (0.10, 0.08, 0.07)  # eyes
        tint[(np.abs(y - 1.657) < 0.007) & (np.abs(off - 0.42) < 0.30)] = 0.5 * hair + 0.3 * skin  # brows
        tint[(np.abs(y - 1.590) < 0.008) & (off < 0.2)] *= 0.8  # below the nose
        tint[(np.abs(y - 1.568) < 0.006) & (off < 0.35)] = skin * (0.75, 0.45, 0.45)  # mouth
        nape = 1.50 if self.look.long_hair else 1.56
        covered = (y > 1.70) | ((off > 1.15) & (y > 1.60)) | ((off > 1.7) & (y > nape))
        tint[covered] = hair
        self._loft(rings, tint)
        # 2. Hair over it.
        cap = [(c + np.array([0.0, 0.006, -0.010]), 1.09 * a, 1.06 * b) for c, a, b in rings[18:]]
        self._loft(cap, hair * (1.0 + 0.12 * self._rng.standard_normal((len(cap) - 1, _SEGMENTS, 1))))
        if self.look.long_hair:
            fall = _smooth([(1.70, 0.086, 0.08), (1.60, 0.090, 0.075), (1.42, 0.100, 0.05)], 8)
            rings = [
                (base + h * UP - (0.035 + 0.003 * i) * AHEAD, w * RIGHT, d * AHEAD)
                for i, (h, w, d) in enumerate(fall)
            ]
            self._loft(rings, hair * (1.0 + 0.15 * self._rng.standard_normal((7, _SEGMENTS, 1))))
        # 3. A nose.
        nose = base + 1.605 * UP + 0.100 * AHEAD
        bridge = [nose + 0.035 * UP - 0.012 * AHEAD, nose + 0.012 * AHEAD, nose - 0.012 * UP - 0.02 * AHEAD]
        self._limb(bridge, [0.006, 0.014, 0.010], RIGHT, skin * 0.97, 5)

    def _shoulders(self) -> tuple[Floats, Floats]:
        """Their directions across and ahead: they turn against the hips a little."""
        sway = self.stride * 0.12 * np.sin(self.phase)
        return np.array([np.cos(sway), 0.0, np.sin(sway)]), np.array([-np.sin(sway), 0.0, np.cos(sway)])

    def _cloth(self, colour: Colour, rows: int, offset: int = 0) -> Floats:
        """(rows, segments, 3): a colour with folds."""
        return np.array(colour) * self._folds[offset : offset + rows, :, None]

    def _loft(self, rings: Sequence[Ring], colours: Floats) -> None:
        """Join rings. colours: (rings - 1, segments, 3) or one."""
        loop = np.stack(
            [c + np.outer(np.cos(_ANGLES), a) + np.outer(np.sin(_ANGLES), b) for c, a, b in rings]
        )
        following = np.roll(loop, -1, axis=1)
        quads = np.stack([loop[:-1], following[:-1], following[1:], loop[1:]], 2)  # (R-1, S, 4, 3)
        self._corners.append(quads.reshape(-1, 4, 3))
        self._colours.append(np.broadcast_to(colours, (*quads.shape[:2], 3)).reshape(-1, 3))

    def _limb(
        self,
        joints: Sequence[Floats],
        radii: Sequence[float] | Floats,
        side: Floats,
        colours: Floats,
        steps: int = 0,
    ) -> None:
        """Add a round tube along joints.

        Args:
            joints: its axis.
            radii: at each joint.
            side: a direction across it.
            colours: (steps - 1, segments, 3) or one.
            steps: rings; as many as the colours need unless given.
        """
        length = np.cumsum([0.0, *(np.linalg.norm(b - a) for a, b in pairwise(joints))])
        rows = _smooth(
            [(s, *j, r) for s, j, r in zip(length, joints, radii, strict=True)], steps or len(colours) + 1
        )
        along = np.gradient(rows[:, 1:4], axis=0)
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        rings = []
        for (_, *centre, radius), axis in zip(rows, along, strict=True):
            one = side - axis * (side @ axis)
            one /= np.linalg.norm(one)
            rings.append((np.array(centre), radius * one, radius * np.cross(axis, one)))
        self._loft(rings, colours)


def _smooth(knots: Sequence[tuple[float, ...]], steps: int) -> Floats:
    """(steps, K) rows between those of (place, v1, v2, ...), with rounded corners."""
    table = np.array(knots)
    at = np.linspace(table[0, 0], table[-1, 0], steps)
    rows = np.stack([np.interp(at, table[:, 0], column) for column in table.T], 1)
    for _ in range(2):
        rows[1:-1] = 0.25 * rows[:-2] + 0.5 * rows[1:-1] + 0.25 * rows[2:]
    return rows


def draw(canvas: Image, corners: Floats, colours: Floats, scale: int) -> None:
    """Shade and paint quadrilaterals, from back to front."""
    normal = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    centre = corners.mean(1)
    view = _EYE - centre
    view /= np.linalg.norm(view, axis=1, keepdims=True)
    facing = (normal * view).sum(1)
    normal = np.where(facing[:, None] < 0, -normal, normal)
    # Lamp above, wrapped around so that shadows stay soft, and light from floor and walls.
    wrap = np.clip(0.35 + 0.65 * (normal @ _LIGHT), 0.0, 1.0)
    sky = 0.5 + 0.5 * normal[:, 1]
    shade = 0.22 + 0.62 * wrap + 0.30 * sky
    shade *= 0.80 + 0.20 * np.abs(facing)
    lit = np.clip(colours, 0, 1) * shade[:, None]
    flat = project(corners, scale)
    order = np.argsort(-flat[..., 2].mean(1))
    points = np.round(flat[..., :2] * 16).astype(np.int32)
    for i in order:
        b, g, r = float(lit[i, 2]), float(lit[i, 1]), float(lit[i, 0])
        cv2.fillConvexPoly(canvas, points[i], (b, g, r), cv2.LINE_8, 4)


def shadow(mask: NDArray[np.float32], corners: Floats, scale: float) -> None:
    """Darken `mask` where the body keeps the lamp's light from the floor."""
    along = corners - _LIGHT * (corners[..., 1:2] / _LIGHT[1])
    flat = np.round(project(along, scale)[..., :2] * 16).astype(np.int32)
    for quad in flat:
        cv2.fillConvexPoly(mask, quad, 1.0, cv2.LINE_8, 4)


# ---- the shop --------------------------------------------------------------------------------------


def _plane(canvas: Image, texture: Image, corners: Sequence[Sequence[float]], scale: int) -> None:
    """Lay a texture onto the quadrilateral of four points in space."""
    height, width = texture.shape[:2]
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    target = project(np.array(corners, float), scale)[:, :2].astype(np.float32)
    turn = cv2.getPerspectiveTransform(source, target)
    size = canvas.shape[1], canvas.shape[0]
    laid = cv2.warpPerspective(texture, turn, size, flags=cv2.INTER_AREA)
    mask = cv2.warpPerspective(np.ones((height, width), np.float32), turn, size)[..., None]
    canvas[:] = canvas * (1 - mask) + laid * mask


def _grain(rng: np.random.Generator, shape: tuple[int, int], sigma: float, strength: float) -> Image:
    noise = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), sigma)
    return (1.0 + strength * noise / noise.std())[..., None]


def shop(scale: int) -> Image:
    """The empty room: plank floor, painted wall, a doorway at the left and a shelf at the right."""
    rng = np.random.default_rng(7)
    canvas = np.zeros((HEIGHT * scale, WIDTH * scale, 3), np.float32)
    # 1. The wall.
    wall = np.full((500, 1600, 3), (0.66, 0.70, 0.71), np.float32)
    wall *= np.linspace(1.08, 0.86, 500, dtype=np.float32)[:, None, None]
    wall *= _grain(rng, wall.shape[:2], 3, 0.012) * _grain(rng, wall.shape[:2], 60, 0.01)
    wall[470:485] *= 0.93
    wall[485:] = (0.80, 0.82, 0.83)
    _plane(canvas, wall, [[-8, 5, _WALL_Z], [8, 5, _WALL_Z], [8, 0, _WALL_Z], [-8, 0, _WALL_Z]], scale)
    # 2. The floor: planks.
    floor = np.zeros((1400, 2400, 3), np.float32)
    for row in range(0, 1400, 40):
        at = -int(rng.integers(0, 300))
        while at < 2400:
            length = int(rng.integers(240, 420))
            tone = np.array((0.36, 0.46, 0.56)) * rng.uniform(0.86, 1.1)
            floor[row : row + 40, max(at, 0) : at + length] = tone
            floor[row : row + 40, max(at, 0) : max(at, 0) + 2] *= 0.7
            at += length
        floor[row : row + 2] *= 0.7
    floor *= _grain(rng, floor.shape[:2], 2, 0.03) * _grain(rng, floor.shape[:2], 90, 0.05)
    _plane(canvas, floor, [[-8, 0, _WALL_Z], [8, 0, _WALL_Z], [8, 0, 1.2], [-8, 0, 1.2]], scale)
    # 3. The mat before the door.
    mat = np.full((200, 100, 3), (0.28, 0.25, 0.24), np.float32) * _grain(rng, (200, 100), 1, 0.12)
    _plane(
        canvas, mat, [[-3.3, 0.005, 5.4], [-2.0, 0.005, 5.4], [-2.0, 0.005, 3.2], [-3.3, 0.005, 3.2]], scale
    )
    # 4. A shelf at the wall, with boxes.
    left, right, depth = 0.7, 3.4, _WALL_Z - 0.45
    back = np.full((100, 100, 3), (0.30, 0.36, 0.42), np.float32)
    _plane(
        canvas, back, [[left, 1.75, depth], [right, 1.75, depth], [right, 0, depth], [left, 0, depth]], scale
    )
    for level in (0.12, 0.62, 1.12):
        at = left + 0.06
        while at < right - 0.25:
            wide, high = rng.uniform(0.12, 0.24), rng.uniform(0.2, 0.36)
            colour = np.array([rng.uniform(0.2, 0.8) for _ in range(3)], np.float32) * 0.7 + 0.12
            box = np.ones((60, 40, 3), np.float32) * colour
            box[18:34] = box[18:34] * 0.4 + 0.5
            box *= np.linspace(0.8, 1.0, 60, dtype=np.float32)[:, None, None]
            _plane(
                canvas,
                box,
                [
                    [at, level + high, depth],
                    [at + wide, level + high, depth],
                    [at + wide, level, depth],
                    [at, level, depth],
                ],
                scale,
            )
            at += wide + rng.uniform(0.01, 0.06)
        board = np.full((8, 100, 3), (0.55, 0.66, 0.75), np.float32)
        _plane(
            canvas,
            board,
            [
                [left, level, depth],
                [right, level, depth],
                [right, level - 0.05, depth],
                [left, level - 0.05, depth],
            ],
            scale,
        )
    for x in (left - 0.05, right):
        _plane(
            canvas,
            board,
            [[x, 1.8, depth], [x + 0.06, 1.8, depth], [x + 0.06, 0, depth], [x, 0, depth]],
            scale,
        )
    _plane(
        canvas,
        board,
        [[left, 1.80, depth], [right, 1.80, depth], [right, 1.74, depth], [left, 1.74, depth]],
        scale,
    )
    # 5. Brighter in the middle, as below a lamp.
    y, x = np.mgrid[: canvas.shape[0], : canvas.shape[1]].astype(np.float32) / scale
    far = ((x - WIDTH * 0.45) / WIDTH) ** 2 + ((y - HEIGHT * 0.5) / HEIGHT) ** 2
    return np.clip(canvas * (1.08 - 0.5 * far)[..., None], 0, 1).astype(np.float32)


def _place(look: Look, place: Floats) -> tuple[Floats, Floats]:
    """Corners (N, 4, 3), metres, and colours (N, 3). place: x, z, heading (0: away), phase, stride."""
    x, z, heading, phase, stride = place
    corners, colours = _Body(look, phase, stride).quads()
    cos, sin = np.cos(heading), np.sin(heading)
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    return corners @ turn.T + np.array([x, 0, z]), colours


def picture(
    empty: Image, people: Sequence[tuple[Look, Floats]], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """One frame. people: as of `people_at`. rng: for the noise of the camera."""
    canvas = empty.copy()
    placed = [_place(look, place) for look, place in sorted(people, key=lambda one: -one[1][1])]
    dark = np.zeros(canvas.shape[:2], np.float32)
    for corners, _ in placed:
        shadow(dark, corners, SCALE)
    dark = cv2.GaussianBlur(cv2.resize(dark, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), (0, 0), 2.2)
    dark = cv2.resize(dark, (canvas.shape[1], canvas.shape[0]))
    canvas *= (1.0 - 0.45 * dark)[..., None]
    for corners, colours in placed:
        draw(canvas, corners, colours, SCALE)
    small = cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 0.5)
    small = small + 0.008 * rng.standard_normal(small.shape[:2])[..., None]
    return np.clip(small * 255.0, 0, 255).astype(np.uint8)


# ---- who walks where -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Walk:
    """One way through the shop.

    look: index in LOOKS. start: seconds. stops: x and z in metres, and seconds of a pause before the shelf.
    """

    look: int
    start: float
    stops: tuple[tuple[float, float, float], ...]
    speed: float = 1.2  # metres per second


LOOKS = (
    Look((0.15, 0.25, 0.55), (0.20, 0.20, 0.25), (0.86, 0.66, 0.55), (0.16, 0.10, 0.07)),
    Look(
        (0.75, 0.20, 0.20),
        (0.12, 0.14, 0.25),
        (0.55, 0.37, 0.27),
        (0.07, 0.06, 0.06),
        height=1.68,
        girth=0.92,
        long_hair=True,
    ),
    Look(
        (0.85, 0.85, 0.82),
        (0.25, 0.30, 0.45),
        (0.88, 0.70, 0.60),
        (0.45, 0.30, 0.15),
        height=1.82,
        short_sleeves=True,
    ),
    Look(
        (0.20, 0.38, 0.30),
        (0.35, 0.30, 0.25),
        (0.80, 0.60, 0.48),
        (0.40, 0.38, 0.37),
        height=1.74,
        girth=1.08,
        coat=True,
    ),
    Look(
        (0.85, 0.68, 0.25),
        (0.16, 0.16, 0.17),
        (0.74, 0.54, 0.42),
        (0.22, 0.13, 0.08),
        height=1.65,
        girth=0.95,
        long_hair=True,
        stripes=True,
    ),
)
_OUT, _BACK = -4.3, 4.7  # x where nobody is seen any more: beyond the door, and at the other end of the shop
WALKS = (
    Walk(1, 0.3, ((_OUT, 4.0, 0), (_BACK, 3.7, 0))),
    Walk(0, 3.0, ((_OUT, 4.1, 0), (2.2, 5.15, 8.0), (_OUT, 4.9, 0))),
    Walk(2, 8.0, ((_OUT, 3.9, 0), (0.9, 5.15, 3.0), (_OUT, 4.0, 0))),
    Walk(4, 12.5, ((_OUT, 3.4, 0), (_BACK, 3.6, 0))),
    Walk(1, 21.0, ((_BACK, 4.0, 0), (_OUT, 3.7, 0))),
    Walk(3, 21.5, ((_OUT, 4.9, 0), (1.6, 5.15, 6.0), (_OUT, 4.1, 0)), 1.1),
    Walk(4, 23.5, ((_BACK, 3.6, 0), (_OUT, 3.5, 0))),
)


@cache
def way(walk: Walk) -> Floats:
    """(N, 6) for each frame from the first on: seconds, x, z, heading, phase of the gait, stride 0..1."""
    fine = 60
    places, faces = [], []
    for (x1, z1, _), (x2, z2, pause) in pairwise(walk.stops):
        steps = int(fine * np.hypot(x2 - x1, z2 - z1) / walk.speed)
        t = np.linspace(0, 1, steps, endpoint=False)[:, None]
        places += [(1 - t) * (x1, z1) + t * (x2, z2), np.tile([x2, z2], (int(pause * fine), 1))]
        faces += [
            np.tile(np.array([x2 - x1, z2 - z1]), (steps, 1)),
            np.tile([0.12, 1.0], (int(pause * fine), 1)),
        ]

    def smooth(rows: Floats, sigma: float) -> Floats:
        return cv2.GaussianBlur(rows, (1, 0), sigmaX=1, sigmaY=sigma * fine, borderType=cv2.BORDER_REPLICATE)

    place = smooth(np.concatenate(places), 0.15)
    face = np.concatenate(faces)
    face = smooth(face / np.linalg.norm(face, axis=1, keepdims=True), 0.22)
    step = np.linalg.norm(np.gradient(place, axis=0), axis=1)  # metres
    stride = np.clip(step * fine / 1.1, 0.0, 1.0)
    phase = np.cumsum(step) / 1.36 * 2 * np.pi  # two steps are so many metres
    seconds = walk.start + np.arange(len(place)) / fine
    rows = np.column_stack([seconds, place, np.arctan2(face[:, 0], face[:, 1]), phase, stride])
    return rows[:: fine // FPS]


def crossings(x: float) -> tuple[int, int]:
    """How often somebody walks past `x`, metres, in the clip: (to the right, to the left)."""
    sides = [way(walk)[:, 1] > x for walk in WALKS]
    steps = [np.diff(side.astype(int)) for side in sides]
    return sum(int((step > 0).sum()) for step in steps), sum(int((step < 0).sum()) for step in steps)


def people_at(number: int) -> list[tuple[Look, Floats]]:
    """Who is in the shop in a frame: look, and (x, z, heading, phase, stride)."""
    ways = ((LOOKS[walk.look], number - round(walk.start * FPS), way(walk)) for walk in WALKS)
    return [(look, rows[i, 1:]) for look, i, rows in ways if 0 <= i < len(rows)]


def boxes(number: int) -> Floats:
    """(N, 4) x1, y1, x2, y2 in pixels of all people in a frame, those outside of it too."""
    found = [project(_place(look, place)[0]).reshape(-1, 3) for look, place in people_at(number)]
    return np.array([(*p[:, :2].min(0), *p[:, :2].max(0)) for p in found]).reshape(-1, 4)


def frames() -> Iterator[NDArray[np.uint8]]:
    """All of the clip."""
    empty, rng = shop(SCALE), np.random.default_rng(3)
    for number in range(int(SECONDS * FPS)):
        yield picture(empty, people_at(number), rng)


def main(target: Path) -> None:
    """Render and encode."""
    command = ["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "bgr24"]
    command += [
        "-s",
        f"{WIDTH}x{HEIGHT}",
        "-r",
        str(FPS),
        "-i",
        "-",
        "-c:v",
        "libx264",
        "-preset",
        "veryslow",
    ]
    command += [
        "-crf",
        "25",
        "-pix_fmt",
        "yuv420p",
        "-g",
        "75",
        "-movflags",
        "+faststart",
        "-fflags",
        "+bitexact",
    ]
    command += ["-flags:v", "+bitexact", str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as encoder:
        assert encoder.stdin is not None
        for frame in frames():
            encoder.stdin.write(frame.tobytes())
        encoder.stdin.close()
        if encoder.wait():
            sys.exit("ffmpeg failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

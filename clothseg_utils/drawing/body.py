"""A posed body: where its limbs, trunk and head are, and the outlines of what hangs on them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from clothseg_utils.drawing.canvas import Fabric, near_color, ribbon, smooth

SHOULDER_Y, ARMPIT_Y, WAIST_Y, HIP_Y, CROTCH_Y = 0.182, 0.25, 0.385, 0.455, 0.505
WRIST_T = 0.84  # along an arm, whose hand is its last part

_SKIN_TONES = np.array(
    [
        (250, 220, 196),
        (238, 196, 164),
        (222, 172, 134),
        (196, 142, 104),
        (160, 108, 76),
        (122, 80, 56),
        (88, 58, 44),
    ],
    dtype=np.float32,
)


class Limb:
    """An arm or a leg: a smooth line from its root (t = 0) to its end (t = 1)."""

    def __init__(self, joints: Sequence[np.ndarray], body_px: float) -> None:
        """Run the limb through joints, each (2,) x and y in pixels."""
        self._body_px = body_px
        self._points = smooth(joints)
        steps = np.linalg.norm(np.diff(self._points, axis=0), axis=1)
        length = np.concatenate([[0], np.cumsum(steps)])
        self._length_px = length[-1]
        self._t = length / length[-1]

    def at(self, t: ArrayLike) -> np.ndarray:
        """Return the point (or points) at t, (2,) or (n, 2); t may pass the ends a little."""
        t = np.asarray(t, dtype=np.float64)
        inside = np.clip(t, 0, 1)
        point = np.stack([np.interp(inside, self._t, v) for v in self._points.T], axis=-1)
        end = self._points[-1] - self._points[-3]
        end = end / max(np.linalg.norm(end), 1e-6)
        return point + (np.maximum(t - 1, 0) * self._length_px)[..., None] * end

    def angle(self, t0: float, t1: float) -> float:
        """Return how far the limb between t0 and t1 is turned from hanging down, radians."""
        dx, dy = self.at(t1) - self.at(t0)
        return float(np.arctan2(-dx, dy))

    def outline(self, t0: float, t1: float, *widths: float) -> np.ndarray:
        """Outline the limb from t0 to t1; widths, body heights, are spread evenly over that."""
        t, given = np.linspace(0, 1, 16), np.linspace(0, 1, len(widths))
        width_px = np.interp(t, given, np.multiply(widths, self._body_px))
        return ribbon(self.at(np.linspace(t0, t1, 16)), width_px)


class Body:
    """A posed body. Body coordinates: x from the spine, y from the crown; 1 is the body height."""

    def __init__(
        self,
        rng: np.random.Generator,
        centre_x: float,
        top_y: float,
        height_px: float,
        *,
        raise_arm: bool,
    ) -> None:
        """Pose a body, its crown at (centre_x, top_y), pixels; `raise_arm` is for an umbrella."""
        self.s = height_px
        self.centre_x, self.top_y = centre_x, top_y
        self.build = rng.uniform(1.0, 1.3)  # slim .. heavy
        self.waist = rng.uniform(0.066, 0.086)
        self.hip = rng.uniform(0.088, 0.104)
        self.shoulder = rng.uniform(0.102, 0.12)
        self.lean = rng.normal(0, 0.045)
        self.tilt = rng.normal(0, 0.09)  # of the head, radians
        self.head = self.at((0, 0)) + self.px(0.068) * np.array([np.sin(self.tilt), 1.0])
        skin = near_color(rng, _SKIN_TONES[rng.integers(len(_SKIN_TONES))], 5)
        self.skin = Fabric(skin, sheen=0.2)
        self.legs = self._pose_legs(rng)
        self.arms = self._pose_arms(rng, raise_arm)

    def at(self, points: ArrayLike, sign: int = 1) -> np.ndarray:
        """Map points of body coordinates to pixels, (..., 2); the trunk leans around the hips.

        With sign -1 they are mirrored at the spine.
        """
        x, y = np.moveaxis(np.asarray(points, dtype=np.float64), -1, 0)
        lean = self.lean * np.maximum(0.0, CROTCH_Y - y)
        column = self.centre_x + self.s * (sign * x * self.build + lean)
        return np.stack([column, self.top_y + self.s * y], axis=-1)

    def on_head(self, points: ArrayLike) -> np.ndarray:
        """Map head coordinates (face half width 1, down the face) to pixels, (..., 2)."""
        x, y = np.moveaxis(np.asarray(points, dtype=np.float64), -1, 0)
        c, s = np.cos(self.tilt), np.sin(self.tilt)
        return self.head + self.px(0.048) * np.stack([x * c - y * s, x * s + y * c], axis=-1)

    def px(self, length: float) -> float:
        """Turn a length in body heights into pixels."""
        return length * self.s

    def _pose_legs(self, rng: np.random.Generator) -> tuple[Limb, Limb]:
        pose = rng.choice(["straight", "apart", "walk", "contrapposto", "cross"])
        spread = {"straight": 0.03, "apart": 0.2, "walk": 0.1, "contrapposto": 0.1, "cross": -0.06}
        legs = []
        for side in (-1, 1):
            thigh = spread[pose] + rng.normal(0, 0.03)
            shin = thigh - rng.uniform(0, 0.06)
            length = 1.0
            if side == -1 and pose == "walk":  # this leg swings back: knee in, foot up and out
                thigh, shin, length = 0.02, 0.3, 0.94
            if side == 1 and pose == "contrapposto":
                thigh, shin = 0.2, -0.02
            hip = self.at((0.046, CROTCH_Y - 0.01), side)
            knee = hip + self.px(0.225 * length) * np.array([side * np.sin(thigh), np.cos(thigh)])
            ankle = knee + self.px(0.23 * length) * np.array([side * np.sin(shin), np.cos(shin)])
            legs.append(Limb([hip, knee, ankle], self.s))
        return legs[0], legs[1]

    def _pose_arms(self, rng: np.random.Generator, raise_arm: bool) -> tuple[Limb, Limb]:
        arms = []
        for side in (-1, 1):
            poses = ["hang", "out", "hip", "raised", "front"]
            pose = str(rng.choice(poses, p=[0.4, 0.2, 0.2, 0.06, 0.14]))
            if raise_arm and side == 1:
                pose = "raised"
            upper, lower = {  # angles from hanging down, outwards
                "hang": (rng.uniform(0.12, 0.28), rng.uniform(-0.02, 0.2)),
                "out": (rng.uniform(0.35, 0.7), rng.uniform(0.3, 0.8)),
                "hip": (rng.uniform(0.65, 0.85), rng.uniform(-0.95, -0.7)),
                "raised": (rng.uniform(0.5, 0.9), rng.uniform(2.5, 2.9)),
                "front": (rng.uniform(0.15, 0.3), rng.uniform(-1.6, -1.1)),
            }[pose]
            root = self.at((self.shoulder - 0.014, SHOULDER_Y + 0.012), side)
            joints = [root]
            for length, angle in ((0.165, upper), (0.145, lower), (0.06, lower * 0.9)):
                step = np.array([side * np.sin(angle), np.cos(angle)])
                joints.append(joints[-1] + self.px(length) * step)
            arms.append(Limb(joints, self.s))
        return arms[0], arms[1]

    def side(self, sign: int, ease: float, hem_y: float, hem_half: float = 0.0) -> np.ndarray:
        """Return a side seam from the shoulder down to `hem_y`, (n, 2) pixels.

        The cloth is looser than the body by `ease`, and `hem_half` wide at the hem, or as wide as
        the legs below it, all body heights; sign -1 is left in the picture, 1 right.
        """
        profile = [
            (self.shoulder + ease * 0.5, SHOULDER_Y - 0.004),
            (self.shoulder - 0.012 + ease, ARMPIT_Y),
            (self.waist + ease, WAIST_Y),
            (self.hip + ease, HIP_Y),
        ]
        above = self.at([(x, y) for x, y in profile if y < hem_y - 0.02], sign)
        return smooth([*above, self.hem_point(sign, ease, hem_y, hem_half)])

    def hem_point(self, sign: int, ease: float, hem_y: float, hem_half: float = 0.0) -> np.ndarray:
        """Return the end of a hem, (2,) pixels; cloth below the crotch hangs around the legs."""
        y = min(hem_y, HIP_Y)
        trunk = np.interp(y, (ARMPIT_Y, WAIST_Y, HIP_Y), (0.1, self.waist, self.hip))
        point = self.at((max(trunk + ease, hem_half), hem_y), sign)
        if hem_y > CROTCH_Y:
            t = np.clip((hem_y - CROTCH_Y) / 0.45, 0, 1)
            legs = max(sign * leg.at(t)[0] for leg in self.legs) + self.px(0.045) * self.build
            point[0] = sign * max(sign * point[0], legs + self.px(0.012))
        return point

    def trunk(
        self, ease: float, hem_y: float, neck_half: float, neck_depth: float, v_neck: bool = False
    ) -> np.ndarray:
        """Outline a closed garment of the trunk, (n, 2) pixels."""
        right, left = (self.side(sign, ease, hem_y) for sign in (1, -1))
        hem = self.hem_curve(right[-1], left[-1])
        neck = self.neckline(neck_half, neck_depth, v_neck)
        return np.concatenate([right, hem, left[::-1], neck])

    def hem_curve(self, start: np.ndarray, end: np.ndarray, sag: float = 0.014) -> np.ndarray:
        """Return a hem that sags a little between its ends, (n, 2) pixels."""
        middle = (start + end) / 2 + np.array([0, self.px(sag)])
        return smooth([start, middle, end])

    def waist_band(self, top_y: float, end_y: float, ease: float) -> np.ndarray:
        """Outline a belt or a band between two heights of the waist, (n, 2) pixels."""
        half = np.interp((top_y + end_y) / 2, (WAIST_Y, HIP_Y), (self.waist, self.hip)) + ease
        right = self.at([(half, top_y), (half + 0.003, end_y)])
        left = self.at([(-half - 0.003, end_y), (-half, top_y)])
        edges = (left[1], right[0]), (right[1], left[0])
        return np.concatenate([self.hem_curve(*ends, 0.006) for ends in edges])

    def neckline(self, half: float, depth: float, v_neck: bool) -> np.ndarray:
        """Return the edge of a neck opening from left to right, (n, 2) pixels."""
        y = 0.158
        if v_neck:
            return self.at([(-half, y), (0, y + depth), (half, y)])
        low = [(-half, y), (-half * 0.72, y + depth * 0.78), (0, y + depth)]
        return smooth(self.at([*low, (half * 0.72, y + depth * 0.78), (half, y)]))

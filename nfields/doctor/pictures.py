"""The pictures of doctor: cameras with the scene box, and what the hypotheses score."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D

from nfields.chart import COLORS, new_figure, short_number, tidy
from nfields.data.posed_views import cameras_of
from nfields.doctor.evidence import FIT_PIXELS
from nfields.doctor.examination import Examination
from nfields.render.cameras import Cameras, rays

_MAX_POINTS = 3000
_MAX_FRUSTA = 120
# Edges of a frustum: apex 0, corners 1 to 4.
_EDGES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1))
_BOX = [(i, j) for i in range(8) for j in range(i) if (i ^ j).bit_count() == 1]


@dataclass(frozen=True)
class _Scene:
    """What a row of panels shows, in our frame."""

    title: str
    frusta: Float[np.ndarray, "n 5 3"]
    ends: Float[np.ndarray, "n 3"]  # of the rays through the middles
    is_flagged: np.ndarray
    box: Float[np.ndarray, "8 3"] | None
    points: Float[np.ndarray, "m 3"]


def camera_picture(examination: Examination, flagged: set[int], title: str) -> Figure:
    """Frusta, the rays through their middles, the box, and points that the pictures share; a row
    for the cameras as said and, where all of them change, one for the mended ones.
    """
    patient, remedy = examination.evidence.patient, examination.remedy
    said = _scene(examination, patient.poses, None, flagged, "as said")
    rows = [said]
    if remedy.changes_poses or remedy.box is not None:
        rows.append(_scene(examination, remedy.poses(patient), remedy, flagged, "mended"))
    figure = new_figure(11.0, 3.9 * len(rows))
    grid = figure.add_gridspec(len(rows), 3, width_ratios=(1.25, 1, 1))
    for row, scene in enumerate(rows):
        solid = figure.add_subplot(grid[row, 0], projection="3d")
        assert isinstance(solid, Axes3D)
        _draw_solid(solid, scene, f"{title}; {scene.title}")
        for column, (x, y, caption) in enumerate(
            ((0, 1, "from above"), (0, 2, "from the side")), start=1
        ):
            axes = figure.add_subplot(grid[row, column])
            _draw_flat(axes, scene, x, y)
            tidy(axes, "xyz"[x], "xyz"[y], caption)
    return figure


def _scene(
    examination: Examination, poses: np.ndarray, remedy, flagged: set[int], title: str
) -> _Scene:
    patient = examination.evidence.patient
    mended = remedy is not None
    transform, aabb_scale = patient.transform, patient.aabb_scale
    if mended and remedy.box is not None:
        transform, aabb_scale = remedy.box
    plain = replace(transform, homography=None)
    shown = list(range(0, len(patient), -(-len(patient) // _MAX_FRUSTA)))
    shown = sorted({*shown, *flagged})
    views = [replace(patient.views[i], camera_to_world=poses[i]) for i in shown]
    cameras = cameras_of(views, plain)
    place = cameras.camera_to_world[:, :, 3].numpy()
    points = plain.to_ours(torch.from_numpy(examination.points)).numpy()
    center = np.median(points, axis=0) if len(points) else np.zeros(3)
    distance = float(np.median(np.linalg.norm(place - center, axis=1))) or 1.0
    frusta, ends = zip(
        *[_frustum(cameras, i, 0.12 * distance) for i in range(len(views))], strict=True
    )
    signs = np.array([[(k >> axis & 1) * 2 - 1 for axis in range(3)] for k in range(8)])
    step = -(-len(points) // _MAX_POINTS) if len(points) else 1
    return _Scene(
        title,
        np.stack(frusta),
        place + 8 * (np.stack(ends) - place),
        np.array([i in flagged for i in shown]),
        None if transform.homography is not None else aabb_scale * signs.astype(float),
        points[::step] if mended or not examination.remedy.changes_poses else points[:0],
    )


def _frustum(cameras: Cameras, view: int, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Apex and corners; and a point on the ray through the middle."""
    unit = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    pixels = unit * cameras.sizes[view]
    origins, directions = rays(cameras, torch.full((5,), view), pixels)
    corners = (origins + size * directions.nan_to_num()).numpy()
    return np.concatenate([origins[:1].numpy(), corners[:4]]), corners[4]


def _lines(scene: _Scene, is_flagged: bool, part: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges of frusta and rays through their middles, as polylines with NaN between: one artist
    each, where hundreds would take seconds to draw.
    """
    some = scene.is_flagged == is_flagged
    frusta, ends = scene.frusta[some], scene.ends[some]
    apex = frusta[:, 0]
    gap = np.full((len(frusta), 1, 3), np.nan)
    edges = [piece for i, j in _EDGES for piece in (frusta[:, [i]], frusta[:, [j]], gap)]
    sights = [apex[:, None], (apex + part * (ends - apex))[:, None], gap]
    return np.concatenate(edges, axis=1).reshape(-1, 3), np.concatenate(sights, axis=1).reshape(
        -1, 3
    )


def _window(scene: _Scene) -> tuple[np.ndarray, float]:
    """Middle and half side of a cube with the cameras, most points, and a box of like size."""
    place = scene.frusta[:, 0]
    some = [place]
    if len(scene.points):
        some.append(np.quantile(scene.points, [0.02, 0.98], axis=0))
    low, high = np.concatenate(some).min(axis=0), np.concatenate(some).max(axis=0)
    if scene.box is not None and np.abs(scene.box).max() < 4 * max((high - low).max(), 1e-9):
        low, high = np.minimum(low, scene.box.min(axis=0)), np.maximum(high, scene.box.max(axis=0))
    return 0.5 * (low + high), 0.55 * float((high - low).max()) or 1.0


def _draw_flat(axes: Axes, scene: _Scene, x: int, y: int) -> None:
    axes.plot(scene.points[:, x], scene.points[:, y], ",", color="0.6", alpha=0.5)
    if scene.box is not None:
        low, high = scene.box.min(axis=0), scene.box.max(axis=0)
        axes.plot(
            [low[x], high[x], high[x], low[x], low[x]],
            [low[y], low[y], high[y], high[y], low[y]],
            color="black", linewidth=1.4,
        )  # fmt: skip
    for is_bad in (False, True):
        color = COLORS[1] if is_bad else COLORS[0]
        lines, sights = _lines(scene, is_bad, 1.0)
        axes.plot(sights[:, x], sights[:, y], color=color, linewidth=0.4, alpha=0.35)
        axes.plot(lines[:, x], lines[:, y], color=color, linewidth=0.8)
    middle, half = _window(scene)
    axes.set_xlim(middle[x] - half, middle[x] + half)
    axes.set_ylim(middle[y] - half, middle[y] + half)
    axes.set_aspect("equal")


def _draw_solid(axes: Axes3D, scene: _Scene, caption: str) -> None:
    axes.set_proj_type("ortho")
    axes.plot(*scene.points.T, ",", color="0.6", alpha=0.5)
    middle, half = _window(scene)
    if scene.box is not None and np.abs(scene.box).max() < 4 * half:
        for i, j in _BOX:
            axes.plot(*scene.box[[i, j]].T, color="black", linewidth=1.0)
    for is_bad in (False, True):
        color = COLORS[1] if is_bad else COLORS[0]
        lines, sights = _lines(scene, is_bad, 0.4)
        axes.plot(*sights.T, color=color, linewidth=0.4, alpha=0.35)
        axes.plot(*lines.T, color=color, linewidth=0.8)
    limits = np.stack([middle - half, middle + half], axis=1)
    axes.set(xlim=tuple(limits[0]), ylim=tuple(limits[1]), zlim=tuple(limits[2]))
    axes.set_box_aspect((1, 1, 1))
    axes.view_init(elev=22, azim=-55)
    axes.tick_params(labelsize=6)
    axes.set_title(caption, loc="left", fontsize=8, color="0.35")


def score_picture(examination: Examination, title: str) -> Figure:
    """How the readings of the poses, factors on the focal length, and single views score."""
    figure = new_figure(11.0, 3.6)
    left, middle, right = figure.subplots(1, 3)
    readings = examination.readings[:8]
    for i, reading in enumerate(readings):
        color = COLORS[2] if reading.name == "as said" else COLORS[1] if i == 0 else "0.75"
        left.barh(-i, reading.score, color=color)
        left.annotate(reading.name, (0.01, -i), va="center", fontsize=6.5)
    left.set_xlim(0, 1)
    left.set_yticks([])
    tidy(
        left, f"part of matches within {FIT_PIXELS:g} pixels", "", f"{title}; readings of the poses"
    )
    if examination.scan is not None:
        scan = examination.scan
        middle.semilogx(scan.factors, scan.costs, color=COLORS[0])
        middle.axvline(1, color=COLORS[2], linewidth=1)
        middle.axvline(scan.best, color=COLORS[1], linewidth=1, linestyle=(0, (4, 2)))
        ticks = (0.4, 0.5, 0.7, 1, 1.4, 2, 2.5)
        middle.set_xticks(ticks, [short_number(tick) for tick in ticks])
        middle.minorticks_off()
    tidy(
        middle, "factor on focal lengths", "robust distance of rays", "green: as said; dashed: best"
    )
    scores = sorted(examination.scores.items(), key=lambda item: item[1])
    if scores:
        values = [score for _, score in scores]
        dropped = [view in examination.remedy.dropped for view, _ in scores]
        right.scatter(
            range(len(values)), values, s=9, color=[COLORS[1] if d else COLORS[0] for d in dropped]
        )
    right.set_ylim(0, 1.02)
    tidy(
        right,
        "views, the worst first",
        "part of matches that fits",
        "mended cameras; orange: left out",
    )
    return figure

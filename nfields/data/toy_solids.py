"""Kernels of the generated scene: its solids, and where rays meet them.

A solid is a row of `SOLIDS`: shape, material, place, rotation, sizes. The scene is their union, in
our frame (z up, inside [-1, 1]^3). All arithmetic is float64; a ray meets a solid where its own
distance is below 1e-9, so depths are exact to the float32 they are stored in.
Distances of single shapes: https://iquilezles.org/articles/distfunctions.
"""

import math


import numpy as np

from nfields.jit import njit

SPHERE, BOX, TORUS, CYLINDER, CONE, OCTAHEDRON, CAPSULE = range(7)
WOOD, MARBLE, BARBER, ROOF, CHECKER, GOLD, STRIPES, LEAF, GEM, BANDS, CANDY = range(11)

_MAX_STEPS = 256
_TOLERANCE = 1e-9
_SECANT_BELOW = 0.02


def _solid(
    shape: int,
    material: int,
    place: tuple[float, float, float],
    sizes: tuple[float, ...],
    *,
    rounding: float = 0.0,
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> list[float]:
    """A row of SOLIDS; turn = angles (rad) about x, y and z, applied in this order.

    Columns: 0 shape, 1 material, 2:5 place, 5:14 world to local, 14:17 sizes, 17 rounding,
    18 radius of the sphere around it, 19:22 half sides of the box around it in its own frame.
    """
    (sx, sy, sz), (cx, cy, cz) = np.sin(turn), np.cos(turn)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    to_local = (about_z @ about_y @ about_x).T
    a, b, c = (*sizes, 0.0, 0.0)[:3]
    # The cone and the octahedron grow by the rounding, the others keep their size.
    half = {
        SPHERE: (a, a, a),
        BOX: (a, b, c),
        TORUS: (a + b, a + b, b),
        CYLINDER: (a, a, b),
        CONE: (max(a, b) + rounding, max(a, b) + rounding, c + rounding),
        OCTAHEDRON: (a + rounding, a + rounding, a + rounding),
        CAPSULE: (a + b, b, b),
    }[shape]
    radius = {
        SPHERE: a,
        TORUS: a + b,
        CYLINDER: math.hypot(a, b),
        OCTAHEDRON: a + rounding,
        CAPSULE: a + b,
    }.get(shape, math.hypot(*half))
    return [shape, material, *place, *to_local.ravel(), a, b, c, rounding, radius, *half]


def _still_life() -> np.ndarray:
    top = -0.45  # of the wooden plate that everything stands on
    flat_face = math.atan(math.sqrt(2.0))  # turns a face of the octahedron down
    return np.array(
        [
            _solid(CYLINDER, WOOD, (0, 0, top - 0.05), (0.86, 0.05), rounding=0.02),
            _solid(SPHERE, MARBLE, (0.08, 0.24, top + 0.29), (0.29,), turn=(0.4, 0.3, 0.0)),
            _solid(CYLINDER, BARBER, (-0.44, 0.36, top + 0.3), (0.13, 0.3), rounding=0.015),
            _solid(CONE, ROOF, (-0.44, 0.36, top + 0.76), (0.19, 0.01, 0.145), rounding=0.015),
            _solid(
                BOX, CHECKER, (0.52, -0.04, top + 0.18), (0.18, 0.18, 0.18),
                rounding=0.025, turn=(0, 0, 0.45),
            ),
            _solid(SPHERE, GOLD, (0.52, -0.04, top + 0.465), (0.105,)),
            _solid(TORUS, STRIPES, (-0.44, -0.26, top + 0.075), (0.22, 0.075)),
            _solid(SPHERE, LEAF, (-0.44, -0.26, top + 0.13), (0.13,), turn=(0.7, 0.0, 0.3)),
            _solid(
                OCTAHEDRON, GEM, (0.06, -0.36, top + 0.2 / math.sqrt(3) + 0.01), (0.2,),
                rounding=0.01, turn=(math.pi / 4, flat_face - math.pi / 2, 0.5),
            ),
            _solid(CAPSULE, BANDS, (0.38, -0.52, top + 0.075), (0.13, 0.075), turn=(0, 0, -0.6)),
            _solid(SPHERE, CANDY, (-0.08, -0.66, top + 0.06), (0.06,)),
            _solid(SPHERE, CANDY, (-0.69, 0.10, top + 0.07), (0.07,), turn=(0.5, 0.9, 0.0)),
        ],
        dtype=np.float64,
    )  # fmt: skip


SOLIDS = _still_life()


@njit(cache=True, nogil=True, error_model="numpy")
def shape_distance(solid: np.ndarray, x: float, y: float, z: float) -> float:
    """Signed distance of a solid at a point of its own frame."""
    shape, a, b, c, rounding = solid[0], solid[14], solid[15], solid[16], solid[17]
    if shape == SPHERE:
        return math.sqrt(x * x + y * y + z * z) - a
    if shape == BOX:
        qx, qy, qz = abs(x) - a + rounding, abs(y) - b + rounding, abs(z) - c + rounding
        outside = math.sqrt(max(qx, 0.0) ** 2 + max(qy, 0.0) ** 2 + max(qz, 0.0) ** 2)
        return outside + min(max(qx, qy, qz), 0.0) - rounding
    if shape == TORUS:
        q = math.sqrt(x * x + y * y) - a
        return math.sqrt(q * q + z * z) - b
    if shape == CYLINDER:
        qx, qz = math.sqrt(x * x + y * y) - a + rounding, abs(z) - b + rounding
        outside = math.sqrt(max(qx, 0.0) ** 2 + max(qz, 0.0) ** 2)
        return outside + min(max(qx, qz), 0.0) - rounding
    if shape == CONE:  # radius a below, b above, half height c
        q = math.sqrt(x * x + y * y)
        cap_x, cap_z = q - min(q, a if z < 0.0 else b), abs(z) - c
        along_x, along_z = b - a, 2.0 * c
        t = ((b - q) * along_x + (c - z) * along_z) / (along_x * along_x + along_z * along_z)
        t = min(max(t, 0.0), 1.0)
        side_x, side_z = q - b + along_x * t, z - c + along_z * t
        square = min(cap_x * cap_x + cap_z * cap_z, side_x * side_x + side_z * side_z)
        sign = -1.0 if side_x < 0.0 and cap_z < 0.0 else 1.0
        return sign * math.sqrt(square) - rounding
    if shape == OCTAHEDRON:  # |x| + |y| + |z| <= a
        x, y, z = abs(x), abs(y), abs(z)
        m = x + y + z - a
        if 3.0 * x < m:
            qx, qy, qz = x, y, z
        elif 3.0 * y < m:
            qx, qy, qz = y, z, x
        elif 3.0 * z < m:
            qx, qy, qz = z, x, y
        else:
            return m * 0.5773502691896258 - rounding
        k = min(max(0.5 * (qz - qy + a), 0.0), a)
        return math.sqrt(qx * qx + (qy - a + k) ** 2 + (qz - k) ** 2) - rounding
    x -= min(max(x, -a), a)  # capsule along x
    return math.sqrt(x * x + y * y + z * z) - b


@njit(cache=True, nogil=True, error_model="numpy")
def rotate(solid: np.ndarray, x: float, y: float, z: float) -> tuple[float, float, float]:
    """A direction of our frame in the frame of a solid."""
    return (
        solid[5] * x + solid[6] * y + solid[7] * z,
        solid[8] * x + solid[9] * y + solid[10] * z,
        solid[11] * x + solid[12] * y + solid[13] * z,
    )


@njit(cache=True, nogil=True, error_model="numpy")
def clip(x: float, dx: float, half: float, t: float, end: float) -> tuple[float, float]:
    """The part of a ray's [t, end] where |x + t dx| <= half; empty (t > end) if there is none."""
    if abs(dx) < 1e-12:
        return (t, end) if abs(x) <= half else (np.inf, -np.inf)
    first, second = (-half - x) / dx, (half - x) / dx
    return max(t, min(first, second)), min(end, max(first, second))


@njit(cache=True, nogil=True, error_model="numpy")
def to_local(solid: np.ndarray, x: float, y: float, z: float) -> tuple[float, float, float]:
    """A point of our frame in the frame of a solid."""
    return rotate(solid, x - solid[2], y - solid[3], z - solid[4])


@njit(cache=True, nogil=True, error_model="numpy")
def solid_distance(solid: np.ndarray, x: float, y: float, z: float) -> float:
    """Signed distance of a solid at a point of our frame."""
    x, y, z = to_local(solid, x, y, z)
    return shape_distance(solid, x, y, z)


@njit(cache=True, nogil=True, error_model="numpy")
def union_distance(solids: np.ndarray, x: float, y: float, z: float, limit: float) -> float:
    """Signed distance of the scene, or the limit if that is less (which is then found faster);
    exact outside, inside a lower bound of the depth.
    """
    nearest = limit
    for i in range(len(solids)):
        solid = solids[i]
        away = math.sqrt((x - solid[2]) ** 2 + (y - solid[3]) ** 2 + (z - solid[4]) ** 2)
        if away - solid[18] < nearest:
            nearest = min(nearest, solid_distance(solid, x, y, z))
    return nearest


@njit(cache=True, nogil=True, error_model="numpy")
def solid_normal(solid: np.ndarray, x: float, y: float, z: float) -> tuple[float, float, float]:
    """Outward unit normal of a solid: central differences of its distance, good to 1e-9."""
    h = 1e-5
    nx = solid_distance(solid, x + h, y, z) - solid_distance(solid, x - h, y, z)
    ny = solid_distance(solid, x, y + h, z) - solid_distance(solid, x, y - h, z)
    nz = solid_distance(solid, x, y, z + h) - solid_distance(solid, x, y, z - h)
    length = math.sqrt(nx * nx + ny * ny + nz * nz)
    return nx / length, ny / length, nz / length


@njit(cache=True, nogil=True, error_model="numpy")
def trace(
    solids: np.ndarray,
    ox: float,
    oy: float,
    oz: float,
    dx: float,
    dy: float,
    dz: float,
    any_hit: bool,
) -> tuple[float, int]:
    """Distance along a ray to the nearest solid and its row; (inf, -1) if it misses all.

    Every solid is traced on its own, inside the sphere and the box around it: the nearest of the
    hits is the hit of the union, most rays pass most solids without a step, and flat faces are met
    in the first. With any_hit the first solid found ends the search (shadows).
    """
    nearest, row = np.inf, -1
    for i in range(len(solids)):
        solid = solids[i]
        px, py, pz = ox - solid[2], oy - solid[3], oz - solid[4]
        b = px * dx + py * dy + pz * dz
        reach = b * b - (px * px + py * py + pz * pz) + solid[18] * solid[18]
        if reach <= 0.0:
            continue
        reach = math.sqrt(reach)
        t, end = max(-b - reach, 0.0), min(-b + reach, nearest)
        if t >= end:
            continue
        # Positions along the ray in the frame of the solid, where they cost least.
        lx, ly, lz = rotate(solid, px, py, pz)
        mx, my, mz = rotate(solid, dx, dy, dz)
        t, end = clip(lx, mx, solid[19], t, end)
        t, end = clip(ly, my, solid[20], t, end)
        t, end = clip(lz, mz, solid[21], t, end)
        last, step = np.inf, 0.0
        for n in range(_MAX_STEPS):
            if t >= end:
                break
            distance = shape_distance(solid, lx + t * mx, ly + t * my, lz + t * mz)
            if abs(distance) < _TOLERANCE or (n == 0 and distance < 0.0):
                nearest, row = t, i
                break
            # Near the surface the secant through the last two distances: steps of the distance
            # alone would need hundreds for a ray that grazes. Solids are convex but for the torus,
            # so this ends before the surface, or, seldom, behind it and steps back.
            slope = (last - distance) / step if n > 0 else 0.0
            step = distance
            if slope > 0.0 and distance < _SECANT_BELOW:
                step = max(min(distance / slope, _SECANT_BELOW), -_SECANT_BELOW)
            last = distance
            t += step
        if any_hit and row >= 0:
            break
    return nearest, row


@njit(cache=True, nogil=True, error_model="numpy")
def fill_distances(solids: np.ndarray, points: np.ndarray, out: np.ndarray) -> None:
    """Signed distances of points (n, 3)."""
    for i in range(len(points)):
        out[i] = union_distance(solids, points[i, 0], points[i, 1], points[i, 2], np.inf)


@njit(cache=True, nogil=True, error_model="numpy")
def fill_normals(solids: np.ndarray, points: np.ndarray, out: np.ndarray) -> None:
    """Outward unit normals of the solid whose surface is nearest to each of the points (n, 3)."""
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        best, row = np.inf, 0
        for k in range(len(solids)):
            distance = solid_distance(solids[k], x, y, z)
            if distance < best:
                best, row = distance, k
        out[i, 0], out[i, 1], out[i, 2] = solid_normal(solids[row], x, y, z)

"""Camera files that name a size which some pictures do not have: what training refuses to read."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nfields.data.camera_file import (
    clean_name,
    find_image,
    read_frames,
    read_intrinsics,
    read_json,
    read_number,
)
from nfields.data.image_reader import read_header
from nfields.doctor.finding import Finding, named
from nfields.errors import DataError


@dataclass(frozen=True)
class Resized:
    """A camera file whose frames have intrinsics of their pictures' own sizes."""

    file: Path
    meta: dict[str, Any]
    finding: Finding


def check_said_sizes(path: Path, *, allow_outside: bool) -> Resized | None:
    """A finding if pictures of a transforms.json are not of the size w, h that it says.

    None if all are, and for other formats.
    """
    file = path / "transforms.json" if path.is_dir() else path
    if not file.is_file() or file.suffix != ".json":
        return None
    meta = read_json(file)
    frames, odd = [], []
    for i, frame in enumerate(read_frames(file, meta)):
        where = f"{file}: frames[{i}] ({frame['file_path']})"
        picture = find_image(file.parent, frame["file_path"], allow_outside, where)
        said = [read_number(frame if k in frame else meta, k, where, above=0.0) for k in ("w", "h")]
        frames.append(frame)
        if picture is None or said[0] is None or said[1] is None:
            continue
        header = read_header(picture)
        if (header.width, header.height) == (said[0], said[1]):
            continue
        odd.append((clean_name(frame["file_path"]), f"{header.width} x {header.height}"))
        as_said = replace(header, width=int(said[0]), height=int(said[1]))
        focal, center = read_intrinsics(frame, meta, as_said, where)
        factors = (header.width / said[0], header.height / said[1])
        frames[-1] = {
            **frame,
            "w": header.width,
            "h": header.height,
            "fl_x": focal[0] * factors[0],
            "fl_y": focal[1] * factors[1],
            "cx": center[0] * factors[0],
            "cy": center[1] * factors[1],
        }
    if not odd:
        return None
    names = [name for name, _ in odd]
    found = sorted({size for _, size in odd})
    finding = Finding(
        "mixed_sizes",
        "error",
        f"{len(odd)} of {len(frames)} pictures are not of the size that {file.name} says (w, h): "
        f"{named(names)} ({', '.join(found[:4])}); training refuses them",
        "the mended file has the size, focal length and principal point of each such picture, "
        "as if it was made smaller or larger as a whole (not cropped)",
        names,
        {"wrong": len(odd), "sizes": found},
    )
    return Resized(file, {**meta, "frames": frames}, finding)


def problem(error: DataError) -> Finding:
    """What a reader refuses to read, as a finding."""
    what, _, fix = str(error).partition("; ")
    return Finding("unreadable", "error", what, fix or "see the message")

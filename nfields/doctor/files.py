"""Checks of files: which pictures are listed and there, and their sizes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nfields.data.image_folders import list_pictures
from nfields.data.pixel_file import DepthFile
from nfields.doctor.finding import Finding, named
from nfields.doctor.patient import Patient

# Renderers put maps of depth, normals and the like beside the pictures.
_MAPS = ("depth", "normal", "mask", "albedo", "alpha", "disp", "semantic")


def check_missing(patient: Patient) -> list[Finding]:
    """A finding if cameras name pictures that are not there."""
    if not patient.missing:
        return []
    total = len(patient) + len(patient.missing)
    return [
        Finding(
            "missing_images",
            "warning",
            f"{len(patient.missing)} of {total} cameras have no picture: "
            f"{named(patient.missing)}; training leaves them out",
            "copy the pictures into the data set if they exist, or take these frames out",
            patient.missing,
            {"missing": len(patient.missing), "frames": total},
        )
    ]


def check_unlisted(patient: Patient) -> list[Finding]:
    """A finding if pictures beside those that are used have no camera."""
    if patient.path is None:
        return []
    used = {view.header.path.resolve() for view in patient.views}
    used |= {v.mask.path.resolve() for v in patient.views if v.mask is not None}
    used |= {v.depth.path.resolve() for v in patient.views if isinstance(v.depth, DepthFile)}
    stems = {path.stem for path in used}
    folders = sorted({view.header.path.parent for view in patient.views})
    spare = [
        str(file)
        for folder in folders
        for file in list_pictures(folder)
        if file.parent == folder and file.resolve() not in used and not _is_map(file, stems)
    ]
    if not spare:
        return []
    root = Path(patient.path if patient.path.is_dir() else patient.path.parent)
    names = [
        Path(name).relative_to(root).as_posix() if Path(name).is_relative_to(root) else name
        for name in spare
    ]
    return [
        Finding(
            "unlisted_images",
            "warning",
            f"{len(names)} pictures beside the {len(patient)} that are used have no camera: "
            f"{named(names)}; they are not trained on",
            "add their cameras, or take the files away if they are not meant to be used",
            names,
            {"unlisted": len(names), "used": len(patient)},
        )
    ]


def _is_map(file: Path, stems: set[str]) -> bool:
    """True for r_0_depth_0001.png beside r_0.png, and dynamic_mask_r_0.png."""
    name = file.stem.lower()
    belongs = any(stem != file.stem and stem in file.stem for stem in _parts(file.stem) & stems)
    return belongs and any(word in name for word in _MAPS)


def _parts(stem: str) -> set[str]:
    words = stem.split("_")
    num = len(words)
    return {"_".join(words[i:j]) for i in range(num) for j in range(i + 1, num + 1)}


def check_sizes(patient: Patient, reported: Sequence[Finding]) -> list[Finding]:
    """A finding if pictures have several sizes and no error was found about them."""
    sizes = Counter((view.header.width, view.header.height) for view in patient.views)
    if len(sizes) < 2 or any(finding.code == "mixed_sizes" for finding in reported):
        return []
    (width, height), num = sizes.most_common(1)[0]
    odd = [
        view.name
        for view in patient.views
        if (view.header.width, view.header.height) != (width, height)
    ]
    return [
        Finding(
            "mixed_sizes",
            "warning",
            f"{len(odd)} of {len(patient)} pictures are not {width} x {height} pixels: "
            f"{named(odd)} ({', '.join(f'{w} x {h}' for w, h in list(sizes)[:4])})",
            "fine if each camera was computed for its picture's own size; nfields trains on "
            "pictures of any sizes, many other programs do not",
            odd,
            {"sizes": {f"{w}x{h}": count for (w, h), count in sizes.items()}, "most": num},
        )
    ]

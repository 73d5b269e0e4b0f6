"""The pictures of a capture: photographs taken over from a folder, or sharp frames of a video."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from nfields.data.image_folders import list_pictures
from nfields.data.image_reader import open_image
from nfields.errors import DataError

# The tag of EXIF that says how a photograph is to be turned; 1: not at all.
_ORIENTATION = 0x0112
_JPEG_QUALITY = 95
# Sharpness is measured on about so many pixels: noise of large pictures would count as detail.
_SHARPNESS_PIXELS = 200_000


def take_photographs(source: Path, folder: Path, say: Callable[[str], None]) -> int:
    """Puts the photographs of a folder into another, turned as their cameras say; their number.

    Files are linked where that is possible, copied otherwise; the source stays as it is. What is no
    picture is left out, with a sentence.
    """
    files = list_pictures(source)
    if not files:
        raise DataError(f"{source} holds no pictures (.jpg, .png, .webp, .tif, .bmp).")
    taken, broken = 0, []
    for file in files:
        target = folder / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # of an interrupted run
        try:
            with open_image(file) as image:
                is_turned = image.getexif().get(_ORIENTATION, 1) != 1
                if is_turned:
                    turned = ImageOps.exif_transpose(image)
                    turned.save(target, quality=_JPEG_QUALITY, exif=turned.getexif())
        except (DataError, OSError) as error:
            broken.append(f"{file.name}: {error}")
            continue
        if not is_turned:
            _link(file, target)
        taken += 1
    if broken:
        say(f"{len(broken)} of {len(files)} files cannot be read and are left out ({broken[0]})")
    return taken


def take_frames(video: Path, folder: Path, num_frames: int) -> int:
    """Writes the sharpest frame of each of num_frames equal stretches of a video; their number.

    The video is decoded twice, small to choose and whole to write, one frame in memory at a time.
    """
    scores = np.array([sharpness(frame) for frame in read_frames(video, _SHARPNESS_PIXELS)])
    stretches = np.array_split(np.arange(len(scores)), min(num_frames, len(scores)))
    chosen = {int(stretch[np.argmax(scores[stretch])]) for stretch in stretches}
    for index, frame in enumerate(read_frames(video, None)):
        if index in chosen:
            file = folder / f"frame_{index:06d}.jpg"
            Image.fromarray(frame).save(file, quality=_JPEG_QUALITY)
    return len(chosen)


def read_frames(video: Path, num_pixels: int | None) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The frames of a video, of about num_pixels if they have more; an error if there are none."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-i", str(video)]
    if num_pixels is not None:
        command += ["-vf", f"scale=w='iw*min(1,sqrt({num_pixels}/(iw*ih)))':h=-1"]
    command += ["-fps_mode", "passthrough", "-an", "-f", "image2pipe", "-c:v", "ppm", "-"]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        num = 0
        try:
            while process.stdout.readline() == b"P6\n":
                width, height = map(int, process.stdout.readline().split())
                process.stdout.readline()  # the largest value, 255
                data = process.stdout.read(3 * width * height)
                if len(data) < 3 * width * height:
                    break
                num += 1
                yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
        finally:
            process.kill()  # where the reader has seen enough
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
    if num == 0:
        raise DataError(
            f"{video} has no frames ({lines[-1].strip() if lines else 'nothing was decoded'}); "
            "give a video that ffmpeg knows (.mp4, .mov, .mkv, .webm, ...) or a folder of pictures."
        )


def sharpness(picture: UInt8[np.ndarray, "h w 3"]) -> float:
    """The variance of the Laplacian of a picture's brightness: blur takes it away."""
    step = max(1, round((picture.shape[0] * picture.shape[1] / _SHARPNESS_PIXELS) ** 0.5))
    height, width = (size // step * step for size in picture.shape[:2])
    grey: Float[np.ndarray, "h w"] = picture[:height, :width].mean(axis=2)
    grey = grey.reshape(height // step, step, width // step, step).mean(axis=(1, 3))
    if min(grey.shape) < 3:
        return 0.0
    laplacian = (
        4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    )
    return float(laplacian.var())


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file.resolve(), target)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(file, target)

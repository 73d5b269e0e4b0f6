"""Frames to a video file by ffmpeg, which imageio-ffmpeg brings along; without it, to a gif."""

import secrets
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import imageio_ffmpeg
from PIL import Image

from nfields.errors import DataError

# H.264 in the one pixel format that every player has; the colour matrix is written into the file,
# since players guess it from the size otherwise. 18 is the usual visually lossless quality.
MP4_OPTIONS = (
    "-vf scale=out_color_matrix=bt709:out_range=tv -pix_fmt yuv420p -c:v libx264 -preset medium "
    "-crf 18 -colorspace bt709 -color_primaries bt709 -color_trc iec61966-2-1 -color_range tv "
    "-movflags +faststart -f mp4"
).split()

# One palette for all frames, so that still parts do not flicker.
GIF_OPTIONS = "-vf split[a][b];[a]palettegen[p];[b][p]paletteuse -f gif".split()


def encode(
    frames: Path, num_frames: int, file: Path, fps: int | float, announce: Callable[[str], None]
) -> Path:
    """The video of frames/00001.png and the following num_frames - 1, all of one even size.

    Written under another name and renamed, so `file` is whole at any time. Without ffmpeg an mp4
    becomes a gif of the same name, and `announce` says so. Returns the file written.
    """
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        if file.suffix.lower() != ".gif":
            announce("ffmpeg is not to be found, so this becomes a gif; pip install imageio-ffmpeg")
        file = file.with_suffix(".gif")
        return _replace(file, lambda new: _gif(frames, num_frames, new, fps))
    options = GIF_OPTIONS if file.suffix.lower() == ".gif" else MP4_OPTIONS
    return _replace(file, lambda new: _ffmpeg(program, options, frames, num_frames, new, fps))


def _ffmpeg(
    program: str,
    options: Sequence[str],
    frames: Path,
    num_frames: int,
    file: Path,
    fps: int | float,
) -> None:
    # Started in the folder of the frames: a % in its name would be read as part of the pattern.
    command = [program, "-y", "-nostdin", "-xerror", "-loglevel", "error", "-framerate", f"{fps:g}"]
    command += ["-start_number", "1", "-i", "%05d.png", "-frames:v", str(num_frames)]
    command += [*options, str(file.resolve())]
    done = subprocess.run(command, cwd=frames, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise DataError(
            f"the video cannot be encoded: {reason}; its frames are kept in {frames}, and the same "
            "command tries again"
        )


def _gif(frames: Path, num_frames: int, file: Path, fps: int | float) -> None:
    pictures = (_palette(frames / f"{i + 1:05d}.png") for i in range(num_frames))
    # Times are in hundredths of a second, and viewers slow down below two of them.
    milliseconds = max(20, 10 * round(100 / fps))
    first = next(pictures)
    first.save(
        file,
        format="GIF",
        save_all=True,
        append_images=pictures,
        duration=milliseconds,
        loop=0,
        disposal=1,
    )


def _palette(file: Path) -> Image.Image:
    with Image.open(file) as frame:
        return frame.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE)


def _replace(file: Path, write: Callable[[Path], None]) -> Path:
    temporary = file.with_name(f".{secrets.token_hex(4)}.{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(file)
    except OSError as error:
        raise DataError(f"{file} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return file

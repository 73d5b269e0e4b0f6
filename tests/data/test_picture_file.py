"""Pictures of every kind come back as they were written; damaged ones are named, never a crash."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import OpenImageIO as oiio
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from nfields.data.picture_file import read_picture
from nfields.errors import DataError
from tests.data.test_image_reader import png_of_16_bits

RANDOM = np.random.default_rng(0)
SIDES = st.integers(1, 9)


def shapes(*channels: int) -> Any:
    return st.tuples(SIDES, SIDES, st.sampled_from(channels))


def written(path: Path, pixels: np.ndarray, **attributes: Any) -> Path:
    """A file by OpenImageIO, which writes what Pillow cannot."""
    height, width, num_channels = pixels.shape
    kind = {"float16": "half", "float32": "float"}.get(str(pixels.dtype), str(pixels.dtype))
    spec = oiio.ImageSpec(width, height, num_channels, kind)
    for name, value in attributes.items():
        spec.attribute(name.replace("_", ":", 1) if name.startswith("oiio") else name, value)
    output: Any = oiio.ImageOutput.create(str(path))
    assert output.open(str(path), spec) and output.write_image(pixels) and output.close()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@given(hnp.arrays(np.uint8, shapes(1, 3, 4)), st.sampled_from(["png", "tif", "webp", "tga"]))
@settings(max_examples=60, deadline=None)
def test_eight_bit_pictures_come_back(folder: Path, pixels: np.ndarray, suffix: str) -> None:
    if suffix == "webp" and pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    path = folder / f"a.{suffix}"
    options: dict[str, Any] = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(path, **options)
    found = read_picture(path).codes
    if suffix == "webp" and pixels.shape[2] == 4 and (pixels[..., 3] == 255).all():
        pixels = pixels[..., :3]  # WebP drops an alpha that says nothing
    np.testing.assert_array_equal(found, pixels)
    assert found.dtype == np.uint8


@given(hnp.arrays(np.uint16, shapes(3, 4)))
@settings(max_examples=60, deadline=None)
def test_sixteen_bit_colour_png_keeps_every_bit(folder: Path, pixels: np.ndarray) -> None:
    path = folder / "b.png"
    path.write_bytes(png_of_16_bits(pixels))
    picture = read_picture(path)
    np.testing.assert_array_equal(picture.codes, pixels)
    assert not picture.is_linear and picture.notes == []


@given(hnp.arrays(np.uint16, shapes(1, 3, 4)), st.sampled_from(["zlib", None]))
@settings(max_examples=40, deadline=None)
def test_sixteen_bit_tiff_keeps_every_bit(
    folder: Path, pixels: np.ndarray, compression: str | None
) -> None:
    path = folder / "c.tif"
    kind = "minisblack" if pixels.shape[2] == 1 else "rgb"
    extra = ["unassalpha"] if pixels.shape[2] == 4 else None
    tifffile.imwrite(path, pixels, photometric=kind, extrasamples=extra, compression=compression)
    np.testing.assert_array_equal(read_picture(path).codes, pixels)


def test_sixteen_bit_grey_png_keeps_every_bit(folder: Path) -> None:
    deep = (np.arange(35, dtype=np.uint16) * 1801).reshape(5, 7)
    Image.fromarray(deep).save(folder / "grey.png")
    np.testing.assert_array_equal(read_picture(folder / "grey.png").codes[..., 0], deep)


@given(
    hnp.arrays(np.float32, shapes(1, 3, 4), elements=st.floats(-100, 100, width=16)),
    st.sampled_from([np.float16, np.float32]),
)
@settings(max_examples=60, deadline=None)
def test_exr_comes_back_as_light(folder: Path, pixels: np.ndarray, dtype: Any) -> None:
    if pixels.shape[2] == 4:
        pixels[..., 3] = 1
    path = written(folder / "d.exr", pixels.astype(dtype), compression="zip")
    picture = read_picture(path)
    np.testing.assert_array_equal(picture.codes.astype(np.float32), pixels)
    assert picture.is_linear and picture.codes.dtype == dtype


def test_alpha_of_an_exr_is_taken_out_of_its_colours(folder: Path) -> None:
    pixels = np.array([[[0.5, 0.25, 0, 0.5], [0.2, 0.1, 0.3, 0.0]]], np.float32)
    found = read_picture(written(folder / "e.exr", pixels)).codes
    expected = np.array([[[1, 0.5, 0, 0.5], [0.2, 0.1, 0.3, 0]]], np.float32)
    np.testing.assert_array_equal(found, expected)


def test_radiance_hdr_and_float_tiff_are_light(folder: Path) -> None:
    pixels = RANDOM.random((5, 7, 3), np.float32) * 4
    found = read_picture(written(folder / "f.hdr", pixels))
    np.testing.assert_allclose(found.codes, pixels, atol=4 / 256)
    tifffile.imwrite(folder / "f.tif", pixels, photometric="rgb")
    np.testing.assert_array_equal(read_picture(folder / "f.tif").codes, pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_pictures_are_turned_as_pillow_turns_shallow_ones(
    folder: Path, orientation: int
) -> None:
    pixels = RANDOM.integers(0, 256, (3, 5, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(folder / "g.png", exif=exif)
    expected = read_picture(folder / "g.png").codes
    deep = written(folder / "g.tif", pixels.astype(np.uint16), Orientation=orientation)
    np.testing.assert_array_equal(read_picture(deep).codes, expected)


def test_first_of_several_pictures_is_used_with_a_note(folder: Path) -> None:
    frames = [Image.new("RGB", (4, 3), color) for color in ("red", "blue")]
    frames[0].save(folder / "h.gif", save_all=True, append_images=frames[1:])
    picture = read_picture(folder / "h.gif")
    assert picture.codes[0, 0].tolist() == [255, 0, 0]
    assert picture.notes == ["h.gif has 2 pictures: the first is used"]
    deep = RANDOM.integers(0, 65536, (2, 5, 7, 3), dtype=np.uint16)
    tifffile.imwrite(folder / "h.tif", deep, photometric="rgb")
    picture = read_picture(folder / "h.tif")
    np.testing.assert_array_equal(picture.codes, deep[0])
    assert "several pictures" in picture.notes[0]


def test_what_only_imageio_reads_is_read(folder: Path) -> None:
    pixels = RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.savez(folder / "i.npz", pixels)
    np.testing.assert_array_equal(read_picture(folder / "i.npz").codes, pixels)


def test_channels_without_a_meaning_are_refused(folder: Path) -> None:
    path = written(folder / "j.exr", np.zeros((3, 4, 2), np.float32))
    with pytest.raises(DataError, match=r"j\.exr has the channels .*; allowed are grey, RGB"):
        read_picture(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_pictures_with_nan_say_how_many_and_where(folder: Path, value: float, dtype: Any) -> None:
    pixels = np.zeros((6, 5, 3), dtype)
    pixels[2, 3, 1] = pixels[4, 0, 0] = pixels[4, 0, 1] = value
    path = written(folder / "k.exr", pixels)
    message = r"k\.exr: 2 of 30 pixels are NaN or infinite, the first at column 3, row 2 .*Replace"
    with pytest.raises(DataError, match=message):
        read_picture(path)


def test_picture_without_pixels_is_refused(folder: Path) -> None:
    head = struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)
    png = png_of_16_bits(np.zeros((1, 1, 3), np.uint16))
    (folder / "l.png").write_bytes(png[:16] + head + png[29:])
    with pytest.raises(DataError, match=r"l\.png"):
        read_picture(folder / "l.png")
    np.savez(folder / "l.npz", np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"l\.npz has 4 x 0 pixels; there must be at least one"):
        read_picture(folder / "l.npz")


def originals(folder: Path) -> dict[str, bytes]:
    deep = RANDOM.integers(0, 65536, (8, 9, 3), dtype=np.uint16)
    shallow = Image.fromarray((deep >> 8).astype(np.uint8))
    files = {"16.png": png_of_16_bits(deep)}
    for suffix in ("png", "jpg", "webp", "gif", "bmp"):
        shallow.save(folder / f"o.{suffix}")
        files[suffix] = (folder / f"o.{suffix}").read_bytes()
    tifffile.imwrite(folder / "o.tif", deep, photometric="rgb", compression="zlib")
    files["tif"] = (folder / "o.tif").read_bytes()
    light = deep.astype(np.float32) / 9999
    for suffix in ("exr", "hdr"):
        files[suffix] = written(folder / f"o.{suffix}", light).read_bytes()
    return files


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_file_reads_or_gives_a_data_error(folder: Path, data: Any) -> None:
    files = originals(folder) if not (folder / "o.hdr").exists() else None
    suffix = data.draw(st.sampled_from(["16.png", "png", "jpg", "gif", "bmp", "tif", "exr", "hdr"]))
    if files is not None:
        for name, content in files.items():
            (folder / f"kept.{name}").write_bytes(content)
    content = (folder / f"kept.{suffix}").read_bytes()
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    else:
        start = data.draw(st.integers(0, len(content) - 1))
        noise = data.draw(st.binary(max_size=20))
        content = content[:start] + noise + content[start + len(noise) :]
    path = folder / f"damaged.{suffix}"
    path.write_bytes(content)
    try:
        found = read_picture(path).codes
    except DataError as error:
        assert path.name in str(error)
    else:
        assert found.size > 0 and found.shape[2] in (1, 3, 4)


def test_albert_is_an_exr(shared_data: Path) -> None:
    picture = read_picture(shared_data / "images" / "albert" / "albert.exr")
    assert picture.codes.shape == (1024, 1024, 4) and picture.is_linear

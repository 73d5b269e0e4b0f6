"""Pictures: every kind of file becomes 8-bit RGB or RGBA, and area filtering is an average."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from nfields.data.image_reader import (
    area_filter,
    conversion_notes,
    read_header,
    read_images,
    read_pixels,
)
from nfields.errors import DataError

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)
RGBA = RANDOM.integers(0, 256, (5, 7, 4), dtype=np.uint8)
GREY = RANDOM.integers(0, 256, (5, 7), dtype=np.uint8)


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    """A PNG file of uint16 pixels (h, w, 3 or 4), which Pillow reads but cannot write."""
    height, width, num_channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[num_channels], 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        file += struct.pack(">I", len(data)) + name + data
        file += struct.pack(">I", zlib.crc32(name + data))
    return file


def read(path: Path) -> tuple[np.ndarray, list[str]]:
    header = read_header(path)
    return read_pixels(path, 4 if header.has_alpha else 3), conversion_notes([header])


@pytest.mark.parametrize("pixels", [RGB, RGBA])
def test_eight_bit_colour_is_read_as_it_is(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found, notes = read(tmp_path / "a.png")
    assert np.array_equal(found, pixels)
    assert notes == []


def test_grey_is_repeated_with_a_note(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    found, notes = read(tmp_path / "a.png")
    assert np.array_equal(found, np.repeat(GREY[..., None], 3, axis=2))
    assert "1 of 1 pictures are grey" in notes[0]


def test_grey_with_alpha_keeps_alpha(tmp_path: Path) -> None:
    Image.fromarray(RGBA[..., :2], mode=None).save(tmp_path / "a.png")
    found, notes = read(tmp_path / "a.png")
    assert np.array_equal(found, RGBA[..., [0, 0, 0, 1]])
    assert "grey" in notes[0]


def test_sixteen_bit_grey_keeps_the_upper_bits(tmp_path: Path) -> None:
    deep = (np.arange(35, dtype=np.uint16) * 1800).reshape(5, 7)
    Image.fromarray(deep).save(tmp_path / "a.png")
    found, notes = read(tmp_path / "a.png")
    assert np.array_equal(found[..., 0], (deep >> 8).astype(np.uint8))
    assert any("16 bits" in note for note in notes)


@pytest.mark.parametrize("num_channels", [3, 4])
def test_sixteen_bit_colour_keeps_the_upper_bits(tmp_path: Path, num_channels: int) -> None:
    deep = RANDOM.integers(0, 65536, (5, 7, num_channels), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png_of_16_bits(deep))
    found, notes = read(tmp_path / "a.png")
    assert np.array_equal(found, (deep >> 8).astype(np.uint8))
    assert "16 bits" in notes[0]


def test_palette_becomes_its_colours(tmp_path: Path) -> None:
    four = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], dtype=np.uint8)
    pixels = four[RANDOM.integers(0, 4, (5, 7))]
    Image.fromarray(pixels).quantize(4).save(tmp_path / "a.png")
    found, notes = read(tmp_path / "a.png")
    assert np.array_equal(found, pixels)
    assert "palette" in notes[0]


def test_black_and_white_becomes_0_and_255(tmp_path: Path) -> None:
    Image.fromarray(GREY > 127).save(tmp_path / "a.png")
    found, _ = read(tmp_path / "a.png")
    assert np.array_equal(found[..., 0], np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", bytes(1000), b"P1\tG"])
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png"):
        read(path)


def test_picture_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.tile(RGB, (40, 40, 1))).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"a\.png.*cut off"):
        read(path)


@given(st.binary(max_size=200), st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_damaged_file_reads_or_gives_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, start: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    Image.fromarray(RGB).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:start] + noise + content[start + len(noise) :])
    try:
        found, _ = read(path)
    except DataError as error:
        assert "damaged.png" in str(error)
    else:
        assert found.dtype == np.uint8


@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([3, 4]))),
    st.integers(1, 4),
)
@settings(max_examples=100, deadline=None)
def test_area_filter_is_the_mean_of_blocks(pixels: np.ndarray, factor: int) -> None:
    found = area_filter(pixels, factor)
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    assert found.shape == (height, width, pixels.shape[2])
    for row in range(height):
        for column in range(width):
            block = pixels[row * factor :, column * factor :][:factor, :factor].reshape(
                factor**2, -1
            )
            weights = block[:, 3].astype(float) if block.shape[1] == 4 else np.ones(factor**2)
            mean = np.zeros(3)
            if weights.sum() > 0 or factor == 1:
                mean = np.average(block[:, :3], axis=0, weights=weights if factor > 1 else None)
            assert np.abs(found[row, column, :3] - mean).max() <= 0.5
            if block.shape[1] == 4:
                assert abs(found[row, column, 3] - block[:, 3].mean()) <= 0.5


def test_colour_of_transparent_pixels_does_not_leak() -> None:
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[0, 0] = (200, 100, 50, 255)
    pixels[1, 1] = (0, 255, 0, 0)
    assert area_filter(pixels, 2).tolist() == [[[200, 100, 50, 64]]]


def test_pictures_are_parts_of_one_block(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(RGB[: 3 + i]).save(path)
    images = read_images([read_header(path) for path in paths], 3, 1)
    assert [image.shape[0] for image in images] == [3, 4, 5]
    for i, image in enumerate(images):
        assert np.array_equal(image.numpy(), RGB[: 3 + i])
        assert image.untyped_storage().data_ptr() == images[0].untyped_storage().data_ptr()


def test_downscale_beyond_the_size_is_refused(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"7 x 5 pixels.*data\.downscale=6.*at most 5"):
        read_images([read_header(tmp_path / "a.png")], 3, 6)

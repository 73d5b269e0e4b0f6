"""The whole way through a real browser: the camera moves, the picture changes and is right."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.viewer.scenes import BallSubject, ball
from tests.viewer.test_page import free_port

pytest.importorskip("viser", reason="viser is not installed: pip install 'nfields[viewer]'")

from nfields.viewer.page import Page
from nfields.viewer.panel import Panel
from tests.viewer import browser as chromium

pytestmark = pytest.mark.slow
WIDTH, HEIGHT = 800, 500
# Left of the panel, below the note on software rendering, above the axes.
PART = (slice(215, 430), slice(100, 450))
SECONDS = 30


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    made = Page(
        BallSubject(), {}, host="127.0.0.1", port=free_port(), up=np.array([0.0, 1, 0]),
        title="test", background=(255, 255, 255),
    )  # fmt: skip
    first = made.server.initial_camera
    first.position, first.look_at, first.fov = (0.0, 0.0, 4.0), (0.0, 0.0, 0.0), 0.7
    Panel(made, half_size=1.0, transform=None, run_folder=tmp_path)
    yield made
    made.close()


@pytest.fixture
def window(tmp_path: Path) -> Iterator[chromium.Browser]:
    program = chromium.find()
    if program is None:
        pytest.skip("no Chromium on the path; NFIELDS_CHROMIUM=/path/to/it names one")
    folder = tmp_path / "browser"
    folder.mkdir()
    made = chromium.Browser(program, folder, WIDTH, HEIGHT)
    yield made
    made.close()


def expected(page: Page) -> np.ndarray:
    """What the browser's camera sees, in the size of the window."""
    (browser,) = page._browsers.values()
    request = page.request_of(browser.client)
    width, height = browser.client.camera.image_width, browser.client.camera.image_height
    return ball(request.cameras(width, height)).rgb


def error(window: chromium.Browser, page: Page) -> float:
    """Mean difference of the window to what it should show, in 8-bit levels."""
    seen, truth = window.screenshot(), expected(page)
    if truth.shape != seen.shape:
        truth = np.asarray(Image.fromarray(truth).resize(seen.shape[1::-1]))
    return float(np.abs(seen[PART].astype(int) - truth[PART]).mean())


def serve(page: Page, window: chromium.Browser) -> float:
    """Draws until the window shows what it should; the error then, or after SECONDS."""
    found, end = np.inf, time.monotonic() + SECONDS
    while time.monotonic() < end and found > 3:
        page.work(0.5)
        page.wait(0.2)
        if page.has_browsers and not page.has_work:
            found = error(window, page)
    return found


def test_a_drag_turns_the_picture_and_it_is_right(page: Page, window: chromium.Browser) -> None:
    window.open(page.address)
    assert serve(page, window) < 3
    before, pose = window.screenshot(), page.request_of(next(iter(page._browsers.values())).client)
    window.drag((200, 250), (330, 220))
    assert serve(page, window) < 3
    after, moved = window.screenshot(), page.request_of(next(iter(page._browsers.values())).client)
    assert np.abs(pose.camera_to_world - moved.camera_to_world).max() > 0.1
    assert np.abs(after[PART].astype(int) - before[PART]).mean() > 5
    assert after[PART].std() > 30  # not an empty page
    window.open("about:blank")  # the browser goes away
    end = time.monotonic() + SECONDS
    while page.has_browsers and time.monotonic() < end:
        time.sleep(0.05)
    assert not page.has_browsers
    page.work(0.1)

"""The page without a browser: who gets which picture, and what happens when something breaks."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfields.data.posed_images import SceneTransform
from nfields.errors import ConfigError, DataError
from nfields.render.path_file import read_path
from nfields.viewer.command import main
from nfields.viewer.panel import Panel
from tests.viewer.scenes import BallSubject, FakeBrowser, ball, pose_at

pytest.importorskip("viser", reason="viser is not installed: pip install 'nfields[viewer]'")

from nfields.viewer.page import Page, require_free_port


def free_port() -> int:
    with socket.socket() as test:
        test.bind(("127.0.0.1", 0))
        return test.getsockname()[1]


@pytest.fixture
def page() -> Iterator[Page]:
    subject: Any = BallSubject()
    made = Page(
        subject, {}, host="127.0.0.1", port=free_port(), up=np.array([0.0, 1, 0]), title="test",
        background=(255, 255, 255),
    )  # fmt: skip
    yield made
    made.close()


def serve(page: Page) -> None:
    for _ in range(100):
        page.work(0.1)
        if not page.has_work:
            return
    raise AssertionError("the page does not come to an end")


def test_two_browsers_get_their_own_pictures(page: Page) -> None:
    one, two = FakeBrowser(1), FakeBrowser(2)
    two.camera.position = (0.0, 0.0, 8.0)
    for browser in (one, two):
        page._connect(browser)
    serve(page)
    for browser in (one, two):
        request = page.request_of(browser)
        expected = ball(request.cameras(64, 48)).rgb
        assert np.abs(browser.pictures[-1].astype(int) - expected).mean() < 1
    assert (one.pictures[-1] != two.pictures[-1]).any()


def test_camera_of_a_browser_is_ours(page: Page) -> None:
    pose, fov_deg = page.pose_of(FakeBrowser(1))
    np.testing.assert_allclose(pose, pose_at(0), atol=1e-12)
    assert fov_deg == pytest.approx(np.degrees(0.6))


def test_a_move_gets_a_new_picture_and_so_does_another_layer(page: Page) -> None:
    browser = FakeBrowser(1)
    page._connect(browser)
    serve(page)
    before = browser.pictures[-1]
    browser.camera.position = (0.5, 0.0, 4.0)
    browser.camera.moved(browser.camera)
    assert page.has_work
    serve(page)
    moved = browser.pictures[-1]
    assert (moved != before).any()
    page.style.layer = "depth"
    page.refresh()
    serve(page)
    last = browser.pictures[-1]
    assert (last[..., 0] == last[..., 1]).all()


def test_a_browser_that_goes_away_leaves_the_other_alone(page: Page) -> None:
    one, two = FakeBrowser(1, breaks=True), FakeBrowser(2)
    for browser in (one, two):
        page._connect(browser)
    serve(page)
    assert two.pictures and page.last_error == "ConnectionError: the browser went away"
    page._disconnect(one)
    page._disconnect(one)
    page._disconnect(two)
    assert not page.has_browsers and not page.has_work


def test_a_subject_that_fails_is_told_and_tried_again(page: Page) -> None:
    browser = FakeBrowser(1)
    page._connect(browser)
    page.style.layer = "nonsense"

    def broken(*_: Any) -> None:
        raise RuntimeError("no picture")

    page.subject.draw, draw = broken, page.subject.draw  # pyright: ignore
    serve(page)
    assert page.last_error == "RuntimeError: no picture" and not browser.pictures
    page.subject.draw = draw
    page.refresh()
    serve(page)
    assert browser.pictures


def test_a_port_in_use_is_a_clear_error(page: Page) -> None:
    port = page.server.get_port()
    with pytest.raises(ConfigError, match=rf"port={port} cannot be used.*port=\d+"):
        require_free_port("127.0.0.1", port)
    with pytest.raises(ConfigError, match="65535"):
        require_free_port("127.0.0.1", 70000)


def test_page_is_for_this_machine_only(page: Page) -> None:
    assert page.server.get_host() == "127.0.0.1"


def test_recorded_path_is_read_again_in_the_frame_of_the_data(page: Page, tmp_path: Path) -> None:
    transform = SceneTransform(
        0.5, (0.1, 0.2, 0.3), ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    )
    panel = Panel(page, half_size=1.0, transform=transform, run_folder=tmp_path)
    browser = FakeBrowser(1)
    file = tmp_path / "deep" / "path.json"
    panel.add_camera(browser, 2.0)
    assert "two cameras or more; there are 1" in str(panel.write(file, None))
    assert not file.exists()
    browser.camera.position = (1.0, 0.5, 4.0)
    panel.add_camera(browser, 3.0)
    assert panel.write(file, None) is None
    path = read_path(file)
    assert [frame.seconds for frame in path.keyframes] == [0.0, 3.0]
    poses = transform.poses_to_ours(np.stack([f.camera_to_world for f in path.keyframes]))
    np.testing.assert_allclose(poses[0], pose_at(0), atol=1e-12)
    np.testing.assert_allclose(poses[1, :3, 3], browser.camera.position, atol=1e-12)
    assert panel.write(tmp_path, None) is not None  # a folder


def test_command_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run is missing"):
        main(["port=8080"])
    with pytest.raises(ConfigError, match="prot"):
        main(["run=x", "prot=1"])
    with pytest.raises(ConfigError, match="background"):
        main(["run=x", "background=green"])
    with pytest.raises(DataError, match="is not a folder"):
        main([f"run={tmp_path / 'nothing'}", f"port={free_port()}"])

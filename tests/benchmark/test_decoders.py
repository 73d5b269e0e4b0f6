"""The comparison of rbfnet's two decoders, at its smallest."""

import statistics
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest

from nfields.benchmark import decoders


@pytest.mark.slow
def test_both_decoders_are_trained_on_every_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    imageio.imwrite(tmp_path / "noise.png", rows)
    table = decoders.run([f"data.path={tmp_path}/noise.png"], task="image", steps=3, seeds=2)
    assert list(table) == ["rbf", "mlp"]
    printed = capsys.readouterr().out
    for decoder, row in table.items():
        first, second = row["psnr"]["values"]
        assert first != second  # another seed, another start
        assert row["psnr"]["mean"] == pytest.approx((first + second) / 2)
        assert row["psnr"]["std"] == pytest.approx(statistics.stdev([first, second]))
        assert f"| {decoder} | {(first + second) / 2:.2f} |" in printed

"""The response is 1 for what is there, 0 for what is not, whatever else the field does."""

import math

import pytest
import torch

from nfields.diagnose.slice import Slice
from nfields.diagnose.spectrum import Signal, Spectrum, measured_steps, spectral_response
from tests.diagnose.fields import LinearField

PLACES = [Slice(1, 2, False), Slice(2, 2, False), Slice(1, 3, True)]


@pytest.fixture(params=PLACES, ids=["line", "plane", "circle"])
def signal(request, generator):
    return Signal.draw(request.param, 2, generator)


def test_an_oracle_responds_with_one_and_half_of_it_with_a_half(signal):
    assert signal.response(signal.values) == pytest.approx([1] * len(signal.frequencies), abs=1e-4)
    assert signal.response(0.5 * signal.values) == pytest.approx(
        [0.5] * len(signal.frequencies), abs=1e-4
    )


def test_a_constant_responds_with_zero(signal):
    response = signal.response(torch.full_like(signal.values, 3.0))
    assert response == pytest.approx([0] * len(response), abs=1e-3)


def test_each_frequency_answers_for_itself(signal):
    missing = signal.values - signal.amplitude * signal.parts[:, :, 2].T
    response = signal.response(missing)
    assert response[2] == pytest.approx(0, abs=1e-4)
    assert response[:2] + response[3:] == pytest.approx([1] * (len(response) - 1), abs=1e-4)


def test_a_wrong_phase_is_not_fitted(signal):
    turned = torch.einsum("cnk->nc", signal.parts.roll(signal.parts.shape[1] // 4, dims=1))
    assert signal.response(turned) != pytest.approx([1] * len(signal.frequencies), abs=0.2)


def test_the_signal_has_the_contrast_of_a_picture(signal):
    assert signal.values.std().item() == pytest.approx(0.25, rel=0.02)


def test_a_field_of_low_frequencies_learns_those_alone(generator):
    highest = 8

    def features(x):
        phase = math.pi * x[:, :1] * torch.arange(1, highest + 1)
        return torch.cat([phase.cos(), phase.sin()], dim=1)

    signal = Signal.draw(Slice(1, 2, False), 1, generator)
    field = LinearField(features, 2, 2 * highest, 1)
    trainer = {"betas": [0.9, 0.99], "eps": 1e-15}
    spectrum = spectral_response(field, signal, 200, trainer)
    assert spectrum.steps[-1] == 200 and spectrum.responses[0] == [0] * len(signal.frequencies)
    for frequency, response, half in zip(
        signal.frequencies, spectrum.responses[-1], spectrum.steps_to_half(), strict=True
    ):
        if frequency <= highest:
            assert response == pytest.approx(1, abs=0.02) and half is not None
        else:
            assert response == pytest.approx(0, abs=0.02) and half is None
    assert spectrum.mean_square_errors[-1] < spectrum.mean_square_errors[0]


def test_divergence_is_said_and_ends_the_measurement(generator):
    signal = Signal.draw(Slice(1, 2, False), 1, generator)
    field = LinearField(lambda x: x * float("nan"), 2, 2, 1)
    said: list[str] = []
    spectrum = spectral_response(
        field, signal, 5, {"betas": [0.9, 0.99], "eps": 1e-15}, said.append
    )
    assert len(said) == 1 and spectrum.steps == [0] and spectrum.steps_to_half()[0] is None


def test_half_is_reached_when_it_stays():
    spectrum = Spectrum([1.0, 2.0], [0, 1, 2, 3], [[0.9, 0], [0.1, 0.6], [0.5, 1], [1, 0]], [], 0.0)
    assert spectrum.steps_to_half() == [2, None]


def test_measured_steps_double_in_two():
    assert measured_steps(10) == [0, 1, 2, 3, 4, 6, 8, 10]

"""Real spherical harmonics of any degree in plain PyTorch: the definition.

Notation (Geographic location encoding, arXiv:2310.06743, and its code)
    theta    colatitude: z = cos theta, rho = sin theta
    phi      azimuth: x = rho cos phi, y = rho sin phi
    N_l^m    normalised associated Legendre function of z, without Condon-Shortley phase
    Y_l^m    N_l^0 for m = 0, sqrt 2 N_l^m cos(m phi) for m > 0, sqrt 2 N_l^|m| sin(|m| phi) below

Factorials overflow float32 beyond degree 30 (the published code gives NaN there). The recurrences
of the normalised functions do not:

    N_0^0 = sqrt(1 / 4 pi),                 N_m^m = sqrt((2m+1) / 2m) rho N_{m-1}^{m-1}
    N_l^m = a_lm (z N_{l-1}^m - b_lm N_{l-2}^m),
    a_lm = sqrt((4 l^2 - 1) / (l^2 - m^2)),  b_lm = sqrt(((l-1)^2 - m^2) / (4 (l-1)^2 - 1))

Powers rho^m underflow to 0 near the poles, where the harmonics are that small.
nfields/render/harmonics.py has the few of degree 3 that colours need, in the order of that field.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize, pad


def harmonics_reference(
    directions: Float[Tensor, "n 3"], degree: int
) -> Float[Tensor, "n harmonics"]:
    x, y, z = normalize(directions.double(), dim=1).unbind(dim=1)
    square = x * x + y * y
    # At the poles rho = 0 with a finite derivative; phi does not matter there.
    rho = square.clamp(min=torch.finfo(x.dtype).tiny).sqrt()
    cos_phi, sin_phi = x / rho, y / rho
    cosines, sines = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(degree):
        cosine, sine = cosines[-1], sines[-1]
        cosines.append(cosine * cos_phi - sine * sin_phi)
        sines.append(sine * cos_phi + cosine * sin_phi)
    root2 = math.sqrt(2)
    cosine_table = root2 * torch.stack(cosines[1:], dim=1) if degree else x[:, None][:, :0]
    sine_table = root2 * torch.stack(sines[1:], dim=1) if degree else cosine_table

    before = x.new_zeros(len(x), 0)  # N_{l-2}^m, m = 0 .. l - 2
    last = x.new_full((len(x), 1), math.sqrt(0.25 / math.pi))  # N_{l-1}^m, m = 0 .. l - 1
    features = [last]
    for l in range(1, degree + 1):  # noqa: E741
        m = torch.arange(l, dtype=torch.float64, device=x.device)
        a = torch.sqrt((4 * l * l - 1) / (l * l - m * m)).to(x)
        b = torch.sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1))[: l - 1].to(x)
        diagonal = math.sqrt((2 * l + 1) / (2 * l)) * rho * last[:, -1]
        lower = z[:, None] * last - pad(b * before, (0, 1))
        before, last = last, torch.cat([a * lower, diagonal[:, None]], dim=1)
        positive = last[:, 1:]
        features += [
            (positive * sine_table[:, :l]).flip(1), last[:, :1], positive * cosine_table[:, :l]
        ]  # fmt: skip
    return torch.cat(features, dim=1).to(directions.dtype)

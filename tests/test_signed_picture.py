from __future__ import annotations

import numpy as np
import torch

from vitexplain_utils.show import signed_picture


def test_sign_is_colour_and_size_is_strength():
    values = torch.tensor([[-2.0, -1.0, 0.0], [1.0, 2.0, 4.0]])
    picture = signed_picture(values, side=30)
    assert picture.size == (30, 20)
    red, _, blue = np.moveaxis(np.asarray(picture, dtype=int)[5::10, 5::10], -1, 0)
    warm = red - blue
    assert (np.sign(np.where(abs(warm) < 5, 0, warm)) == np.sign(values.numpy())).all()
    white = np.asarray(picture, dtype=int).min(-1)[5::10, 5::10]
    by_strength = np.argsort(-abs(values.numpy()).ravel(), kind="stable")
    assert (np.diff(white.ravel()[by_strength]) >= -25).all() and white[1, 2] < white[0, 2] == 246


def test_opposite_values_are_as_far_from_white():
    picture = np.asarray(signed_picture(torch.tensor([[-3.0, 3.0]]), side=2), dtype=int)
    assert picture[0, 0, 2] > picture[0, 0, 0] and picture[0, 1, 0] > picture[0, 1, 2]


def test_cells_are_not_smoothed_and_zeros_are_white():
    picture = np.asarray(signed_picture(torch.randn(3, 4, generator=torch.manual_seed(0)), side=40))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 12
    assert (np.asarray(signed_picture(torch.zeros(2, 2))) >= 246).all()

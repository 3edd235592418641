from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from reference import array
from torch import nn

from vitexplain_utils import load_model, preprocess
from vitexplain_utils.garden import THINGS, garden_test_set
from vitexplain_utils.truth import deletion_insertion, occlusion, replace_patches, without_detail
from vitexplain_utils.truth.perturbation import FILLS

GRID = (2, 3)  # of `tiny`
TARGETS = [4, 0, 6]
MAP = torch.tensor([[0.1, 0.9, 0.3], [0.5, -0.2, 0.7]])
MAPS = torch.stack([MAP, -MAP, torch.tensor([[1.0, 0, 1], [0, 1, 1]])])  # the last with ties


class Brightness(nn.Module):
    """Of two classes the first has the mean of the picture as its probability."""

    def __init__(self, several=False):
        super().__init__()
        self.pretrained_cfg = {"multi_label": several}
        self.most = [0]

    def forward(self, x):
        self.most[0] = max(self.most[0], len(x))
        p = x.mean((1, 2, 3))
        odds = p.log() - (1 - p).log()
        several = self.pretrained_cfg["multi_label"]
        return torch.stack([odds, odds] if several else [odds, 0 * odds], 1)


PICTURE = torch.tensor([[[[0.8, 0.4], [0.2, 0.2]]]]).double()  # its mean is 0.4
ORDER = torch.tensor([[[3.0, 2.0], [0.0, 1.0]]])


def naive_fill(x, fill):
    """One picture, `[3, H, W]`."""
    filled = np.zeros_like(x)
    channels, height, width = x.shape
    if fill == "mean":
        for c in range(channels):
            filled[c] = sum(x[c].flat) / x[c].size
        return filled
    sigma = min(height, width) / {"blur": 8, "light blur": 16}[fill]
    reach = int(np.ceil(2.5 * sigma))
    for i, j in product(range(height), range(width)):
        total = 0.0
        for down, across in product(range(-reach, reach + 1), repeat=2):
            weight = np.exp(-(down**2 + across**2) / (2 * sigma**2))
            row, col = min(max(i + down, 0), height - 1), min(max(j + across, 0), width - 1)
            filled[:, i, j] += weight * x[:, row, col]
            total += weight
        filled[:, i, j] /= total
    return filled


def naive_replace(x, filled, patches, grid):
    mixed = x.copy()
    down, across = x.shape[1] // grid[0], x.shape[2] // grid[1]
    for row, col in patches:
        place = np.s_[:, row * down : (row + 1) * down, col * across : (col + 1) * across]
        mixed[place] = filled[place]
    return mixed


def naive_logits(model, x):
    with torch.no_grad():
        return array(model(torch.from_numpy(x).float()[None]))[0]


def naive_probability(model, x, target):
    powers = np.exp(naive_logits(model, x))
    return powers[target] / sum(powers)


def naive_curves(model, x, heatmap, target, fill, steps):
    """Of one image: fraction, deletion and insertion."""
    filled = array(without_detail(torch.from_numpy(x)[None], fill))[0]
    places = sorted(product(*map(range, heatmap.shape)), key=lambda place: -heatmap[place])
    curves = []
    for step in range(steps + 1):
        count = round(step * len(places) / steps)
        gone = naive_replace(x, filled, places[:count], heatmap.shape)
        come = naive_replace(filled, x, places[:count], heatmap.shape)
        deletion, insertion = (naive_probability(model, part, target) for part in (gone, come))
        curves.append((count / len(places), deletion, insertion))
    return np.array(curves).T


def naive_area(curve, fraction):
    return sum(
        (curve[k] + curve[k + 1]) / 2 * (fraction[k + 1] - fraction[k])
        for k in range(len(curve) - 1)
    )


@pytest.mark.parametrize("steps", [3, 4, 6])
def test_insertion_backwards_is_least_relevant_first_deletion(tiny, tiny_x, steps):
    maps = torch.rand(3, *GRID, generator=torch.Generator().manual_seed(2))  # no ties
    first, last = (deletion_insertion(tiny, tiny_x, m, TARGETS, steps=steps) for m in (maps, -maps))
    torch.testing.assert_close(last.deletion, first.insertion.flip(1))
    torch.testing.assert_close(last.deletion_auc, first.insertion_auc)


@pytest.mark.parametrize("several", [False, True], ids=["softmax", "sigmoid"])
def test_curves_by_hand(several):
    """Patches go in the order 0.8, 0.4, 0.2, 0.2, each for the mean 0.4, and come so."""
    curves = deletion_insertion(Brightness(several), PICTURE, ORDER, 0, fill="mean")
    assert curves.fraction.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curves.deletion[0].tolist() == pytest.approx([0.4, 0.3, 0.3, 0.35, 0.4])
    assert curves.insertion[0].tolist() == pytest.approx([0.4, 0.5, 0.5, 0.45, 0.4])
    assert curves.deletion_auc.item() == pytest.approx(0.3375)
    assert curves.insertion_auc.item() == pytest.approx(0.4625)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("steps", [1, 3, 4, 6])
def test_curves_equal_loops(tiny, tiny_x, fill, steps):
    curves = deletion_insertion(tiny, tiny_x, MAPS, TARGETS, fill=fill, steps=steps)
    assert curves.deletion.dtype == curves.insertion.dtype == torch.float64
    areas = torch.stack([curves.deletion_auc, curves.insertion_auc])
    for image in range(3):
        fraction, *expected = naive_curves(
            tiny, array(tiny_x[image]), array(MAPS[image]), TARGETS[image], fill, steps
        )
        found = [array(curves.deletion[image]), array(curves.insertion[image])]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        assert curves.fraction.tolist() == pytest.approx(fraction)
        expected_areas = [naive_area(curve, fraction) for curve in expected]
        np.testing.assert_allclose(areas[:, image], expected_areas, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fill", FILLS)
def test_occlusion_equals_loops(tiny, tiny_x, fill):
    effects = occlusion(tiny, tiny_x, TARGETS, grid=GRID, fill=fill)
    for image, target in enumerate(TARGETS):
        x = array(tiny_x[image])
        filled = array(without_detail(tiny_x[image : image + 1], fill))[0]
        for row, col in product(*map(range, GRID)):
            after = naive_logits(tiny, naive_replace(x, filled, [(row, col)], GRID))[target]
            expected = naive_logits(tiny, x)[target] - after
            assert effects[image, row, col].item() == pytest.approx(expected, abs=1e-4)
    assert effects.abs().median() > 0.05


def test_occlusion_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 2, 3, -4], [0, 0, 0, 1]]))
    effects = occlusion(model, PICTURE, 0, grid=(2, 2), fill="mean")  # weight × (pixel − 0.4)
    assert effects.flatten().tolist() == pytest.approx([0.4, 0, -0.6, 0.8])
    rows = occlusion(model, PICTURE, 0, grid=(2, 1), fill="mean")
    assert rows.flatten().tolist() == pytest.approx([0.4, 0.2])


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 8, 17), (1, 1, 20, 9)], ids=str)
def test_fill_equals_loops(fill, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = np.stack([naive_fill(array(picture), fill) for picture in x])
    np.testing.assert_allclose(array(without_detail(x, fill)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_fill_leaves_a_plain_picture_and_its_dtype(fill, dtype):
    x = torch.tensor([0.3, -1.7, 1000])[None, :, None, None].expand(1, 3, 40, 24).to(dtype)
    filled = without_detail(x, fill)
    assert filled.dtype == dtype
    torch.testing.assert_close(filled.double(), x.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("fill", FILLS)
def test_fill_in_half_precision_is_rounded_once(tiny_x, fill):
    half = tiny_x.half()
    assert torch.equal(without_detail(half, fill), without_detail(half.float(), fill).half())


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("dims", [(2,), (3,)], ids=str)
def test_fill_turns_with_the_picture(tiny_x, fill, dims):
    found = without_detail(tiny_x.flip(dims), fill)
    torch.testing.assert_close(found, without_detail(tiny_x, fill).flip(dims))


def test_fill_takes_detail_away():
    x = torch.ones(1, 1, 32, 32)
    x[:, :, ::2] = -1
    assert without_detail(x, "blur")[:, :, 10:-10].abs().max() < 0.02  # the blur repeats the edge
    assert without_detail(x, "mean").abs().max() < 1e-6


def test_replaced_patches_by_hand():
    x, filled = torch.arange(16.0).view(1, 1, 4, 4), -torch.ones(1, 1, 4, 4)
    chosen = torch.tensor([[[False, True], [False, False]], [[True, False], [False, True]]])
    expected = torch.tensor(
        [
            [[0.0, 1, -1, -1], [4, 5, -1, -1], [8, 9, 10, 11], [12, 13, 14, 15]],
            [[-1, -1, 2, 3], [-1, -1, 6, 7], [8, 9, -1, -1], [12, 13, -1, -1]],
        ]
    )
    assert torch.equal(replace_patches(x, filled, chosen)[:, 0], expected)


def test_replaced_patches_equal_loops():
    generator = torch.Generator().manual_seed(0)
    x, filled = torch.randn(2, 4, 3, 6, 20, generator=generator)
    chosen = torch.rand(4, 3, 5, generator=generator) < 0.5
    found = replace_patches(x, filled, chosen)
    for image in range(4):
        places = chosen[image].nonzero().tolist()
        expected = naive_replace(array(x[image]), array(filled[image]), places, (3, 5))
        assert (array(found[image]) == expected).all()


def test_the_true_order_is_best_and_its_reverse_worst():
    """The mean is additive: the brightest first is the best of all 24 orders by both areas."""
    x = torch.tensor([[[[0.9, 0.3], [0.1, 0.5]]]]).double()
    orders = torch.tensor(list(permutations(range(4)))).view(24, 2, 2)
    curves = deletion_insertion(Brightness(), x.expand(24, -1, -1, -1), orders, 0, fill="mean")
    effects = occlusion(Brightness(), x, 0, grid=(2, 2), fill="mean")
    for heatmap, deletion, insertion in (
        (effects, curves.deletion_auc.min(), curves.insertion_auc.max()),
        (-effects, curves.deletion_auc.max(), curves.insertion_auc.min()),
    ):
        found = deletion_insertion(Brightness(), x, heatmap, 0, fill="mean")
        assert found.deletion_auc.item() == pytest.approx(deletion.item(), abs=1e-12)
        assert found.insertion_auc.item() == pytest.approx(insertion.item(), abs=1e-12)
    assert curves.deletion_auc.max() > curves.deletion_auc.min() + 0.05


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_a_constant_map_takes_patches_row_by_row(value):
    x = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    constant = deletion_insertion(Brightness(), x, torch.full((2, 8, 6), value), 0, steps=48)
    falling = torch.arange(48.0, 0, -1).view(1, 8, 6).expand(2, -1, -1)
    expected = deletion_insertion(Brightness(), x, falling, 0, steps=48)
    assert torch.equal(constant.deletion, expected.deletion)
    assert torch.equal(constant.insertion, expected.insertion)


def test_deleting_the_highest_is_inserting_the_lowest_backwards(tiny, tiny_x):
    forwards = deletion_insertion(tiny, tiny_x[:2], MAPS[:2], TARGETS[:2])
    backwards = deletion_insertion(tiny, tiny_x[:2], -MAPS[:2], TARGETS[:2])
    torch.testing.assert_close(forwards.deletion, backwards.insertion.flip(1), rtol=0, atol=1e-6)
    assert (forwards.deletion - backwards.deletion).abs().max() > 0.01


@pytest.mark.parametrize(
    "same", [lambda m: 7 * m, lambda m: m**3, lambda m: m.half(), lambda m: m.bfloat16()]
)
def test_only_the_order_of_the_map_matters(tiny, tiny_x, same):
    curves = deletion_insertion(tiny, tiny_x, same(MAPS), TARGETS)
    expected = deletion_insertion(tiny, tiny_x, MAPS, TARGETS)
    assert torch.equal(curves.deletion, expected.deletion)
    assert torch.equal(curves.insertion, expected.insertion)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("dim", [1, 2])
def test_flipping_picture_and_map_changes_nothing(fill, dim):
    x = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    curves = deletion_insertion(Brightness(), x, MAPS[:1], 0, fill=fill)
    flipped = deletion_insertion(Brightness(), x.flip(dim + 1), MAPS[:1].flip(dim), 0, fill=fill)
    torch.testing.assert_close(flipped.deletion, curves.deletion, rtol=0, atol=1e-12)
    torch.testing.assert_close(flipped.insertion, curves.insertion, rtol=0, atol=1e-12)
    settings = dict(grid=GRID, fill=fill)
    effects = occlusion(Brightness(), x.flip(dim + 1), 0, **settings).flip(dim)
    expected = occlusion(Brightness(), x, 0, **settings)
    torch.testing.assert_close(effects, expected, rtol=0, atol=1e-12)


def test_batch_equals_one_by_one(tiny, tiny_x):
    together = deletion_insertion(tiny, tiny_x, MAPS, TARGETS)
    effects = occlusion(tiny, tiny_x, TARGETS, grid=GRID)
    for image, target in enumerate(TARGETS):
        one = slice(image, image + 1)
        alone = deletion_insertion(tiny, tiny_x[one], MAPS[one], target)
        torch.testing.assert_close(alone.deletion, together.deletion[one], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone.insertion, together.insertion[one], rtol=0, atol=1e-6)
        effect = occlusion(tiny, tiny_x[one], target, grid=GRID)
        torch.testing.assert_close(effect, effects[one], rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batch_size_bounds_a_forward_pass_and_changes_nothing(batch_size):
    x = torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = Brightness()
    settings = dict(batch_size=batch_size)
    curves = deletion_insertion(model, x, MAPS, 0, **settings)
    assert model.most[0] == min(batch_size, 2 * 3 * 6)
    expected = deletion_insertion(Brightness(), x, MAPS, 0)
    torch.testing.assert_close(curves.deletion, expected.deletion, rtol=0, atol=1e-12)
    torch.testing.assert_close(curves.insertion, expected.insertion, rtol=0, atol=1e-12)
    model.most[0] = 0
    effects = occlusion(model, x, 0, grid=GRID, **settings)
    assert model.most[0] == min(batch_size, 6)
    expected = occlusion(Brightness(), x, 0, grid=GRID)
    torch.testing.assert_close(effects, expected, rtol=0, atol=1e-12)


def test_steps_beyond_the_patches_are_left_out(tiny, tiny_x):
    curves = deletion_insertion(tiny, tiny_x, MAPS, TARGETS, steps=1000)
    assert torch.equal(curves.fraction, torch.arange(7).double() / 6)
    assert curves.deletion.shape == curves.insertion.shape == (3, 7)


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (2, [2, 2, 2]),
        (np.int64(2), [2, 2, 2]),
        (torch.tensor(2), [2, 2, 2]),
        ((4, 0, 6), TARGETS),
        (np.array(TARGETS), TARGETS),
        (torch.tensor(TARGETS, dtype=torch.uint8), TARGETS),
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_every_kind_of_target(tiny, tiny_x, target, classes):
    curves = deletion_insertion(tiny, tiny_x, MAPS, target)
    effects = occlusion(tiny, tiny_x, target, grid=GRID)
    probability = tiny(tiny_x).detach().double().softmax(1)[range(3), classes]
    torch.testing.assert_close(curves.deletion[:, 0], probability, rtol=0, atol=1e-6)
    torch.testing.assert_close(curves.insertion[:, -1], probability, rtol=0, atol=1e-6)
    assert torch.equal(effects, occlusion(tiny, tiny_x, classes, grid=GRID))


def test_a_half_precision_model(tiny, tiny_x):
    curves = deletion_insertion(tiny, tiny_x, MAPS, TARGETS)
    effects = occlusion(tiny, tiny_x, TARGETS, grid=GRID)
    tiny, tiny_x = tiny.bfloat16(), tiny_x.bfloat16()
    rough = deletion_insertion(tiny, tiny_x, MAPS, TARGETS)
    assert rough.deletion.dtype == torch.float64
    torch.testing.assert_close(rough.deletion, curves.deletion, rtol=0, atol=0.03)
    torch.testing.assert_close(rough.insertion, curves.insertion, rtol=0, atol=0.03)
    rough_effects = occlusion(tiny, tiny_x, TARGETS, grid=GRID)
    assert rough_effects.dtype == torch.float32
    torch.testing.assert_close(rough_effects, effects, rtol=0, atol=0.1)


def test_model_and_inputs_are_left_as_they_were(tiny, tiny_x):
    weights = {name: value.clone() for name, value in tiny.state_dict().items()}
    x, maps = tiny_x.clone().requires_grad_(), MAPS.clone()
    for result in (
        deletion_insertion(tiny, x, maps, TARGETS).deletion,
        occlusion(tiny, x, TARGETS, grid=GRID),
    ):
        assert not result.requires_grad
    assert torch.equal(x, tiny_x)
    assert torch.equal(maps, MAPS)
    assert x.grad is None
    assert not tiny.training
    assert all(torch.equal(value, weights[name]) for name, value in tiny.state_dict().items())
    assert all(value.grad is None and value.requires_grad for value in tiny.parameters())


NAN = float("nan")
X = torch.zeros(3, 3, 32, 48)
BOTH = [  # wrong for `deletion_insertion` as well as for `occlusion`
    (dict(x=X[0]), r"x must be.*\(3, 32, 48\)"),
    (dict(x=X[:0]), r"x must be.*\(0, 3, 32, 48\)"),
    (dict(x=X.byte()), r"x must be a float tensor.*torch\.uint8"),
    (dict(x=X.numpy()), "x must be.*got ndarray"),
    (dict(x=X + NAN), "x holds NaN or inf"),
    (dict(x=X.to("meta")), "x is on meta, the model on cpu"),
    (dict(fill="black"), r"fill must be one of \('blur', 'light blur', 'mean'\), got 'black'"),
    (dict(batch_size=0), "batch_size must be a whole number of at least 1, got 0"),
    *[
        (dict(target=target), "target must be.*got " + shown)
        for target, shown in [
            (7, "7"),
            (-1, "-1"),
            (1.5, "1.5"),
            (True, "True"),
            (None, "None"),
            ("fish", "'fish'"),
            ([0, 1], r"\[0, 1\]"),
            ([0, 1, 7], r"\[0, 1, 7\]"),
            (torch.tensor([[0, 1, 2]]), "tensor"),
            (torch.argmax, "<built-in"),
        ]
    ],
]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        *BOTH,
        (dict(heatmap=MAP), r"heatmap must be a tensor \[B, rows, cols\].*\(2, 3\)"),
        (dict(heatmap=MAPS.numpy()), "heatmap must be.*ndarray"),
        (dict(heatmap=MAPS[:2]), "heatmap must have one map per image of 3, got 2"),
        (dict(heatmap=MAPS + NAN), "heatmap must be finite"),
        (dict(heatmap=MAPS.to("meta")), "heatmap is on meta, x on cpu"),
        (dict(heatmap=MAPS[:, :0]), r"heatmap must be a tensor.*\(3, 0, 3\)"),
        (dict(heatmap=torch.ones(3, 2, 5)), r"grid must be.*32 and 48; got \(2, 5\)"),
        (dict(steps=0), "steps must be a whole number of at least 1, got 0"),
    ],
)
def test_errors_of_curves(tiny, arguments, named):
    with pytest.raises(ValueError, match=named):
        deletion_insertion(tiny, **{"x": X, "heatmap": MAPS, "target": 0, **arguments})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        *BOTH,
        (dict(grid=(3, 2)), r"grid must be.*32 and 48; got \(3, 2\)"),
        (dict(grid=(0, 3)), r"grid must be.*got \(0, 3\)"),
        (dict(grid=(-2, 3)), r"grid must be.*got \(-2, 3\)"),
        (dict(grid=(2, 3, 1)), r"grid must be.*got \(2, 3, 1\)"),
    ],
)
def test_errors_of_occlusion(tiny, arguments, named):
    with pytest.raises(ValueError, match=named):
        occlusion(tiny, **{"x": X, "target": 0, "grid": GRID, **arguments})


def test_errors_of_models(tiny, tiny_x):
    with pytest.raises(ValueError, match=r"logits \[B, C\], got \(3, 3, 32, 48\)"):
        occlusion(nn.Identity(), tiny_x, 0, grid=GRID)
    with torch.no_grad():
        tiny.head.bias[0] = NAN
    with pytest.raises(ValueError, match="output is not finite"):
        occlusion(tiny, tiny_x, 0, grid=GRID)
    with pytest.raises(ValueError, match="output is not finite"):
        deletion_insertion(tiny, tiny_x, MAPS, 0)
    tiny.reset_classifier(0)
    with pytest.raises(
        ValueError, match="VisionTransformer has no classifier, so it has no target"
    ):
        deletion_insertion(tiny, tiny_x, MAPS, 0)


def test_unknown_fill():
    with pytest.raises(
        ValueError, match=r"fill must be one of \('blur', 'light blur', 'mean'\), got 'zero'"
    ):
        without_detail(X, "zero")


@pytest.mark.slow
def test_patches_in_the_order_of_their_true_effect_beat_chance_in_the_garden():
    model = load_model("garden")
    scenes = [garden_test_set()[k] for k in (16, 24)]
    x = torch.cat([preprocess(model, scene.image) for scene in scenes])
    targets = [THINGS.index(scene.labels[0]) for scene in scenes]
    best = deletion_insertion(model, x, occlusion(model, x, targets, grid=(12, 12)), targets)
    for seed in range(2):
        noise = torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(seed))
        chance = deletion_insertion(model, x, noise, targets)
        assert (best.deletion_auc < chance.deletion_auc - 0.1).all()
        assert (best.insertion_auc > chance.insertion_auc + 0.1).all()

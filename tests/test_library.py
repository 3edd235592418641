from __future__ import annotations

import pytest
import timm
import torch

from vitexplain_utils import capture_attention
from vitexplain_utils.models import TokenGrid, library_of

GAP = dict(class_token=False, global_pool="avg")


def make(name: str = "vit_tiny_patch16_224", **settings):
    return timm.create_model(name, depth=1, **{"img_size": (32, 48), **settings}).eval()


def test_rows_come_before_columns():
    grid = TokenGrid(prefix=2, rows=2, cols=3)
    row = torch.tensor([[90, 91, 0, 1, 2, 3, 4, 5], [90, 91, 10, 11, 12, 13, 14, 15]])
    assert grid.tokens == 8
    assert grid.to_grid(row).tolist() == [[[0, 1, 2], [3, 4, 5]], [[10, 11, 12], [13, 14, 15]]]


@pytest.mark.parametrize(
    ("name", "settings", "size", "expected"),
    [
        ("vit_tiny_patch16_224", {}, (32, 48), TokenGrid(1, 2, 3)),
        ("vit_tiny_patch16_224", GAP, (32, 48), TokenGrid(0, 2, 3)),
        ("deit_tiny_distilled_patch16_224", {}, (32, 48), TokenGrid(2, 2, 3)),
        ("vit_small_patch14_reg4_dinov2", {"img_size": (28, 42)}, (28, 42), TokenGrid(5, 2, 3)),
        ("eva02_tiny_patch14_224", {"img_size": (28, 42)}, (28, 42), TokenGrid(1, 2, 3)),
        ("vit_tiny_patch16_224", {"dynamic_img_size": True}, (64, 16), TokenGrid(1, 4, 1)),
        (
            "vit_tiny_patch16_224",
            {"dynamic_img_size": True, "dynamic_img_pad": True},
            (48, 32),
            TokenGrid(1, 3, 2),
        ),
    ],
)
def test_layout(name, settings, size, expected, monkeypatch):
    model = make(name, **settings)
    x = torch.zeros(1, 3, *size)
    with torch.no_grad():
        tokens = model.forward_features(x).shape[1]
    assert library_of(model).grid(x) == expected
    assert expected.tokens == tokens
    wider = TokenGrid(expected.prefix, expected.rows, expected.cols + 1)
    monkeypatch.setattr(type(library_of(model)), "grid", lambda library, x: wider)
    with pytest.raises(ValueError, match="do not fit"):
        capture_attention(model, x, gradient=False)


def test_the_grid_is_the_pictures():
    """Only the patch that changes changes its embedding, and it lies where the grid says."""
    model, x = make(), torch.zeros(1, 3, 32, 48)
    x[:, :, 16:, 32:] = 1  # last row, last column
    embedded = model.patch_embed(x) - model.patch_embed(torch.zeros_like(x))
    changed = embedded.abs().sum(-1)
    row = torch.cat([torch.zeros(1, 1), changed], dim=1)
    assert (library_of(model).grid(x).to_grid(row)[0] > 0).tolist() == [
        [False] * 3,
        [False, False, True],
    ]


@pytest.mark.parametrize("name", ["resnet18", "xcit_nano_12_p16_224", "convit_tiny"])
def test_models_without_a_layout(name):
    with pytest.raises(ValueError, match=r"model \w+"):
        capture_attention(timm.create_model(name), torch.zeros(1, 3, 224, 224), gradient=False)


def test_class_token():
    assert library_of(make()).class_token
    assert not library_of(make(**GAP)).class_token


SIXTH = 1 / 6


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("vit_tiny_patch16_224", {}, [1, 0, 0, 0, 0, 0, 0]),
        ("vit_tiny_patch16_224", GAP, [SIXTH] * 6),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, [0] + [SIXTH] * 6),
        ("vit_tiny_patch16_224", {"reg_tokens": 2}, [1] + [0] * 8),
        ("vit_tiny_patch16_224", {**GAP, "reg_tokens": 2}, [0, 0] + [SIXTH] * 6),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "pool_include_prefix": True}, [1 / 7] * 7),
        ("deit_tiny_distilled_patch16_224", {}, [0.5, 0.5, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_what_the_head_reads(name, settings, expected):
    model = make(name, num_classes=0, **settings)
    start = library_of(model).reads(TokenGrid(model.num_prefix_tokens, 2, 3))
    assert start.dtype == torch.float64
    assert start.tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("pool_type", ["token", "avg"])
def test_what_an_attention_pool_reads(pool_type):
    model = make(class_token=False, global_pool="map", reg_tokens=2)
    model.attn_pool.pool = pool_type
    pool = torch.rand(2, 3, 6)  # three queries over the patches alone
    library = library_of(model)
    assert library.reads(TokenGrid(2, 2, 3)) is None
    start = library.pool_row(pool, TokenGrid(2, 2, 3))
    expected = pool[:, 0] if pool_type == "token" else (pool[:, 0] + pool[:, 1] + pool[:, 2]) / 3
    assert (start[:, :2] == 0).all()
    torch.testing.assert_close(start[:, 2:], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pooling", ["max", "avgmax", "prr"])
def test_heads_that_have_no_such_row(pooling):
    model = make(global_pool=pooling)
    with pytest.raises(ValueError, match="model VisionTransformer"):
        library_of(model).reads(TokenGrid(1, 2, 3))

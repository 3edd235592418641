"""Odd models: explained rightly, or refused by name; never a wrong map."""

from __future__ import annotations

import copy
import threading
import warnings

import pytest
import timm
import torch
from reference import lively
from test_recording import state_of, unusual
from torch import Tensor, nn

from vitexplain_utils import METHODS, capture_attention, discard_sweep, explain, load_model
from vitexplain_utils.models.twin import twin

VisionTransformer = timm.models.vision_transformer.VisionTransformer
SIZES = {"img_size": (32, 48), "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 7}
OFFERED = [name for name, method in METHODS.items() if method.offered and not method.slow]


def made(kind: type[VisionTransformer] = VisionTransformer, **settings) -> nn.Module:
    torch.manual_seed(0)
    return lively(kind(**{**SIZES, **settings})).eval()


def maps(model: nn.Module, x: Tensor) -> list[Tensor]:
    return [explain(model, x, method=name, target=2).heatmap for name in OFFERED]


@pytest.mark.slow
def test_many_threads_on_one_model_and_bystanders(tiny_x):
    model = unusual(made(drop_rate=0.5))
    model.norm.eval()
    expected = {(name, n): explain(model, tiny_x[n : n + 1], method=name, target=n).heatmap
                for name in OFFERED for n in range(3)}  # fmt: skip
    still = copy.deepcopy(model).eval()
    alone = still(tiny_x)
    wrong, raised, trained, stop = [], [], [], threading.Event()

    def worker(number: int) -> None:
        try:
            for turn in range(50):
                name, n = OFFERED[(number + turn) % len(OFFERED)], (number * 7 + turn) % 3
                found = explain(model, tiny_x[n : n + 1], method=name, target=n).heatmap
                if not torch.equal(found, expected[name, n]):
                    wrong.append((name, n))
        except Exception as error:
            raised.append(error)

    def bystander() -> None:  # its model is in training mode, and learns
        try:
            while not stop.is_set():
                output = model(tiny_x)
                output.sum().backward()
                trained.append(not torch.allclose(output, alone))  # dropout is on
        except Exception as error:
            raised.append(error)

    before = state_of(model)
    threads = [threading.Thread(target=worker, args=(number,)) for number in range(8)]
    beside = [threading.Thread(target=bystander) for _ in range(2)]
    for thread in [*threads, *beside]:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    for thread in beside:
        thread.join()
    assert not raised and not wrong and len(trained) >= 2 and all(trained)
    assert state_of(model) == before


class Twice(VisionTransformer):
    """Test-time augmentation: the picture, and its mirror image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(x.flip(3))


class OneBlock(VisionTransformer):
    """The first block alone runs, twice."""

    def forward_features(self, x: Tensor, **_) -> Tensor:
        x = self._pos_embed(self.patch_embed(x))
        return self.norm(self.blocks[0](self.blocks[0](x)))


class LeavesEarly(VisionTransformer):
    def forward_features(self, x: Tensor, **_) -> Tensor:
        return self.norm(self.blocks[0](self._pos_embed(self.patch_embed(x))))


class ReadsAll(VisionTransformer):
    """A head on class token and mean of the patches."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x[:, 0] + x[:, 1:].mean(1))


class ReadsPatch(VisionTransformer):
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x[:, 3])


@pytest.mark.parametrize(
    ("kind", "said"),
    [(Twice, "out of turn"), (OneBlock, "out of turn"), (LeavesEarly, "only 1 of its 2 blocks ran"),
     (ReadsAll, r"reads 1…6 \(6\) of the last block's tokens beside 0"),
     (ReadsPatch, "reads 3 of the last")],
)  # fmt: skip
@pytest.mark.parametrize("method", OFFERED)
def test_another_way_through_the_blocks_is_refused(kind, said, method, tiny_x):
    model = made(kind)
    before = state_of(model)
    with pytest.raises(ValueError, match=said):
        explain(model, tiny_x, method=method)
    with pytest.raises(ValueError, match=said):
        explain(model, tiny_x, method=method, batch_size=1, target=lambda y: y[:, 0])
    assert state_of(model) == before


def test_a_head_that_knows_nothing_yet_is_not_refused(tiny_x):
    model = made()
    nn.init.zeros_(model.head.weight)
    assert (explain(model, tiny_x, target=1).heatmap == 0).all()


def test_a_model_made_in_inference_mode(tiny_x):
    with torch.inference_mode():
        model, x = made(), tiny_x.clone()
    for found, wanted in zip(maps(model, x), maps(made(), tiny_x), strict=True):
        assert torch.equal(found, wanted) and found.abs().max() > 0
    with torch.inference_mode():
        assert torch.equal(maps(model, x)[0], maps(made(), tiny_x)[0])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["whole", "module", "blocks"])
def test_compiled_models_are_explained_as_they_are(how, tiny_x):
    model = made()
    wanted = maps(model, tiny_x)
    if how == "whole":
        model = torch.compile(model, backend="eager")
    elif how == "module":
        model.compile(backend="eager")
    else:
        model.blocks = nn.Sequential(*(torch.compile(b, backend="eager") for b in model.blocks))
    with torch.no_grad():
        model(tiny_x)  # compiled code is there
    for _ in range(2):
        for found, expected in zip(maps(model, tiny_x), wanted, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_quantised_model_has_no_gradient_and_says_so(tiny_x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there will be another way to quantise
        model = torch.ao.quantization.quantize_dynamic(made(), {nn.Linear}, dtype=torch.qint8)
        rolled = explain(model, tiny_x, method="rollout").heatmap
        assert torch.allclose(rolled, explain(made(), tiny_x, method="rollout").heatmap, atol=0.1)
        for _ in range(2):
            with pytest.raises(ValueError, match=r"no gradient.*quantised.*rollout"):
                explain(model, tiny_x)


def test_a_forward_of_its_own_per_instance(tiny_x):
    model = made()
    wanted = maps(model, tiny_x)
    forward = model.forward
    model.forward = lambda x: forward(x)  # as accelerate's hooks write it
    for found, expected in zip(maps(model, tiny_x), wanted, strict=True):
        assert torch.equal(found, expected)
    model.forward = lambda x: forward(x) + forward(x.flip(3))
    with pytest.raises(ValueError, match="out of turn"):
        explain(model, tiny_x)


def test_a_bound_method_runs_on_the_twin(tiny_x):
    model = made()
    model.forward = model.forward  # bound to the model itself, kept on the instance
    double = twin(model)
    assert double is not model and double.forward.__self__ is double
    assert torch.equal(double(tiny_x), model(tiny_x))


def test_a_twin_shares_weights_and_nothing_else(tiny_x):
    model = unusual(made())
    before, double = state_of(model), twin(model)
    assert not any(part.training for part in double.modules())
    assert not any(tensor.requires_grad for tensor in double.parameters())
    for (name, ours), (_, theirs) in zip(
        model.state_dict().items(), double.state_dict().items(), strict=True
    ):
        assert ours.data_ptr() == theirs.data_ptr(), name
    double.blocks[0].register_forward_hook(lambda *_: 1 / 0)
    double.blocks[1] = nn.Identity()
    double.train()
    assert state_of(model) == before
    model.eval()(tiny_x)


def test_weights_for_the_garden_are_refused():
    with pytest.raises(ValueError, match="'garden' has its own"):
        load_model("garden", weights="mine.pth")


def test_a_padded_picture_is_refused_and_a_whole_one_is_not(tiny_x):
    model = made(dynamic_img_size=True, dynamic_img_pad=True)
    assert explain(model, tiny_x).heatmap.shape == (3, 2, 3)
    with pytest.raises(ValueError, match="x of 32×40 pixels would be padded"):
        explain(model, tiny_x[..., :40])


def test_a_stem_that_looks_aside_warns():
    model = timm.create_model("vitamin_small_224", img_size=64).eval()
    with pytest.warns(UserWarning, match="half a patch further up and left"):
        explain(model, torch.randn(1, 3, 64, 64), method="last_attention")


def test_numbers_that_overflow_are_refused_by_every_method(tiny_x):
    model = made()
    with torch.no_grad():
        model.blocks[1].attn.qkv.weight.mul_(1e30)
    for name in OFFERED:
        with pytest.raises(ValueError, match=r"NaN or inf|not finite"):
            explain(model, tiny_x, method=name)
    with pytest.raises(ValueError, match=r"NaN or inf|not finite"):
        discard_sweep(model, tiny_x, [0.5])


def test_a_capture_is_of_the_model_that_was_given(tiny_x):
    model = made()
    capture = capture_attention(model, tiny_x)
    assert capture.model is model and capture.library.model is model

"""Peers: what other packages and papers draw, as raw maps on the patch grid, each at its best.

Raw: negatives are set to 0, and where a method's own formula does not say so nothing is resampled
and no minimum subtracted, which would move energy. `pip install captum grad-cam` brings all rows;
LeGrad and AG-CAM are written out here from their papers and their authors' code. Where there was a
choice (signs, samples, minimum), the peer has the one that scores better on the whole on garden
scenes and on photographs with boxes (DeiT-Tiny).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from vitexplain_utils import Capture, capture_attention
from vitexplain_utils.models import library_of
from vitexplain_utils.recording import record_attention

Maps = Callable[[Capture], Tensor]
CAMS = {"Grad-CAM": "GradCAM", "HiRes-CAM": "HiResCAM", "Layer-CAM": "LayerCAM"}
SAMPLES = 25  # of SmoothGrad


def peers(model: nn.Module) -> dict[str, Maps]:
    """Every row that this model and the installed packages allow, as functions of a capture.

    The CAMs stand at each block's `norm1`, of which grad-cam's documentation names the last for
    ViTs; all of one capture are computed together when the first is asked for.
    """
    rows: dict[str, Maps] = {"LeGrad": legrad, "LeGrad, last two blocks": partial(legrad, first=-2)}
    if library_of(model).class_token:
        rows["AG-CAM"] = ag_cam
    if _installed("captum", "captum"):
        rows["input × gradient"] = input_x_gradient
        rows["integrated gradients"] = integrated_gradients
        rows["SmoothGrad"] = smooth_grad
    if _installed("pytorch_grad_cam", "grad-cam"):
        shared = _Shared(cams)
        for name in CAMS:
            for block in range(len(model.blocks)):
                rows[f"{name}, block {block}"] = partial(shared, row=f"{name}, block {block}")
    return rows


def input_x_gradient(capture: Capture) -> Tensor:
    """`x ⊙ ∂y/∂x` of captum, signs and all (Shrikumar et al. 2016, arXiv:1605.01713)."""
    from captum.attr import InputXGradient

    x, target = _asked(capture)
    return _patches(capture, InputXGradient(capture.model).attribute(x, target=target).sum(1))


def integrated_gradients(capture: Capture) -> Tensor:
    """By captum's defaults, 50 steps from 0 (Sundararajan et al. 2017, arXiv:1703.01365)."""
    from captum.attr import IntegratedGradients

    x, target = _asked(capture)
    method = IntegratedGradients(capture.model)  # one step at a time: 50 batches may not fit
    pixels = method.attribute(x, target=target, internal_batch_size=len(x))
    return _patches(capture, pixels.sum(1))


def smooth_grad(capture: Capture) -> Tensor:
    """SmoothGrad, `|mean ∂y/∂(x + noise)|` (Smilkov et al. 2017, arXiv:1706.03825).

    By captum's NoiseTunnel over Saliency, with its default noise of 1 (ImageNet's pixels span 4.8)
    and `SAMPLES` instead of 5; absolute after the mean, as in the paper, not before.
    """
    from captum.attr import NoiseTunnel, Saliency

    x, target = _asked(capture)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pixels = NoiseTunnel(Saliency(capture.model)).attribute(
            x, target=target, abs=False, nt_samples=SAMPLES, nt_samples_batch_size=1
        )
    return _patches(capture, pixels.sum(1).abs())


def cams(capture: Capture) -> dict[str, Tensor]:
    """Every CAM of the package grad-cam at every block's `norm1`, from one pass and its backward.

    Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), HiRes-CAM (Draelos & Carin 2020,
    arXiv:2011.08891), Layer-CAM (Jiang et al. 2021): the package's hooks and `get_cam_image`,
    without the minimum subtracted and the enlargement that follow there.
    """
    import pytorch_grad_cam

    def channels_first(tokens: Tensor) -> Tensor:
        return capture.grid.to_grid(tokens.mT)  # [B, T, D] -> [B, D, rows, cols]

    x, target = _asked(capture)
    layers = [block.norm1 for block in capture.model.blocks]
    with pytorch_grad_cam.GradCAM(capture.model, layers, channels_first) as cam:
        tap = cam.activations_and_grads
        torch.autograd.grad(tap(x).gather(1, target[:, None]).sum(), x)  # sets off its hooks
        kept = list(zip(tap.activations, tap.gradients, strict=True))
    maps = {}
    for name, kind in CAMS.items():
        cam = getattr(pytorch_grad_cam, kind)(capture.model, [])
        for block, (a, g) in enumerate(kept):
            image = cam.get_cam_image(x, None, None, a.numpy(), g.numpy(), eigen_smooth=False)
            maps[f"{name}, block {block}"] = torch.from_numpy(image).to(x.device).clamp(min=0)
    return maps


def legrad(capture: Capture, *, first: int = 0) -> Tensor:
    """LeGrad (Bousselham et al. 2024, arXiv:2404.03214): `mean_l mean_{h,i} max(0, ∂s_l/∂A_l)`.

    `s_l` is the class's logit when the head reads, through the last norm, the mean of all tokens
    that block `l` gives; no attention is multiplied. As in the authors' code, the minimum is
    subtracted; it starts by default at the last block but one, here at `first`.
    """
    model, target = capture.model, _asked(capture)[1]
    given: list[Tensor] = []
    with record_attention(model) as record, ExitStack() as undo, torch.enable_grad():
        for block in capture.library.block_modules():
            hook = block.register_forward_hook(lambda _module, _args, output: given.append(output))
            undo.callback(hook.remove)
        model(capture.x)
        blocks = list(zip(record.blocks, record.outputs, given, strict=True))
        maps = []
        for call, read, tokens in blocks[first:]:
            logits = model.head(model.fc_norm(model.norm(tokens.mean(1))))
            score = logits.gather(1, target[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, read, retain_graph=True)
            matrix = replace(call, output_gradient=gradient).gradient()
            maps.append(matrix.clamp(min=0).mean((1, 2)))
    heatmap = capture.grid.to_grid(torch.stack(maps).mean(0).detach())
    return heatmap - heatmap.amin((1, 2), keepdim=True)


def ag_cam(capture: Capture) -> Tensor:
    """AG-CAM (Leem & Seo 2024, arXiv:2402.04563): `Σ_l Σ_h sigmoid(S_l) ⊙ max(0, ∂y/∂A_l)`.

    The class token's row of each; `S` are the scores before the softmax. As in the authors' code,
    each attention's input is detached: the gradient comes by the residual path alone.
    """
    target = _asked(capture)[1]
    with ExitStack() as undo:
        for block in capture.library.block_modules():
            hook = block.attn.register_forward_pre_hook(_detach)
            undo.callback(hook.remove)
        detached = capture_attention(capture.model, capture.x, target=target)
    row = 0
    for call in detached.blocks:
        scores = (call.q[:, :, :1] * call.scale) @ call.k.mT
        scores = scores if call.mask is None else scores + call.mask[..., :1, :]
        row = row + (scores.sigmoid() * call.gradient(slice(1)).clamp(min=0)).sum((1, 2))
    return capture.grid.to_grid(row)


def _detach(_module: nn.Module, args: tuple) -> tuple:
    return args[0].detach(), *args[1:]


class _Shared:
    """All maps of the latest capture, computed when the first is asked for."""

    def __init__(self, compute: Callable[[Capture], dict[str, Tensor]]) -> None:
        self.compute = compute
        self.capture: Capture | None = None
        self.maps: dict[str, Tensor] = {}

    def __call__(self, capture: Capture, *, row: str) -> Tensor:
        if capture is not self.capture:
            self.capture, self.maps = capture, self.compute(capture)
        return self.maps[row]


@cache
def _installed(module: str, package: str) -> bool:
    """Whether there is such a module; if not, says so once."""
    found = find_spec(module) is not None
    if not found:
        print(f"{package} is not installed: its rows are left out")
    return found


def _asked(capture: Capture) -> tuple[Tensor, Tensor]:
    """The input, ready for its gradient, and the class asked of each picture, `[B]`."""
    if not isinstance(capture.target, Tensor) or capture.steps > 1:
        raise ValueError(
            "capture must be of one step and ask for a class of each picture, got target "
            f"{capture.target!r}, steps={capture.steps}"
        )
    return capture.x.clone().requires_grad_(), capture.target


def _patches(capture: Capture, pixels: Tensor) -> Tensor:
    """The mean over each patch of `[B, H, W]` (the sum, times a constant), then negatives to 0.

    With the absolute values of pixels, which captum draws, input × gradient and integrated
    gradients score lower.
    """
    grid = (capture.grid.rows, capture.grid.cols)
    return adaptive_avg_pool2d(pixels.detach(), grid).clamp(min=0)

"""Dreaming: the picture that would make a model surest (activation maximisation)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from .checks import check_count, check_finite, check_number
from .models.inputs import check_input, preprocess
from .models.library import Library, library_of
from .models.targets import Target, choose_target, score
from .models.twin import twin
from .recording import record_attention

FADED = 0.6  # of the steps; the rest is climbed with the picture itself
SURE = 10.0  # a logit, p = 0.99995: beyond it `only` gains nothing


@dataclass(frozen=True, kw_only=True)
class Regularisers:
    """What keeps a dream from being noise; each is a number, and 0 is without it.

    Perturbations are drawn anew in each step; all but the jitter fade out by `FADED` of the way.

    Attributes:
        fourier: the picture is a sum of waves, of frequency `f` with the step size `f^-fourier`
            (Olah et al. 2017, distill.pub/2017/feature-visualization); 0 is pixel by pixel.
        finest: waves much shorter than so many pixels hardly take part, if there are waves.
        grey: the part of a step that goes to all three colours alike, as most of what varies in
            pictures does ("decorrelated" colours; Olah et al. 2017).
        jitter: the picture is rolled by up to so many pixels (Mordvintsev et al. 2015, DeepDream;
            Ghiasi et al. 2022, arXiv:2212.06727, as are the next two), for ViTs at least a patch.
        noise: standard deviation of noise on the pixels, which lie in 0..1.
        colour: standard deviation of a shift and of a stretch of each colour.
        zoom: logarithm of the largest factor by which it is scaled (Olah et al. 2017).
        turn: largest angle by which it is turned, in radians (Olah et al. 2017).
        variation: what each unit of `total_variation` costs of the score (Mahendran & Vedaldi
            2015, arXiv:1412.0035; for ViTs Ghiasi et al. 2022).
    """

    fourier: float = 1.25
    finest: float = 4.0
    grey: float = 0.4
    jitter: int = 8
    noise: float = 0.15
    colour: float = 0.1
    zoom: float = 0.3
    turn: float = 0.3
    variation: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            check_number(field.name, getattr(self, field.name), 0, math.inf)

    def spectrum(self, height: int, width: int) -> Tensor:
        """The step size of each wave of `torch.fft.rfft2`, 1 in the square mean."""
        down, across = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
        f = torch.hypot(down[:, None], across).clamp(min=1 / max(height, width))
        sizes = f**-self.fourier * torch.exp(-((self.finest * f) ** 2))
        return sizes / sizes.square().mean().sqrt()

    def perturbed(self, pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        """Pixels `[B, 3, H, W]` as the model sees them in one step, all changed alike."""

        def draw(*shape: int) -> Tensor:
            return strength * torch.randn(shape, generator=generator).to(pixels)

        jitter = int(self.jitter)
        shifts = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
        zoom, turn = (strength * (2 * torch.rand(2, generator=generator) - 1)).tolist()
        seen = pixels.roll(shifts, (2, 3))
        if self.zoom or self.turn:
            size, angle = math.exp(self.zoom * zoom), self.turn * turn
            cos, sin = size * math.cos(angle), size * math.sin(angle)
            matrix = pixels.new_tensor([[cos, -sin, 0], [sin, cos, 0]]).expand(len(pixels), 2, 3)
            grid = functional.affine_grid(matrix, list(seen.shape), align_corners=False)
            seen = functional.grid_sample(
                seen, grid, padding_mode="reflection", align_corners=False
            )
        stretch, shift = 1 + self.colour * draw(1, 3, 1, 1), self.colour * draw(1, 3, 1, 1)
        return (seen - 0.5) * stretch + 0.5 + shift + self.noise * draw(*pixels.shape)


NAIVE = Regularisers(
    fourier=0, finest=0, grey=0, jitter=0, noise=0, colour=0, zoom=0, turn=0, variation=0
)


@dataclass(frozen=True)
class Dream:
    """What `dream` returns.

    Attributes:
        images: one picture for each dream.
        x: the model's input for just these pictures, `[B, 3, H, W]`.
        logits: the model's output for `x`, `[B, C]`.
        scores: what the target gave in each step, perturbed, `[steps, B]`.
        frames: the pictures on the way, as many lists like `images` as were asked for.
    """

    images: list[Image.Image]
    x: Tensor
    logits: Tensor
    scores: Tensor
    frames: list[list[Image.Image]]


def total_variation(pixels: Tensor) -> Tensor:
    """How much neighbouring pixels differ, across and down, on average: `[B, 3, H, W]` → `[B]`.

    Example:
        >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
        tensor([1.])
    """
    return sum(pixels.diff(dim=side).abs().mean((1, 2, 3)) for side in (2, 3))  # type: ignore


def only(target: int | Sequence[int]) -> Callable[[Tensor], Tensor]:
    """The target "this class, and no other", for a model where each has its own probability.

    `min(z, 10) + Σ log(1 − p_other)`, its edge rounded: the class's logit `z`, as long as the model
    is not sure, less what it says of all others.

    Args:
        target: a class, or one for each dream.

    Returns:
        A function `logits [B, C] → [B]`, to be the target of `dream` or `explain`.

    Example:
        >>> only(0)(torch.tensor([[2.0, -30.0], [2.0, 3.0]]))
        tensor([ 1.9997, -1.0489])
    """

    def scored(logits: Tensor) -> Tensor:
        index = torch.as_tensor(target, device=logits.device).expand(len(logits))
        own = logits.gather(1, index[:, None])[:, 0]
        others = functional.softplus(logits).sum(1) - functional.softplus(own)
        return own - functional.softplus(own - SURE) - others

    return scored


def dream(
    model: nn.Module,
    target: Target | Callable[[Any], Tensor],
    *,
    of: nn.Module | str | None = None,
    start: Tensor | None = None,
    count: int = 1,
    steps: int = 160,
    seed: int = 0,
    rate: float = 0.1,
    regularisers: Regularisers = Regularisers(),
    frames: int = 0,
    progress: bool = True,
) -> Dream:
    """Dream: change a picture, step by step, until a target is as high as it gets.

    Adam climbs `score − variation · total_variation` (activation maximisation, Erhan et al. 2009),
    with a step size that falls to 0 along a cosine. A dream shows what is *enough* for the model;
    it does not show what the model used in any other picture. On the CPU the same seed gives the
    same bytes, and PyTorch's own random numbers are left alone.

    Args:
        model: as in `explain`; left as it was, also after an exception.
        target: a class index (its logit is climbed), one per dream, or a callable that gives one
            scalar per dream, `[B]`, from what `of` says.
        of: what a callable is given: None for the logits `[B, C]` (as in `explain`); a module of
            the model for what that returns, as `model.blocks[2].mlp.act` for the units of an MLP;
            `"attention"` for the pass's `AttentionRecord`, whose `outputs[3][:, 1]` is what head 1
            of block 3 gives, `[B, T, e]`.
        start: an input `[B, 3, H, W]` as from `preprocess`; None is grey with a little noise.
        count: how many dreams at once, each from noise of its own, if there is no start.
        steps: of the ascent.
        seed: of the noise and of the perturbations.
        rate: the first step size, of the waves (or pixels) before they go through a sigmoid.
        regularisers: `NAIVE` is without any.
        frames: how many pictures of the way to keep, evenly spaced, the last one last.
        progress: show a progress bar in a terminal.

    Returns:
        A `Dream`.

    Raises:
        ValueError: an argument is out of its range, a class is asked of a model without a
            classifier, or the target gives something else than one finite scalar per dream.

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
        >>> found = dream(model, 7, steps=8, frames=2)
        >>> found.images[0].size, len(found.frames), tuple(found.scores.shape)
        ((32, 32), 2, (8, 1))
    """
    library = library_of(model)
    modules = {id(module): name for name, module in library.model.named_modules()}
    _check(library, target, of is None or of == "attention" or id(of) in modules, of, start)
    check_count("count", count)
    check_count("steps", steps)
    check_number("seed", seed, 0, 2**63, whole=True, below=True)
    check_number("rate", rate, 1e-9, math.inf)
    check_number("frames", frames, 0, steps, whole=True)
    library = type(library)(twin(library.model))
    generator = torch.Generator().manual_seed(seed)
    scores, film = [], []
    seen: dict[str, Any] = {}
    with ExitStack() as undo:
        record = undo.enter_context(record_attention(library.model))
        undo.enter_context(torch.inference_mode(False))
        undo.enter_context(torch.enable_grad())
        if isinstance(of, nn.Module):
            asked = library.model.get_submodule(modules[id(of)])
            hook = asked.register_forward_hook(lambda *passed: seen.update(output=passed[-1]))
            undo.callback(hook.remove)
        canvas = _Canvas(model, start, count, regularisers, generator)
        optimiser = torch.optim.Adam([canvas.climbing], lr=rate)
        for step in tqdm(range(steps), unit="step", disable=None if progress else True):
            optimiser.param_groups[0]["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            pixels = canvas.pixels()
            strength = max(0.0, 1 - step / steps / FADED)
            perturbed = regularisers.perturbed(pixels, strength, generator)
            logits = library.logits(canvas.as_input(perturbed))
            given = logits if of is None else record if of == "attention" else seen["output"]
            scored = _scored(library, logits, target, given)
            cost = regularisers.variation * total_variation(pixels) - scored
            (canvas.climbing.grad,) = torch.autograd.grad(cost.sum(), [canvas.climbing])
            optimiser.step()
            scores.append(scored.detach())
            if (step + 1) * frames // steps > step * frames // steps:
                film.append(_pictures(canvas.pixels()))
        with torch.no_grad():
            pixels = (canvas.pixels() * 255).round() / 255  # what a file holds
            x = canvas.as_input(pixels)
            logits = library.logits(x)
    return Dream(_pictures(pixels), x, logits, torch.stack(scores), film)


class _Canvas:
    """A picture that can be climbed: waves or pixels, through a sigmoid into the valid range."""

    def __init__(
        self,
        model: nn.Module,
        start: Tensor | None,
        count: int,
        regularisers: Regularisers,
        generator: torch.Generator,
    ) -> None:
        black, white = (preprocess(model, Image.new("RGB", (8, 8), c)) for c in ("black", "white"))
        self.low, self.high = (x[..., :1, :1].float() for x in (black, white))
        self.dtype, self.grey = black.dtype, regularisers.grey
        if start is None:
            self.start = 0.04 * torch.randn(count, *black.shape[1:], generator=generator)
            self.start = self.start.to(self.low)
        else:
            pixels = (start.detach().float() - self.low) / (self.high - self.low)
            if pixels.min() < -0.01 or pixels.max() > 1.01:
                raise ValueError("start must lie between black and white, as from preprocess")
            self.start = pixels.clamp(0.001, 0.999).logit()
        self.size = self.start.shape[2:]
        self.waves = (
            regularisers.spectrum(*self.size).to(self.low) if regularisers.fourier else None
        )
        shape = self.size if self.waves is None else (*self.waves.shape, 2)
        self.climbing = self.start.new_zeros(*self.start.shape[:2], *shape).requires_grad_()

    def pixels(self) -> Tensor:
        """The picture `[B, 3, H, W]`, in 0..1."""
        change = self.climbing
        if self.waves is not None:
            waves = torch.view_as_complex(change) * self.waves
            change = torch.fft.irfft2(waves, s=self.size, norm="ortho")
        alike = change.sum(1, keepdim=True) / 3**0.5
        return (self.start + (1 - self.grey) * change + self.grey * alike).sigmoid()

    def as_input(self, pixels: Tensor) -> Tensor:
        """Pixels in the model's own range and dtype."""
        return (self.low + (self.high - self.low) * pixels).to(self.dtype)


def _check(library: Library, target: Any, known: bool, of: Any, start: Tensor | None) -> None:
    """Raise a ValueError for what can be known to be wrong before the first step."""
    if target is None or (library.classes == 0 and not callable(target)):
        raise ValueError(
            f"target must be a callable, or a class of a model with a classifier; got {target!r} "
            f"for {library.what} with {library.classes} classes"
        )
    if not known:
        raise ValueError(f'of must be None, "attention" or a module of the model, got {of!r}')
    if of is not None and not callable(target):
        raise ValueError(f"target must be a callable where `of` is given, got {target!r}")
    if start is not None:
        try:
            check_input(library.model, start)
        except ValueError as error:
            raise ValueError(f"start is no input of the model: {error}") from error


def _scored(library: Library, logits: Tensor, target: Any, given: Any) -> Tensor:
    """The scalar of each dream, `[B]`: a class's logit, or what a callable makes of `given`."""
    if not callable(target):
        return score(logits, choose_target(library, logits, target, needed=True))
    values = target(given)
    if not isinstance(values, Tensor) or values.shape != logits.shape[:1]:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"target must give a tensor [B], one scalar per dream, got {got}")
    if not values.requires_grad:
        raise ValueError(f"target {target!r} does not depend on what it was given")
    check_finite("target's scalars", values)
    return values


def _pictures(pixels: Tensor) -> list[Image.Image]:
    """Pixels `[B, 3, H, W]` in 0..1 as RGB pictures."""
    levels = (pixels.detach() * 255).round().to("cpu", torch.uint8)
    return [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in levels]

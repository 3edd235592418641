"""How much memory does an explanation need beside the model, where there are many tokens?

Two ViT-S with random weights, one picture, every case in a process of its own: how far the peak of
resident memory rises above what the process holds with its model, after a warm-up with a tiny one.
Four pictures, at once and one by one, say what `batch_size` saves. The numbers are also written to
results/memory.json. Linux only: the peak is read from /proc/self/status.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from record import write_results
from speed import forward, forward_backward
from torch import Tensor, nn

from vitexplain_utils import explain

MODELS = {"vit_small_patch14_dinov2": 518, "vit_small_patch16_dinov3": 1024}  # picture's side


def attribution_of_four(model: nn.Module, x: Tensor, batch_size: int | None) -> None:
    four = x.expand(4, -1, -1, -1)
    explain(model, four, method="attribution", target=0, batch_size=batch_size)


CASES: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "forward": forward,
    "forward + backward": forward_backward,
    "rollout": partial(explain, method="rollout"),
    "gradient rollout": partial(explain, method="gradient_rollout", target=0),
    "relevance": partial(explain, method="relevance", target=0),
    "attribution": partial(explain, method="attribution", target=0),
    "attribution, four pictures": partial(attribution_of_four, batch_size=None),
    "attribution, four pictures, batch_size=1": partial(attribution_of_four, batch_size=1),
}
MEASURE = "forward + backward"


def status(field: str) -> float:
    """`VmRSS`, what is resident now, or `VmHWM`, its peak so far, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kibibytes) * 1024 / 1e6


def create(name: str, side: int, **options: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=1000, img_size=side, **options).eval()
    return model, torch.rand(1, 3, side, side)


def growth(name: str, case: str) -> float:
    """How far the peak of this process rises in one case, in MB."""
    CASES[case](*create(name, 112, depth=2))
    model, x = create(name, MODELS[name])
    before = status("VmRSS")
    CASES[case](model, x)
    return status("VmHWM") - before


def in_its_own_process(name: str, case: str) -> float:
    command = [sys.executable, __file__, "--one", name, case]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # a model and a case
    options = parser.parse_args()
    if sys.platform != "linux":
        parser.error("memory.py runs on Linux only: it reads /proc/self/status")
    if options.one:
        return print(growth(*options.one))
    found = [measure(name, side) for name, side in MODELS.items()]
    write_results("memory", {"models": found})


def measure(name: str, side: int) -> dict[str, Any]:
    """All cases of one model: printed, and returned for the file."""
    model, _ = create(name, side)
    tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    matrices = len(model.blocks) * model.blocks[0].attn.num_heads * tokens**2 * 4 / 1e6
    grown = {case: in_its_own_process(name, case) for case in CASES}
    print(f"\n{name}, {side} px, {tokens:,} tokens: the attention matrices of all blocks")
    print(f"would take {matrices:,.0f} MB, and their gradients as much\n")
    print(f"| | MB | ÷ {MEASURE} |\n|---|---|---|")
    for case, megabytes in grown.items():
        print(f"| {case} | {megabytes:,.0f} | {megabytes / grown[MEASURE]:.2f}× |")
    return {
        "model": name,
        "side": side,
        "tokens": tokens,
        "matrices of all blocks, MB": round(matrices),
        "beside the model, MB": {case: round(megabytes) for case, megabytes in grown.items()},
    }


if __name__ == "__main__":
    main()

"""Marking: every method, mistake, baseline and peer on questions with known answers.

What `photographs.py` and `garden_table.py` share. Pictures are drawn anew for 95 % bootstrap
intervals. Each row is compared with gradient rollout as vit-explain means it (plain gradient) on
the questions that both were asked; these differences' intervals are corrected for the number of
rows (max-t, all rows of a set and a measure together). SLOW rows are asked the first questions of
each set. Of CAMs at every block all known answers are in the result file; the printed tables and
the other sets have the last block, which is the documented one, and the one with the most energy
inside.

Marks are kept in `build/marks`, so that a run that was interrupted goes on where it was; they are
found again by the questions, the weights and the settings, not by the code of a method: delete
them after changing that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest.mock import patch

import torch
from peers import CAMS, peers
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from vitexplain_utils import METHODS, Capture, Method, capture_attention
from vitexplain_utils.methods import MISTAKES, Attribution
from vitexplain_utils.models import library_of
from vitexplain_utils.show import write_whole
from vitexplain_utils.truth import (
    Questions,
    centre_map,
    class_pairs,
    compare_marks,
    constant_map,
    edge_map,
    format_table,
    question_marks,
    random_map,
)
from vitexplain_utils.truth.evaluation import Marks

KEPT = Path(__file__).parents[1] / "build" / "marks"
Row = Method | Callable[[Capture], Tensor]
PLAIN = ", plain gradient"
REFERENCE = f"gradient rollout{PLAIN}"
SEED = 0
FILLS = ("blur", "light blur", "mean")
SHOWN = ["peak inside", "energy inside", "share on asked-for", "class likeness",
         *(f"insertion − deletion{end}" for end in ("", ", light blur", ", mean"))]  # fmt: skip
SLOW = ("attribution, integrated", f"attribution, integrated{PLAIN}",
        "integrated gradients", "SmoothGrad")  # fmt: skip
PERTURBED = (
    "gradient rollout", f"gradient rollout{PLAIN}", "gradient rollout, discard 0.9",
    "gradient rollout, residual 0.9", "relevance", f"relevance{PLAIN}",
    "attribution", f"attribution{PLAIN}", "attribution, integrated",
    "attribution, last block alone", "rollout", "rollout, max, discard 0.9",
    "mistake: reversed_blocks", "all three mistakes, discard 0.9", "integrated gradients",
    "LeGrad", "LeGrad, last two blocks", "AG-CAM", "baseline: edge", "baseline: noise",
)  # fmt: skip

PAIRS = (  # settings that a default could have: with it, and without
    ("attribution", REFERENCE), ("attribution", f"attribution{PLAIN}"),
    ("attribution", "gradient rollout"), ("relevance", "gradient rollout"),
    ("gradient rollout", REFERENCE), ("relevance", f"relevance{PLAIN}"),
    *((f"gradient rollout, {knob}", "gradient rollout")
      for knob in ("discard 0.9", "residual 0.9", "max")),
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How much is asked.

    Attributes:
        mosaics: of four, at the model's own size.
        large: mosaics at twice its size.
        photographs: of `boxes`, of `things` and of the garden.
        perturbed: photographs for deletion and insertion.
        slow: questions of each set for SLOW rows.
        steps: of deletion and insertion.
        part: questions whose marks are computed and kept together.
    """

    mosaics: int = 56
    large: int = 4
    photographs: int = 220
    perturbed: int = 100
    slow: int = 32
    steps: int = 4
    part: int = 8


QUICK = Sizes(mosaics=6, large=0, photographs=12, perturbed=6, slow=4, steps=4, part=4)


class DropInEachBlock(Attribution):
    """Attribution with negatives dropped in each block, not at the end."""

    def carry(self, row: Tensor, matrix: Tensor) -> Tensor:
        """Add what speaks for the class in this block."""
        return row + matrix.clamp(min=0)


def hold_norm_and_gate(capture: Capture) -> Tensor:
    """Attribution with more held fixed: layer norm's scale and GELU's gate as well.

    Ali et al. 2022 (arXiv:2202.07304) detach the first, Mehri et al. 2024 (arXiv:2411.16760) both.
    """

    def layer_norm(x, shape, weight=None, bias=None, eps=1e-5):
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + eps).rsqrt().detach()
        return centred * scale * weight + bias

    def gelu(x, approximate="none"):
        return x * (0.5 + 0.5 * torch.erf(x.detach() / 2**0.5))

    with ExitStack() as stack:
        for name, held in (("layer_norm", layer_norm), ("gelu", gelu)):
            stack.enter_context(patch.object(functional, name, held))
        held = capture_attention(capture.model, capture.x, target=capture.target)
    return METHODS["attribution"].heatmap(held)


def all_rows(model: nn.Module) -> dict[str, Row]:
    """Every row of the tables; the gradient methods with the attention held, and with it plain."""
    gradient, relevance, attribution, rollout, mistaken = (
        METHODS[name]
        for name in ("gradient_rollout", "relevance", "attribution", "rollout", "vit_explain")
    )
    last = len(model.blocks) - 1
    half = (len(model.blocks) // 2, last)
    asked = {
        "gradient rollout": gradient,
        "gradient rollout, discard 0.9": gradient.having(discard_ratio=0.9),
        "gradient rollout, residual 0.9": gradient.having(residual_weight=0.9),
        "gradient rollout, max": gradient.having(head_fusion="max"),
        "relevance": relevance,
        "attribution": attribution,
        "attribution, integrated": attribution.having(steps=8),
        "attribution, negatives dropped in each block": DropInEachBlock(),
        "attribution, last half, negatives dropped in each block": DropInEachBlock(blocks=half),
    }
    rows: dict[str, Row] = {}
    for name, method in asked.items():
        rows[name] = method
        rows[f"{name}{PLAIN}"] = method.having(hold_attention=False)
    for block in range(last + 1):
        name = "last block" if block == last else f"block {block}"
        rows[f"attribution, {name} alone"] = attribution.having(blocks=(block, block))
    rows["attribution, norm and gate held"] = hold_norm_and_gate
    rows["rollout"] = rollout
    for fusion in ("mean", "max", "min"):
        rows[f"rollout, {fusion}, discard 0.9"] = rollout.having(
            head_fusion=fusion, discard_ratio=0.9
        )
    rows["last attention"] = METHODS["last_attention"]
    for mistake in MISTAKES:
        rows[f"mistake: {mistake}"] = mistaken.having(mistakes=(mistake,))
    rows["all three mistakes"] = mistaken
    rows["all three mistakes, discard 0.9"] = mistaken.having(discard_ratio=0.9)
    rows |= peers(model)
    baselines = (edge_map, centre_map, noise_map, constant_map)
    return rows | {f"baseline: {b.__name__.removesuffix('_map')}": b for b in baselines}


def noise_map(capture: Capture) -> Tensor:
    """Noise that is another for every part of the questions, and the same in every run."""
    assert isinstance(capture.target, Tensor)
    seed = int(fingerprint([capture.x, capture.target]), 16) % 2**63
    return random_map(capture, seed=seed)


def fewer_rows(rows: dict[str, Row], best: Sequence[str]) -> dict[str, Row]:
    """Those for the sets that take long, with each CAM at its documented and its best block."""
    return {name: row for name, row in rows.items() if name in (*PERTURBED, *best)}


def best_layers(rows: dict[str, Row], found: Sequence[Marks]) -> list[str]:
    """Each CAM at the last block and at the one with the most energy inside, over some sets."""
    names = []
    for cam in CAMS:
        blocks = [name for name in rows if name.startswith(f"{cam}, block ")]
        energy = {
            name: sum(float(marks[name]["energy inside"].nanmean()) for marks in found)
            for name in blocks
        }
        names += [blocks[-1], max(energy, key=lambda name: energy[name])] if blocks else []
    return names


def some(asked: Questions, count: int) -> Questions:
    """The questions about so many pictures, drawn at random."""
    pictures = asked.scenes.unique()
    generator = torch.Generator().manual_seed(SEED)
    chosen = pictures[torch.randperm(len(pictures), generator=generator)[:count]]
    index = torch.cat([(asked.scenes == scene).nonzero()[:, 0] for scene in chosen])
    part = asked.select(index)
    rest = len(pictures) - len(chosen)
    undrawn = {"about pictures not drawn": len(asked) - len(part)} if rest else {}
    return replace(part, left_out={**asked.left_out, **undrawn})


@dataclass(frozen=True)
class Set:
    """Questions to one model, and how they are marked."""

    model: nn.Module
    asked: Questions
    perturbed: bool = False  # by deletion and insertion as well
    fewer: bool = False  # only the rows that are worth more time


def parts(asked: Questions, size: int) -> Iterator[Questions]:
    """The questions in parts of whole pictures, of at most `size` questions where those allow."""
    ends = [*(asked.scenes.diff() != 0).nonzero()[:, 0].add(1).tolist(), len(asked)]
    first = 0
    for end, after in zip(ends, [*ends[1:], None], strict=True):
        if after is None or after - first > size:
            yield asked.select(slice(first, end))
            first = end


def marks_of(given: Set, rows: dict[str, Row], sizes: Sizes, bar: tqdm) -> Marks:
    """The marks of every row; NaN where a slow one was not asked."""
    weights = fingerprint([tensor for _, tensor in sorted(given.model.state_dict().items())])
    marked: list[tuple[Questions, Marks]] = []
    done = 0
    for part in parts(given.asked, sizes.part):
        wanted = {name: row for name, row in rows.items() if done < sizes.slow or name not in SLOW}
        marked.append((part, part_marks(given, part, wanted, sizes.steps, KEPT / weights)))
        done += len(part)
        bar.update(len(part))
    measures = dict.fromkeys(m for _, marks in marked for row in marks.values() for m in row)

    def join(name: str, measure: str) -> Tensor:
        values = []
        for part, marks in marked:
            pairs = measure == "class likeness"
            none = torch.full((class_pairs(part).shape[1] if pairs else len(part),), torch.nan)
            values.append(marks.get(name, {}).get(measure, none.double()))
        return torch.cat(values)

    return {name: {measure: join(name, measure) for measure in measures} for name in rows}


def part_marks(
    given: Set, part: Questions, rows: dict[str, Row], steps: int, folder: Path
) -> Marks:
    """The marks of some questions, as far as they are kept in the folder; the others are added."""
    answers = fingerprint([part.x, part.targets, part.masks, part.others])
    path = folder / f"{answers}{f'-{steps}' if given.perturbed else ''}.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    missing = {name: row for name, row in rows.items() if key(name, row) not in known}
    if missing:
        new = question_marks(
            given.model,
            part,
            missing,
            steps=steps if given.perturbed else None,
            fills=FILLS,
            batch_size=len(part),
            progress=False,
        )
        for name, row in missing.items():
            known[key(name, row)] = {m: values.tolist() for m, values in new[name].items()}
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(known).encode())
    return {
        name: {m: torch.tensor(v).double() for m, v in known[key(name, row)].items()}
        for name, row in rows.items()
    }


def key(name: str, row: Row) -> str:
    """What a row computes, whatever it is called: a method with all its settings."""
    return repr(row) if isinstance(row, Method) else name


def fingerprint(tensors: Sequence[Tensor]) -> str:
    """A name for what tensors hold."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def run(sets: dict[str, Set], sizes: Sizes, more: dict[str, Row] | None = None) -> dict[str, dict]:
    """Mark all rows on all sets of one model, print the tables, and return what they hold."""
    for name, given in sets.items():
        print(f"{name}: {given.asked}")
    rows = all_rows(next(iter(sets.values())).model) | (more or {})
    full: list[Marks] = []
    results = {}
    total = sum(len(given.asked) for given in sets.values())
    with tqdm(total=total, unit="question", disable=None) as bar:
        for name, given in sets.items():
            bar.set_description(name)
            best = best_layers(rows, full)
            chosen = fewer_rows(rows, best) if given.fewer and full else rows
            marks = marks_of(given, chosen, sizes, bar)
            full += [] if given.fewer else [marks]
            results[name] = result(given, marks, sizes)
    best = best_layers(rows, full)
    for name, found in results.items():
        table = [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
        table = [row for row in table if ", block " not in row["method"] or row["method"] in best]
        shown = [measure for measure in SHOWN if any(row["measure"] == measure for row in table)]
        print(f"\n## {name}: {sets[name].asked}\n\n{format_table(table, shown, differences=True)}")
    return results


def block_shares(given: Set, size: int) -> list[float]:
    """How much of attribution each block gives: the mean over questions."""
    attribution = METHODS["attribution"]
    shares = []
    for part in given.asked.batches(size):
        capture = attribution.capture(given.model, part.x, target=part.targets)
        maps = [attribution.heatmap(capture, blocks=(b, b)) for b in range(len(capture.blocks))]
        sums = torch.stack(maps).sum((2, 3)).double()  # [L, B, rows, cols] -> [L, B]
        shares.append(sums / sums.sum(0))
    return rounded(torch.cat(shares, 1).nanmean(1).tolist())


def result(given: Set, marks: Marks, sizes: Sizes) -> dict:
    """What was asked, and the rows of the tables, rounded, as columns and lists."""
    table = compare_marks(marks, given.asked, reference=REFERENCE, seed=SEED)
    return {
        "questions": len(given.asked),
        "pictures": len(given.asked.scenes.unique()),
        "left_out": dict(given.asked.left_out),
        "blocks": len(library_of(given.model).block_modules()),
        "block shares": None if given.fewer else block_shares(given, sizes.part),
        "columns": list(table[0]),
        "rows": [rounded(row.values()) for row in table],
        "pairs": list(compared(given.asked, marks)),
    }


def compared(asked: Questions, marks: Marks) -> Iterator[list]:
    """For `PAIRS`: row, other row, measure, paired difference, low and high."""
    for row, other in PAIRS:
        if row in marks and other in marks:
            two = {name: marks[name] for name in (row, other)}
            for line in compare_marks(two, asked, reference=other, seed=SEED):
                if line["method"] == row and line["measure"] in SHOWN:
                    ends = (line["difference"], line["difference_low"], line["difference_high"])
                    yield [row, other, line["measure"], *rounded(ends)]


def rounded(values: Iterable) -> list:
    return [round(value, 4) if isinstance(value, float) else value for value in values]


def about(sizes: Sizes) -> dict:
    """What a result file says of how it was made."""
    return {
        "seed": SEED,
        "sizes": asdict(sizes),
        "fills": FILLS,
        "reference": REFERENCE,
        "intervals": "95 % bootstrap over pictures; simultaneous: max-t over all rows of a measure",
    }

"""Does it carry over? Every method, mistake, baseline and peer on photographs with known answers.

    python benchmarks/photographs.py FOLDER [--model NAME[=CHECKPOINT] ...] [--quick]
    python benchmarks/photographs.py --garden

FOLDER holds up to three folders as `vitexplain_utils.truth.photographs` describes them: `single`
(one thing in each photograph: mosaics of four, deletion and insertion), `boxes` (a thing and its
box) and `things` (several, with masks). With --garden the same rows are marked on garden scenes.

Pictures are drawn anew for 95 % bootstrap intervals. Each row is compared with gradient rollout on
the questions that both were asked; these differences' intervals are corrected for the number of
rows (max-t, all rows of a set and a measure together). SLOW rows are asked the first questions of
each set. Of CAMs at every block all known answers are in the result file; the printed tables and
the other sets have the documented layer, the last, and the one with the most energy inside.

Marks are kept in `build/marks`, so that a run that was interrupted goes on where it was; they are
found again by the questions, the weights and the settings, not by the code of a method: delete
them after changing that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import torch
from garden_table import scenes
from peers import CAMS, peers
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

import vitexplain_utils
from vitexplain_utils import METHODS, Capture, Method, capture_attention, load_model
from vitexplain_utils.methods import MISTAKES, Attribution
from vitexplain_utils.show.files import write_whole
from vitexplain_utils.truth import (
    Questions,
    ask_garden,
    ask_photographs,
    centre_map,
    class_pairs,
    compare_marks,
    constant_map,
    edge_map,
    format_table,
    mosaic_questions,
    question_marks,
    random_map,
)
from vitexplain_utils.truth.evaluation import Marks

ROOT = Path(__file__).parents[1]
RESULTS, KEPT = ROOT / "benchmarks" / "results", ROOT / "build" / "marks"
Row = Method | Callable[[Capture], Tensor]
REFERENCE = "gradient rollout"
SEED = 0
SPACE = re.compile(r"\s+")
FILLS = ("blur", "light blur", "mean")
SHOWN = ["peak inside", "energy inside", "share on asked-for", "class likeness",
         *(f"insertion − deletion{end}" for end in ("", ", light blur", ", mean"))]  # fmt: skip
SLOW = ("attribution, integrated", "attribution, integrated, plain gradient",
        "integrated gradients", "SmoothGrad")  # fmt: skip
PERTURBED = (
    "gradient rollout", "gradient rollout, attention held", "relevance",
    "relevance, attention held", "attribution", "attribution, plain gradient",
    "attribution, integrated", "attribution, last block alone",
    "rollout", "rollout, max, discard 0.9", "mistake: reversed_blocks",
    "all three mistakes, discard 0.9", "integrated gradients", "LeGrad", "AG-CAM",
    "baseline: edge", "baseline: random",
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

    mosaics: int = 75
    large: int = 6
    photographs: int = 220
    perturbed: int = 100
    slow: int = 32
    steps: int = 5
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
        held = capture_attention(
            capture.model, capture.x, target=capture.target, hold_attention=True
        )
    return METHODS["attribution"].heatmap(held)


def all_rows(model: nn.Module) -> dict[str, Row]:
    """Every row of the tables."""
    gradient, relevance, attribution, rollout, mistaken = (
        METHODS[name]
        for name in ("gradient_rollout", "relevance", "attribution", "rollout", "vit_explain")
    )
    last = len(model.blocks) - 1
    half = (len(model.blocks) // 2, last)
    rows: dict[str, Row] = {}
    for name, method in (
        ("gradient rollout", gradient),
        ("gradient rollout, discard 0.9", gradient.having(discard_ratio=0.9)),
        ("gradient rollout, residual 0.9", gradient.having(residual_weight=0.9)),
        ("relevance", relevance),
    ):
        rows[name] = method
        rows[f"{name}, attention held"] = method.having(hold_attention=True)
    for ending, hold in (("", True), (", plain gradient", False)):
        rows[f"attribution{ending}"] = attribution.having(hold_attention=hold)
        rows[f"attribution, integrated{ending}"] = attribution.having(steps=8, hold_attention=hold)
        rows[f"attribution, negatives dropped in each block{ending}"] = DropInEachBlock(
            hold_attention=hold
        )
        rows[f"attribution, last half, negatives dropped in each block{ending}"] = DropInEachBlock(
            blocks=half, hold_attention=hold
        )
    # the gradient of the last block's attention is the same with the attention held
    rows["attribution, last block alone"] = Attribution(blocks=(last, last), hold_attention=False)
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
    baselines = (edge_map, centre_map, random_map, constant_map)
    return rows | {f"baseline: {b.__name__.removesuffix('_map')}": b for b in baselines}


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


def photograph_sets(name: str, weights: str | None, folder: Path, sizes: Sizes) -> dict[str, Set]:
    """The sets of a folder of photographs, those with all rows first."""
    model = load_model(name, weights=weights)
    sets: dict[str, Set] = {}
    single = folder / "single"
    if single.is_dir():
        sets["mosaics"] = Set(
            model, mosaic_questions(model, single, seed=SEED, count=sizes.mosaics)
        )
    for kind, among in (("boxes", 1), ("things", 20)):
        if (folder / kind).is_dir():
            asked = ask_photographs(model, folder / kind, among=among)
            sets[kind] = Set(model, some(asked, sizes.photographs))
    if single.is_dir():
        asked = some(ask_photographs(model, single, above=0.5), sizes.perturbed)
        sets["deletion and insertion"] = Set(model, asked, perturbed=True, fewer=True)
        if sizes.large:
            side = 2 * sets["mosaics"].asked.x.shape[-1]
            large = load_model(name, weights=weights, img_size=side)
            asked = mosaic_questions(large, single, seed=SEED, count=sizes.large)
            sets[f"mosaics of {side} pixels"] = Set(large, asked, fewer=True)
    if not sets:
        raise SystemExit(f"{folder} holds none of the folders single, boxes and things")
    return sets


def garden_sets(sizes: Sizes) -> dict[str, Set]:
    """Garden scenes with two or three things, and one question about each of some of them."""
    model = load_model("garden")
    asked = ask_garden(model, list(islice(scenes(), sizes.photographs)))
    first = torch.cat([torch.tensor([True]), asked.scenes.diff() > 0])
    once = asked.select(first.nonzero()[: sizes.perturbed, 0])
    return {"garden": Set(model, asked), "deletion and insertion": Set(model, once, True, True)}


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
    """A row with all its settings."""
    return f"{name}: {row!r}" if isinstance(row, Method) else name


def fingerprint(tensors: Sequence[Tensor]) -> str:
    """A name for what tensors hold."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def run(sets: dict[str, Set], sizes: Sizes) -> dict[str, dict]:
    """Mark all rows on all sets of one model, print the tables, and return what they hold."""
    for name, given in sets.items():
        print(f"{name}: {given.asked}")
    rows = all_rows(next(iter(sets.values())).model)
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
            results[name] = result(given, marks)
    best = best_layers(rows, full)
    for name, found in results.items():
        table = [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
        table = [row for row in table if ", block " not in row["method"] or row["method"] in best]
        shown = [measure for measure in SHOWN if any(row["measure"] == measure for row in table)]
        print(f"\n## {name}: {sets[name].asked}\n\n{format_table(table, shown, differences=True)}")
    return results


def result(given: Set, marks: Marks) -> dict:
    """What was asked, and the rows of the tables, rounded, as columns and lists."""
    table = compare_marks(marks, given.asked, reference=REFERENCE, seed=SEED)
    rows = [
        [round(value, 4) if isinstance(value, float) else value for value in row.values()]
        for row in table
    ]
    return {
        "questions": len(given.asked),
        "pictures": len(given.asked.scenes.unique()),
        "left_out": dict(given.asked.left_out),
        "columns": list(table[0]),
        "rows": rows,
    }


def write(path: Path, models: dict[str, dict], sizes: Sizes, minutes: float) -> None:
    """The results as JSON, a line for each row of a table."""
    packages = ("torch", "timm", "captum", "grad-cam")
    document = {
        "versions": {
            "python": platform.python_version(),
            "vitexplain-utils": vitexplain_utils.__version__,
            **{name: installed(name) for name in packages},
        },
        "seed": SEED,
        "sizes": asdict(sizes),
        "fills": FILLS,
        "reference": REFERENCE,
        "intervals": "95 % bootstrap over pictures; simultaneous: max-t over all rows of a measure",
        "minutes": round(minutes, 1),
        "models": models,
    }
    lines = json.dumps(document, indent=1, ensure_ascii=False)
    lines = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda row: f"[{SPACE.sub(' ', row[1])}]", lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (lines + "\n").encode())
    print(f"\n{path}: {minutes:.1f} minutes")


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--model", action="append", metavar="NAME[=CHECKPOINT]")
    parser.add_argument("--garden", action="store_true", help="garden scenes, no photographs")
    parser.add_argument("--quick", action="store_true", help="a few questions, into build/")
    options = parser.parse_args()
    if options.garden == (options.folder is not None):
        parser.error("give a folder of photographs or --garden")
    start, sizes, models = time.perf_counter(), QUICK if options.quick else Sizes(), {}
    if options.garden:
        sizes = replace(sizes, steps=18)  # its things are small, and its model is
        models["garden"] = run(garden_sets(sizes), sizes)
    for text in [] if options.garden else options.model or ["deit_tiny_patch16_224"]:
        name, _, weights = text.partition("=")
        print(f"\n# {name}")
        models[text] = run(photograph_sets(name, weights or None, options.folder, sizes), sizes)
    folder = ROOT / "build" / "results" if options.quick else RESULTS
    path = folder / ("garden.json" if options.garden else "photographs.json")
    write(path, models, sizes, (time.perf_counter() - start) / 60)


if __name__ == "__main__":
    main()

"""Does it carry over? Every method, mistake, baseline and peer on photographs with known answers.

    python benchmarks/photographs.py FOLDER [--model NAME[=CHECKPOINT] ...] [--quick]

FOLDER holds up to three folders as `vitexplain_utils.truth.photographs` describes them: `single`
(one thing in each photograph: mosaics of four, deletion and insertion), `boxes` (a thing and its
box) and `things` (several, with masks). How rows are marked and compared: `marking.py`.
With the default sizes it takes about 40 minutes on two cores, with --quick four.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from marking import QUICK, SEED, Set, Sizes, about, run, some
from record import write_results

from vitexplain_utils import load_model
from vitexplain_utils.truth import ask_photographs, mosaic_questions


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", metavar="NAME[=CHECKPOINT]")
    parser.add_argument("--quick", action="store_true", help="a few questions, into build/")
    options = parser.parse_args()
    sizes, models = QUICK if options.quick else Sizes(), {}
    for text in options.model or ["deit_tiny_patch16_224"]:
        name, _, weights = text.partition("=")
        print(f"\n# {name}")
        models[name] = run(photograph_sets(name, weights or None, options.folder, sizes), sizes)
    found = {**about(sizes), "models": models}
    write_results("photographs", found, quick=options.quick, packages=("captum", "grad-cam"))


if __name__ == "__main__":
    main()

"""Everything here once more, counted: `python -m tests.adversarial`, from the top folder."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))

from adversarial.files import broken_files, read_broken
from adversarial.inputs import GROUPS, verdict


def main() -> int:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    bad: list[str] = []
    total = 0
    for group, cases in GROUPS.items():
        verdicts = [verdict(*case) for case in cases()]
        wrong = [said for said in verdicts if said]
        print(f"bad arguments, {group}: {len(verdicts)} calls, {len(wrong)} not refused by name")
        total, bad = total + len(verdicts), bad + wrong
    ends = Counter(read_broken(content) for _, content in broken_files())
    print(f"broken pictures: {dict(ends)}")
    print(f"{total} bad calls, {len(bad)} not refused by name; {ends['raw error']} raw errors")
    print(*bad, sep="\n")
    return bool(bad or ends["raw error"])


if __name__ == "__main__":
    sys.exit(main())

"""Mutation testing: do the tests of a module notice when what it computes is changed?

cosmic-ray makes the mutants, of which a seeded sample is taken, and each meets the tests of its own
module. The tests are collected once; for each mutant the process is forked and the changed function
gets its new code in place. What stands outside of functions (defaults, constants) is left alone.
`equivalent.toml` lists mutants that compute the same, each with its reason.
"""

from __future__ import annotations

import argparse
import difflib
import gc
import inspect
import os
import random
import re
import resource
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType

import cosmic_ray.plugins
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GROUPS = tomllib.loads((HERE / "modules.toml").read_text())
LISTED = tomllib.loads((HERE / "equivalent.toml").read_text())["mutant"]
EQUIVALENT = {(one["module"], one["lines"]) for one in LISTED}
JOBS, LIMIT = 2, 300  # mutants at a time, and seconds of processor time for one
OPTIONS = ["-p", "no:cacheprovider", "-p", "no:terminal", "-o", "addopts=--strict-markers"]
# `is` for `==` changes the style alone, `is` for `<` is no sane code, the last two need arguments.
LEFT_OUT = re.compile(r"(Eq|Lt|LtE|Gt|GtE)_Is(Not)?$|Is_Eq$|IsNot_NotEq$|Variable")
Mutant = tuple[dict[str, CodeType], str]  # new code by function, and the lines, `old -> new`


def functions(code: CodeType) -> Iterator[tuple[str, CodeType]]:
    """Every function of a module and of its classes, by name."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            optimised = inner.co_flags & inspect.CO_OPTIMIZED  # a function, not a class
            yield from [(inner.co_qualname, inner)] if optimised else functions(inner)


def content(code: CodeType) -> tuple:
    """What a function does, wherever it stands."""
    inner = [content(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, inner


def changed(before: str, after: str) -> str:
    """The lines that differ, as `old -> new`, by which a mutant is known."""
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    old, new = (" ".join(line[2:].strip() for line in lines if line[0] == sign) for sign in "-+")
    return f"{old} -> {new}"


def mutants(path: Path, inside: str, rng: random.Random) -> Iterator[Mutant]:
    """One mutant for each place in the functions (or methods of one class) of a module."""
    source = path.read_text()
    tree, plain = get_ast(source), dict(functions(compile(source, str(path), "exec")))
    places: dict[tuple[int, int], list] = {}
    for name in cosmic_ray.plugins.operator_names():
        if not LEFT_OUT.search(name):
            operator = cosmic_ray.plugins.get_operator(name)()
            at = [start for n in ast_nodes(tree) for start, _ in operator.mutation_positions(n)]
            for occurrence, start in enumerate(at):
                places.setdefault(start, []).append((operator, occurrence))
    for start in sorted(places):
        after = mutate_code(source, *rng.choice(places[start]))
        try:
            found = dict(functions(compile(after, str(path), "exec")))
        except SyntaxError:  # as of a `*` that is no product
            continue
        new = {n: code for n, code in found.items() if content(code) != content(plain[n])}
        if new and all(name.startswith(inside) for name in new):
            yield new, changed(source, after)


class Loop:
    """A pytest plugin that runs the collected tests once for each mutant, in a fork."""

    def __init__(self, path: Path, sample: list[Mutant]) -> None:
        self.path, self.sample = path, sample
        self.fates: Counter[str] = Counter()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        left, running = [({}, ""), *self.sample][::-1], {}
        while left or running:
            if left and len(running) < JOBS:
                mutant = left.pop()
                running[os.fork() or self.test(session, mutant[0])] = mutant[1]
            done, status = os.waitpid(-1, os.WNOHANG)
            time.sleep(0 if done else 0.02)
            if done:
                self.note(running.pop(done), status != 0)
        return True

    def test(self, session: pytest.Session, new: dict[str, CodeType]) -> int:
        """In the fork: the changed code in place, and the tests up to the first that fails."""
        failed = True
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
            for function in [one for one in gc.get_objects() if type(one) is FunctionType]:
                code = function.__code__
                if code.co_filename == str(self.path):
                    function.__code__ = new.get(code.co_qualname, code)
            for item, after in zip(session.items, [*session.items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
                if session.testsfailed:
                    break
            failed = bool(session.testsfailed)
        finally:
            os._exit(failed)

    def note(self, lines: str, failed: bool) -> None:
        if not lines and failed:
            raise SystemExit(f"the tests of {self.path} fail without a mutant")
        if lines:
            self.fates["killed" if failed else "survived"] += 1
            print("" if failed else f"survived in {self.path.name}: {lines}\n", end="", flush=True)


def score(name: str, fates: Counter[str]) -> str:
    """How many were killed, of those that are not equivalent."""
    of = fates["killed"] + fates["survived"]
    share = fates["killed"] / max(of, 1)
    return (
        f"{name}: {fates['killed']} of {of} killed, {share:.0%}; {fates['equivalent']} equivalent"
    )


def main() -> None:
    """Print the survivors, and for each group how many were killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", default=list(GROUPS))
    parser.add_argument("--mutants", type=int, default=30, help="of each group")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["CI"] = "true"  # property tests always look at the same
    total: Counter[str] = Counter()
    for group in options.groups:
        rng, tests = random.Random(f"{options.seed} {group}"), GROUPS[group]["tests"]
        inside = GROUPS[group].get("inside", "")
        pool = [(module, one) for module in tests for one in mutants(ROOT / module, inside, rng)]
        sample = rng.sample(pool, min(options.mutants, len(pool)))
        fates: Counter[str] = Counter()
        for module in tests:
            mine = [one for whose, one in sample if whose == module]
            asked = [one for one in mine if (module, one[1]) not in EQUIVALENT]
            loop = Loop(ROOT / module, asked)
            files = [str(ROOT / "tests" / f"{name}.py") for name in tests[module]]
            if asked:
                pytest.main([*OPTIONS, *files], plugins=[loop])
            fates += loop.fates + Counter(equivalent=len(mine) - len(asked))
        print(score(f"{group}, {len(pool)} places", fates), flush=True)
        total += fates
    print(score("all", total))


if __name__ == "__main__":
    main()

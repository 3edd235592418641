from __future__ import annotations

import pytest
from torch.nn import functional

from .files import EACH, KINDS, broken_files, read_broken
from .inputs import GROUPS, verdict

FUNCTION = functional.scaled_dot_product_attention


@pytest.mark.parametrize("group", GROUPS)
def test_bad_arguments_are_named(group):
    cases = GROUPS[group]()
    wrong = {number: said for number, case in enumerate(cases) if (said := verdict(*case))}
    assert not wrong and len(cases) > 40
    assert functional.scaled_dot_product_attention is FUNCTION


@pytest.mark.parametrize("kind", KINDS)
def test_broken_pictures_are_refused_by_name(kind):
    ends = [read_broken(content) for of, content in broken_files() if of == kind]
    assert ends.count("read") + ends.count("refused") == len(ends) == EACH
    assert ends.count("refused") > 5

"""The guide lists the options that kinds have. Reads: docs/guides/own_features.md."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from adc_features import inputs
from adc_features.inputs import Input, VocabularyOptions, declaration

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "own_features.md"
SECTION = GUIDE.read_text(encoding="utf-8").split("Every kind but `skip`")[1].split("###")[0]
KINDS = {name: kind for name, kind in vars(declaration).items() if name in inputs.__all__}
KINDS = {n: k for n, k in KINDS.items() if n.islower() and isinstance(k, type) and n != "skip"}


def own(kind: type) -> set[str]:
    """Options of a kind alone."""
    shared = {f.name for base in (Input, VocabularyOptions) for f in fields(base)}
    return {f.name for f in fields(kind)} - shared


@pytest.mark.parametrize("name", KINDS)
def test_the_guide_lists_the_options_of_a_kind(name):
    """The rows of the table that begin with a kind name its own options, no other."""
    rows = re.findall(rf"^\| `{name}`[^|]*\| (.*) \|$", SECTION, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == own(KINDS[name])


def test_the_guide_says_which_options_all_kinds_and_vocabularies_have():
    """The sentence before the table names shared options and the kinds with a vocabulary."""
    told = set(re.findall(r"`(\w+)`", SECTION.split("| kind |")[0]))
    shared = {f.name for base in (Input, VocabularyOptions) for f in fields(base)}
    of_values = {name for name, kind in KINDS.items() if issubclass(kind, VocabularyOptions)}
    assert told == shared | of_values


def test_declarations_import_from_the_old_place_too():
    """A repository that names `adc_features.inputs.declaration` declares the same kinds."""
    for name in inputs.__all__:
        assert getattr(declaration, name) is getattr(inputs, name)

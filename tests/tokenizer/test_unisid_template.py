"""Summaries from a template: what the sentence says, words of one's own, files that are refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from adc_features.codes.raw_items import RawItems
from adc_features.errors import InputError
from adc_features.tokenizer.end_to_end.settings import unisid_e2e
from adc_features.tokenizer.end_to_end.summaries import summary_texts
from adc_features.tokenizer.end_to_end.template import template_texts

RAW = RawItems.of(
    title=["Travel Jacket, Women's", "Boys travel mug", None, "Amended womenswear setting", None],
    brand=["Acme", None, "Bolt", None, None],
    path=[["Apparel", "Jackets"], ["Kitchen", "Mugs"], None, None, None],
    further=[["Blue", "under 50"], None, None, None, None],
)


def test_the_sentence_says_what_is_known_of_an_item() -> None:
    """Leaf, brand, audience, further attributes, use; words match whole, in any case, and what
    nothing is known of has no sentence.
    """
    assert template_texts(RAW, None) == [
        "Jackets by Acme for women, Blue, under 50, for travel",
        "Mugs for boys, for travel",
        "by Bolt",
        "",
        "",
    ]


def test_words_of_ones_own_take_the_place_of_ours(tmp_path: Path) -> None:
    """Phrases of several words and signs are plain text; the settings name the file."""
    words = tmp_path / "words.toml"
    words.write_text(
        '[audience]\ntravellers = ["travel jacket"]\n[use]\n"in short" = ["women\'s", "(mug)"]\n',
        encoding="utf-8",
    )
    settings = replace(unisid_e2e(), summary="template", template=str(words))
    assert summary_texts(RAW, settings)[:2] == [
        "Jackets by Acme for travellers, Blue, under 50, in short",
        "Mugs",
    ]


def test_a_file_that_no_summary_reads_is_refused() -> None:
    """The message says what to set."""
    with pytest.raises(InputError, match="set summary='template'"):
        replace(unisid_e2e(), template="words.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("[audience", "is no TOML"),
        ("[audience]\n", r"\[use\] of .* is None"),
        ('[audience]\nmen = "men"\n[use]\n', r"expected a table of lists of words"),
        ('[audience]\nmen = [""]\n[use]\n', r"expected a table of lists of words"),
        ("[audience]\n[use]\n[price]\n", r"has the tables \['price'\]"),
    ],
)
def test_files_that_list_no_words_are_refused(tmp_path: Path, text: str | None, words: str) -> None:
    """The message names the file and what it should hold."""
    path = tmp_path / "words.toml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        template_texts(RAW, str(path))

"""A sentence about each item, from a list of words. Reads: RawItems, a TOML file. Writes: texts."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from adc_features.codes.raw_items import RawItems
from adc_features.errors import InputError

PACKAGED = Path(__file__).with_name("template.toml")
PARTS = ("audience", "use")
Meanings = Mapping[str, re.Pattern[str]]


def template_texts(raw: RawItems, path: str | None) -> list[str]:
    """Of each item "{leaf category} by {brand} for {audience}, {further attributes}, {use}",
    without what is not known of it; "" where nothing is. path: the file of words, None for ours.
    """
    audience, use = _meanings(PACKAGED if path is None else Path(path))
    texts = []
    columns = (raw.title, raw.brand, raw.path, raw.further)
    for title, brand, path_of, further in zip(*(c.to_pylist() for c in columns), strict=True):
        categories = path_of or []
        said = " ".join([title or "", *categories]).lower()
        whom = " and ".join(_meant(audience, said))
        by, of_whom = f"by {brand}" if brand else "", f"for {whom}" if whom else ""
        head = " ".join(filter(None, [*categories[-1:], by, of_whom]))
        texts.append(", ".join(filter(None, [head, *(further or []), *_meant(use, said)])))
    return texts


def _meant(meanings: Meanings, text: str) -> list[str]:
    """What a text in lower case says, of those meanings."""
    return [meaning for meaning, words in meanings.items() if words.search(text)]


def _meanings(path: Path) -> tuple[Meanings, Meanings]:
    """What each part of the sentence may say, and the words that mean it."""
    try:
        read = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"the words of the template cannot be read from {path} ({error.strerror}); correct"
            " `template`, or leave it out"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is no TOML ({error}); see {PACKAGED} for an example") from error
    found = []
    for part in PARTS:
        words = read.get(part)
        if not isinstance(words, dict) or not all(
            isinstance(of, list) and of and all(isinstance(w, str) and w.strip() for w in of)
            for of in words.values()
        ):
            raise InputError(
                f"[{part}] of {path} is {words!r}; expected a table of lists of words, such as"
                f' men = ["men", "mens"]; see {PACKAGED} for an example'
            )
        found.append({meaning: _any_of(of) for meaning, of in words.items()})
    if unknown := sorted(set(read) - set(PARTS)):
        raise InputError(f"{path} has the tables {unknown}; expected {list(PARTS)} alone")
    return found[0], found[1]


def _any_of(words: list[str]) -> re.Pattern[str]:
    either = "|".join(re.escape(word.strip().lower()) for word in words)
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)")

"""What the code says about its sources can be looked up.
Reads: docs/method_notes.md, docstrings.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = sorted(
    p
    for place in ("adc_features", "training", "tests/tokenizer")
    for p in (ROOT / place).rglob("*.py")
)


def references() -> list[str]:
    """The text after each "method notes:" in code, up to the end of its bracket or sentence."""
    found = []
    for path in CODE:
        text = re.sub(r"\s+(?:# )?", " ", path.read_text(encoding="utf-8"))
        found += re.findall(r"\(?method notes: ([A-Z][^().;\"]*)[);.]", text)
    return found


def test_every_reference_to_the_method_notes_is_a_heading() -> None:
    """A comment that names a heading of the method notes names one that is there."""
    text = (ROOT / "docs" / "method_notes.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert len(references()) > 15
    for reference in references():
        assert any(h.startswith(reference.strip()) for h in headings), reference


@pytest.mark.parametrize("pattern", [r"\bA\d{1,2}\b[);,.]", r"\bmethods\s+\d"])
def test_nothing_refers_to_notes_outside_the_repository(pattern: str) -> None:
    """No docstring names a numbered entry that a reader cannot find."""
    for path in (p for place in ("adc_features", "training") for p in (ROOT / place).rglob("*.py")):
        assert not re.findall(pattern, path.read_text(encoding="utf-8")), path

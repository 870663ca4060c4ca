"""Contrast of every pair of colours that the pages put together. Reads: the style sheets."""

import re

import pytest

from adc_features.explore.site import assets

TEXTS = ("ink", "muted", "blue", "green", "red")
"""What words, links and lines of charts are written in; on the page and on cards."""
SHADES = 10
SIGNS = ("grey", "orange", "blue")
"""Borders of fields, the outline of what has the focus, lines of charts."""


def colours(scheme):
    """Name -> red, green, blue of a scheme, 0..255."""
    style, _ = assets()["style.css"]
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    said = re.findall(r"--(\w+): #(\w+);", light + (dark if scheme == "dark" else ""))
    whole = {name: text if len(text) == 6 else "".join(c * 2 for c in text) for name, text in said}
    return {n: tuple(int(t[at : at + 2], 16) for at in (0, 2, 4)) for n, t in whole.items()}


def luminance(colour):
    """As WCAG 2.2 defines it."""
    parts = [v / 255 for v in colour]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_wcag():
    """Black on white is 21 to 1, a colour on itself 1 to 1, and the grey #767676 just passes."""
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((9, 9, 9), (9, 9, 9)) == 1
    assert contrast((0x76,) * 3, (255,) * 3) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ground", ["page", "card"])
def test_texts_and_signs_stand_out(scheme, ground):
    """Texts at least 4.5 to 1, borders of fields and outlines at least 3 to 1."""
    found = colours(scheme)
    for least, names in ((4.5, TEXTS), (3.0, SIGNS)):
        for name in names:
            assert contrast(found[name], found[ground]) >= least, (name, ground)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_shade_of_the_map_leaves_its_code_readable(scheme):
    """The ink on a card with as much blue as each shade mixes in."""
    found, style = colours(scheme), assets()["style.css"][0]
    shades = re.findall(
        r"\.u(\d) \{ background: color-mix\(in srgb, var\(--blue\) (\d+)%, var\(--card\)\)", style
    )
    assert [int(name) for name, _ in shades] == list(range(SHADES))
    for name, percent in shades:
        part = int(percent) / 100
        pairs = zip(found["blue"], found["card"], strict=True)
        ground = tuple(part * blue + (1 - part) * card for blue, card in pairs)
        assert contrast(found["ink"], ground) >= 4.5, name


def test_no_rule_writes_a_colour_that_is_not_among_these():
    """Every text is in a colour of the list, and only the print's white is written out."""
    style, _ = assets()["style.css"]
    rules = re.sub(r":root \{.*?\}", "", style, flags=re.DOTALL)
    written = set(re.findall(r"(?<![-\w])color: ([^;}\s]+)", rules))
    assert written <= {f"var(--{name})" for name in TEXTS}
    assert set(re.findall(r"#[0-9a-f]{3,8}\b", rules)) <= {"#fff"}

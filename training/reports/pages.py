"""How every page is made and written. Reads: the templates of this package. Writes: HTML files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adc_features.artifact import write_atomically
from adc_features.html_page import STYLE, page_style


def render(template: str, filters: Mapping[str, Callable[[Any], Any]], **values: Any) -> str:
    """The page that a template of this package makes of values; text is escaped."""
    import jinja2

    loader = jinja2.ChoiceLoader(
        [
            jinja2.PackageLoader("training.reports", ""),
            jinja2.FunctionLoader(lambda name: page_style() if name == STYLE.name else None),
        ]
    )
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= dict(filters)
    return environment.get_template(template).render(**values)


def write_page(path: Path, page: str) -> None:
    """A reader sees the old page or the new one, never a half."""
    write_atomically(path, page)

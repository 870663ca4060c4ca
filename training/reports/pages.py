"""How every page is made and written. Reads: the templates of this package. Writes: HTML files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adc_features.artifact import write_atomically
from adc_features.html_page import template_environment


def render(template: str, filters: Mapping[str, Callable[[Any], Any]], **values: Any) -> str:
    """The page that a template of this package makes of values; text is escaped."""
    environment = template_environment("training.reports", "", filters)
    return environment.get_template(template).render(**values)


def write_page(path: Path, page: str) -> None:
    """A reader sees the old page or the new one, never a half."""
    write_atomically(path, page)

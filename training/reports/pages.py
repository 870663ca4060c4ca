"""The template environment of every page."""

from collections.abc import Callable, Mapping
from typing import Any


def render(template: str, filters: Mapping[str, Callable[[Any], Any]], **values: Any) -> str:
    """The page that a template of this package makes of values; text is escaped."""
    import jinja2

    loader = jinja2.PackageLoader("training.reports", "")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= dict(filters)
    return environment.get_template(template).render(**values)

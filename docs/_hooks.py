"""Pages that follow from the code: the commands, the Python API, the changelog. Reads: the command
line, the packages, CHANGELOG.md. Writes: pages of the site, none of them into the tree.

mkdocs calls the functions `on_*` (mkdocs.yml, `hooks`). After the build, every page is checked for
scripts, styles, fonts and images of other hosts: there must be none.
"""

import html
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "store": "Feast plugins, publishing, joins and lookups",
    "codes": "Semantic IDs, generations and their quality",
    "data": "Data sets",
    "inputs": "Declared inputs of a ranker",
    "encoders": "Text and behaviour vectors",
    "tokenizer": "Fitting and encoding",
    "encoding": "Encoding of catalogues in files",
    "engines": "Where work on files is done",
    "loader": "Batches for training",
    "ranking": "Trained rankers",
    "catalog": "The record of a deployment",
    "serving": "Promotion and the ranking service",
    "pipeline": "Runs, audits and manifests",
}
OPTIONAL = {"api.md": "The public API", "method_notes.md": "Method notes"}
"""Pages that join the navigation where they exist: path -> title."""
LOADED = (
    r"<(?:script|img|iframe)\b[^>]*\bsrc=",
    r"<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preconnect|preload))[^>]*\bhref=",
)
ELSEWHERE = re.compile(f"(?:{'|'.join(LOADED)})[\"']?(?:https?:)?//")
"""What makes a browser load something from another host."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the generated and the optional pages to the navigation."""
    pages = [{f"adc_features.{name}": f"reference/api/{name}.md"} for name in PACKAGES]
    for section in config.nav or []:
        if "Reference" in section:
            section["Reference"].insert(1, {"Python API": pages})
            section["Reference"].append({"Errors": "reference/api/errors.md"})
            if (ROOT / "docs/api.md").is_file():
                section["Reference"].insert(1, {OPTIONAL["api.md"]: "api.md"})
        if "Concepts" in section and (ROOT / "docs/method_notes.md").is_file():
            section["Concepts"].append({OPTIONAL["method_notes.md"]: "method_notes.md"})
    (config.nav or []).append({"Changelog": "changelog.md"})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "](")
    pages = {"reference/cli.md": commands_page(), "changelog.md": changelog}
    pages["reference/api/errors.md"] = "# Errors\n\n::: adc_features.errors\n"
    for name, title in PACKAGES.items():
        pages[f"reference/api/{name}.md"] = package_page(f"adc_features.{name}", title)
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_post_build(*, config: MkDocsConfig) -> None:
    """Raise PluginError when a page loads something from another host."""
    for page in sorted(Path(config.site_dir).rglob("*.html")):
        if found := ELSEWHERE.search(page.read_text(encoding="utf-8")):
            raise PluginError(f"{page} loads from another host: {found.group(0)}...")


def package_page(package: str, title: str) -> str:
    """The page of a package: the names of its `__all__`,
    or its public modules where it has none.
    """
    module = importlib.import_module(package)
    lines = [f"# {title}", "", f"`{package}`", ""]
    for name in getattr(module, "__all__", []):
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            lines += [f"::: {value.__module__}.{value.__qualname__}", ""]
            if value.__name__ != name:  # a class that is called by a lower-case name
                lines[-1:-1] = [
                    "    options:",
                    f"      heading: {name}",
                    f"      toc_label: {name}",
                ]
        else:
            lines += [f"## {name}", "", f"A value of type `{type(value).__name__}`.", ""]
    if not getattr(module, "__all__", []):
        for part in pkgutil.iter_modules(module.__path__, f"{package}."):
            if not part.ispkg and not part.name.rsplit(".", 1)[1].startswith("_"):
                lines += [f"::: {part.name}", "    options:", "      show_root_full_path: true", ""]
    return "\n".join(lines)


def commands_page() -> str:
    """Every command with its arguments and options, as the command line defines them."""
    import typer

    from adc_features.cli.main import application

    lines = [
        "# Commands",
        "",
        "This page is generated from the command line itself; `adc COMMAND --help` shows the same.",
        "Every command that prints a result also takes `--json FILE`, or `--json -` for standard"
        " output. Exit code 0 is success, 1 a refusal with its reason, 2 wrong usage; other codes"
        " are named with their command.",
        "",
    ]
    for name, command in _commands(typer.main.get_command(application()), "adc"):
        lines += [f"## {name}", "", _text(command.help or ""), "", *_usage(name, command)]
    return "\n".join(lines)


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for part in sorted(command.commands):
        yield from _commands(command.commands[part], f"{name} {part}")


def _usage(name: str, command: Any) -> list[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    words = " ".join([name, *(_metavar(p, context) for p in arguments), "[OPTIONS]"])
    lines = ["```text", words, "```", ""]
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        head = ", ".join(f"`{o}`" for o in [*parameter.opts, *parameter.secondary_opts])
        if parameter.param_type_name == "argument":
            head = f"`{_metavar(parameter, context)}`"
        elif not getattr(parameter, "is_bool_flag", False):
            head += f" `{_metavar(parameter, context)}`"
        needed = " (required)" if parameter.required else ""
        default = parameter.default
        plain = isinstance(default, int | float | str) and not isinstance(default, bool)
        tail = f" Default: `{default}`." if plain and default != "" else ""
        lines += [f"{head}{needed}", f":   {_text(getattr(parameter, 'help', '') or '')}{tail}", ""]
    return lines


def _metavar(parameter: Any, context: Any) -> str:
    """What stands for the value in the usage line."""
    if parameter.metavar:
        return str(parameter.metavar)
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    return str(parameter.display_type(context))


def _text(words: str) -> str:
    """Help text as Markdown: outside of backticks, what looks like markup is shown as it is."""
    parts = " ".join(words.split()).split("`")
    parts[::2] = [re.sub(r"([\[\]*_])", r"\\\1", html.escape(p, quote=False)) for p in parts[::2]]
    return "`".join(parts)

"""README and the guides say what is so: commands parse, short blocks run, variables are read.
Reads: README.md, docs, the command line.
"""

import functools
import importlib
import itertools
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from adc_features.cli.main import application

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDES = DOCS / "guides"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


class Command(NamedTuple):
    """A line of a block. where: page and line; words:
    without `adc`; said: options that its comment names.
    """

    where: str
    words: list[str]
    said: list[str]


def blocks(page: Path) -> list[tuple[int, str, list[str]]]:
    """(line, language, lines) of every fenced or indented block;
    an indented one has no language.
    """
    found, fence, open_block = [], None, None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            fence = None if fence else (number + 1, line[3:].strip(), [])
            if fence:
                found.append(fence)
        elif fence:
            fence[2].append(line)
        elif line.startswith("    ") and line.strip():
            if open_block is None:
                open_block = (number, "", [])
                found.append(open_block)
            open_block[2].append(line[4:])
            continue
        open_block = None
    return found


def commands(page: Path) -> list[Command]:
    """Every `adc ...` line of the page's blocks, lines that end in a backslash joined."""
    found = []
    for start, language, lines in blocks(page):
        if language not in ("", "bash", "sh", "shell", "console"):
            continue
        text = "\n".join(lines).replace("\\\n", " ")
        for at, line in enumerate(text.splitlines()):
            if line.startswith("adc "):
                command, _, comment = line.partition(" #")
                found.append(
                    Command(
                        f"{page.relative_to(ROOT)}:{start + at}",
                        shlex.split(command)[1:],
                        OPTION.findall(comment),
                    )
                )
    return found


@functools.cache
def root() -> Any:
    """The whole command line."""
    return typer.main.get_command(application())


def resolved(words: list[str]) -> tuple[Any, str, list[str]]:
    """The command that the words name, its name, and the words after it. Raises LookupError when
    there is none.
    """
    command, name, rest = root(), "adc", list(words)
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            raise LookupError(f"{name} has no command {rest[:1]}")
        name = f"{name} {rest[0]}"
        command = command.commands[rest.pop(0)]
    return command, name, rest


def fault(words: list[str]) -> str | None:
    """Why the command line refuses these words, None when it takes them. `...` stands for options
    that are left out.
    """
    try:
        command, name, rest = resolved(words)
        if "..." in rest:
            names = {
                option
                for parameter in command.params
                for option in (*parameter.opts, *parameter.secondary_opts)
            }
            unknown = [w for w in rest if w.startswith("--") and w.partition("=")[0] not in names]
            return f"{name} has no option {unknown}" if unknown else None
        command.make_context(name, rest)
    except LookupError as error:
        return str(error)
    except Exception as error:  # the parser's own, which typer keeps private
        if not hasattr(error, "format_message"):
            raise
        return error.format_message()
    return None


def test_every_command_of_a_page_is_one_that_the_command_line_takes():
    """Command, options, values and required arguments are those of the parser; options that a
    comment names exist too.
    """
    found = [command for page in PAGES for command in commands(page)]
    assert len(found) > 35
    wrong = []
    for where, words, said in found:
        if problem := fault(words):
            wrong.append(f"{where}: adc {' '.join(words)}: {problem}")
        elif said:
            names = {
                option
                for parameter in resolved(words)[0].params
                for option in (*parameter.opts, *parameter.secondary_opts)
            }
            wrong += [
                f"{where}: {option} is no option of adc {words[0]}"
                for option in said
                if option not in names
            ]
    assert wrong == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("promote --run runs/next --to /srv/promotion.json", "No such option: --to"),
        ("show", "Missing argument"),
        ("promot --run x", "adc has no command ['promot']"),
        ("embed", "adc embed has no command []"),
        ("retrain --run x --window-days many", "Invalid value"),
        ("compare ... --strat", "adc compare has no option ['--strat']"),
    ],
)
def test_a_command_that_does_not_exist_is_found(words, problem):
    """An unknown command or option, a missing option and a value of another type are faults."""
    assert problem in fault(words.split())


GROUPS = ("data", "embed", "retrieve")
"""Commands that hold others."""


def alternatives(words: list[str]) -> list[list[str]]:
    """What `data tables|beauty` or `compare|ablate` stands for: the words that name a command, one
    list for each.
    """
    named = list(itertools.takewhile(lambda word: re.fullmatch(r"[a-z|]+", word), words))[
        : 2 if words[0] in GROUPS else 1
    ]
    return [list(choice) for choice in itertools.product(*(word.split("|") for word in named))]


def test_commands_in_running_text_exist():
    """`adc fit --tokenizer NAME` between backticks: the command and each of its options exist (a|b
    stands for either).
    """
    wrong, seen = [], 0
    for page in PAGES:
        for text in re.findall(r"`adc ([a-z][^`\n]*)`", page.read_text(encoding="utf-8")):
            for words in alternatives(text.replace("\\|", "|").split()):
                seen += 1
                if len(words) == 1 and hasattr(root().commands.get(words[0]), "commands"):
                    continue  # a group, named as such
                try:
                    command, name, _ = resolved(words)
                except LookupError as error:
                    wrong.append(f"{page.name}: adc {text}: {error}")
                    continue
                names = {
                    option
                    for parameter in command.params
                    for option in (*parameter.opts, *parameter.secondary_opts)
                }
                wrong += [
                    f"{page.name}: adc {text}: {name} has no option {o}"
                    for o in OPTION.findall(text)
                    if o not in names and o != "--help"
                ]
    assert seen > 60
    assert wrong == []


def test_the_month_of_ones_own_service_has_every_command_that_it_needs():
    """The guide to production shows every command that takes `--repo` with it, and no other."""
    taking = {
        name
        for name, command in root().commands.items()
        if any("--repo" in parameter.opts for parameter in command.params)
    }
    told = {c.words[0] for c in commands(GUIDES / "production.md") if "--repo" in c.words}
    assert told == taking


def test_every_command_stands_in_a_page():
    """Each command, and each of a group, is shown or named somewhere in README or docs."""
    told = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shown = [command.words for command in commands(page)]
        for words in re.findall(r"`adc ([a-z][^`]*)`", text):
            shown += alternatives(words.replace("\\|", "|").split())
        told |= {" ".join(words[: 2 if words[0] in GROUPS else 1]) for words in shown}
    every = {
        f"{name} {inner}" if name in GROUPS else name
        for name, command in root().commands.items()
        for inner in getattr(command, "commands", [""])
    }
    assert every - told == set()


def test_a_variable_that_tests_are_said_to_read_is_read_by_a_test():
    """Each ADC_ variable of CONTRIBUTING stands in a test."""
    said = set(re.findall(r"ADC_[A-Z_]+", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    tests = " ".join(
        p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("*.py") if p != Path(__file__)
    )
    assert said
    assert {name for name in said if name not in tests} == set()


def test_links_between_pages_lead_somewhere():
    """Every relative link of a page names a file that exists."""
    broken = [
        f"{page.name}: {link}"
        for page in PAGES
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert broken == []


# ---- short blocks, run on a generated shop


def adc(*words: str) -> str:
    """Run a command in this process; its exit code must be 0. What it printed."""
    result = CliRunner().invoke(application(), [*words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder in which every block of the tutorial ran: generated/, shop/ and runs/shop."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_page(DOCS / "tutorial.md")
    return folder


def run_page(page: Path) -> None:
    """Run every block of a page in order, as a reader pastes it: commands and Python alike."""
    names: dict[str, Any] = {}
    for start, language, lines in blocks(page):
        where = f"{page.relative_to(ROOT)}:{start}"
        if language == "python":
            exec(compile("\n".join(lines), where, "exec"), names)
            continue
        assert language == "bash", f"{where}: a block of {language!r} cannot be run"
        for line in "\n".join(lines).replace("\\\n", " ").splitlines():
            program, *words = shlex.split(line)
            assert program == "adc", f"{where}: {line}"
            adc(*words)


@pytest.fixture
def here(shop, monkeypatch):
    """The folder as the current one."""
    monkeypatch.chdir(shop)
    return shop


def filled(words: list[str], **values: str) -> list[str]:
    """The words of a page with its placeholders filled in."""
    return [values.get(word, word) for word in words]


@pytest.mark.slow  # after the whole tutorial
def test_every_block_of_the_tutorial_runs(here):
    """The tutorial leaves what it names: a dataset, a report and a promotion."""
    for path in ("shop/manifest.json", "runs/shop/report.html", "runs/shop/promotion.json"):
        assert (here / path).is_file()


@pytest.mark.slow  # after the whole tutorial
def test_readme_s_commands_run(here, tmp_path, monkeypatch):
    """README's commands read two tables, check them, and look an item up in a run."""
    words = [command.words for command in commands(ROOT / "README.md")]
    tables, doctor, run, lookup = words[:4]
    assert [each[0] for each in (tables, doctor, run)] == ["data", "doctor", "run"]
    assert "g1" in adc(*filled(lookup, ITEM="i000001"))
    for name in ("items.parquet", "interactions.parquet"):
        (tmp_path / name).write_bytes((here / "generated" / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    adc(*tables)
    adc(*doctor)


@pytest.mark.slow  # after the whole tutorial
def test_the_commands_of_the_catalogue_page_run(here):
    """The guide to the catalogue, from versions to doctor, after a promotion of another ranker."""
    adc("promote", "--run", "runs/shop", "--recipe", "codes_no_item_id")
    listed = [
        filled(command.words, RUN="runs/shop", ID="g1")
        for command in commands(GUIDES / "catalogue.md")
    ]
    assert [words[0] for words in listed] == [
        "versions",
        "show",
        "promote",
        "rollback",
        "gc",
        "doctor",
    ]
    for words in listed:
        assert adc(*words)


@pytest.mark.slow  # after the whole tutorial
def test_the_promotion_of_the_serving_page_runs(here):
    """The guide to serving: one promotion file for all runs is written where the command says."""
    (words,) = [
        c.words
        for c in commands(GUIDES / "serving.md")
        if c.words[0] == "promote" and "runs/next" in c.words
    ]
    adc(
        *filled(
            words,
            **{
                "runs/next": "runs/shop",
                "/srv/promotion.json": str(here / "srv" / "promotion.json"),
            },
        )
    )
    assert (here / "srv" / "promotion.json").is_file()


@pytest.mark.slow  # after the whole tutorial
def test_the_audit_of_the_training_data_page_runs(here):
    """The guide to training data: the audit of a run, and that of a frame of one's own."""
    import pyarrow as pa

    time = pa.array(np.arange(3) * 86_400_000_000, pa.timestamp("us", tz="UTC"))
    pq.write_table(
        pa.table({"ts": time, "profile_ts": time, "clicked_at": time}), here / "frame.parquet"
    )
    own, frame = (command.words for command in commands(GUIDES / "training_data.md"))
    assert adc(*own)
    assert adc(*frame)


def python(page: Path) -> list[str]:
    """The Python blocks of a page."""
    return ["\n".join(lines) for _, language, lines in blocks(page) if language == "python"]


@pytest.mark.slow  # after the whole tutorial
def test_readme_s_python_runs(here, tmp_path):
    """Encode, publish, apply, materialize, join and look up, into a repository of one's own."""
    from adc_features import store
    from adc_features.codes.generation import open_generation
    from adc_features.loader.frame import label_table
    from adc_features.pipeline.run import Run
    from adc_features.pipeline.stages import embedding_tables, generation_of

    run = Run.open(here / "runs" / "shop")
    embeddings = embedding_tables(run)[-1]
    store.create_repository(tmp_path / "repo", project="own")
    log = pq.read_table(here / "generated" / "interactions.parquet").slice(5900)
    names: dict[str, Any] = {
        "embeddings": embeddings,
        "path": run.output("generation") / "generation",
        "repo": tmp_path / "repo",
        "generation": generation_of(run),
    }
    names |= {
        "now": embeddings.as_of,
        "labels": label_table(log),
        "item_ids": np.array(["i000001", "nobody"]),
    }
    assert open_generation(names["path"]).id == "g1"
    (block,) = python(ROOT / "README.md")
    exec(compile(block, "README.md", "exec"), names)
    assert len(names["rows"]) == len(names["labels"])
    assert names["codes"].found.tolist() == [True, False]


@pytest.mark.slow  # after the whole tutorial
def test_the_python_of_the_guide_to_online_lookups_runs(here):
    """Reads of the online store and of packed snapshots,
    the canary on the one generation there is.
    """
    from adc_features.pipeline.run import Run
    from adc_features.pipeline.stages import repository_of, serving_time

    run = Run.open(here / "runs" / "shop")
    ids, now = np.array(["i000001", "i000002"]), serving_time(run)
    names: dict[str, Any] = {
        "repo": repository_of(run),
        "item_ids": ids,
        "ids": ids,
        "now": now,
        "times": np.full(2, now.replace(tzinfo=None), "M8[us]"),
        "np": np,
    }
    reads, codes = python(GUIDES / "online_lookups.md")
    users = reads.replace("user_ids=ids[:1]", "user_ids=np.array(['u000001'])")
    exec(compile(users, "online_lookups.md", "exec"), names)
    assert len(names["items"]) == 2
    only = codes.replace('"g3", "g4"', '"g1"').replace('"g4"', '"g1"').replace('"g3"', '"g1"')
    exec(compile(only, "online_lookups.md", "exec"), names)
    assert names["table"].found.all()
    assert names["sid"].shape == (2, names["table"].length)


# ---- the page of what moved


def moved() -> list[tuple[str, str]]:
    """(before, now) of every import path in docs/upgrading.md."""
    text = (DOCS / "upgrading.md").read_text(encoding="utf-8")
    section = text.split("## Import paths", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", section, re.MULTILINE)


def test_every_new_import_path_of_the_upgrading_page_imports():
    """Each path in the right column is a module, and no path in the left column stands twice."""
    paths = moved()
    assert len(paths) > 70
    assert len({before for before, _ in paths}) == len(paths)
    missing = {}
    for _, now in paths:
        try:
            importlib.import_module(now)
        except ImportError as error:
            missing[now] = str(error)
    assert missing == {}


def test_what_the_upgrading_page_says_to_stay_is_there():
    """The dotted paths that stand in feature_store.yaml files and generated repositories import."""
    text = (DOCS / "upgrading.md").read_text(encoding="utf-8")
    section = text.split("## What stays", 1)[1].split("\n## ", 1)[0]
    plugins = re.findall(r"`(adc_features[\w.]+)`", section)
    assert len(plugins) == 4
    for path in plugins[:3]:
        module, name = path.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), name)
    definitions = importlib.import_module(plugins[3])
    for name in ("entities", "statistics_views", "services", "sid_views"):
        assert hasattr(definitions, name)


KINDS = (".py", ".md", ".toml", ".yml", ".css", ".js", ".jinja")
"""Files whose lines people read; ruff keeps those of Python."""


def test_lines_have_at_most_100_columns():
    """Pages, the changelog, templates, styles and settings can be read in 100 columns."""
    tops = ("adc_features", "training", "benchmarks", "docs", "tests", ".github")
    files = [p for top in tops for p in (ROOT / top).rglob("*") if p.suffix in KINDS]
    files += [p for p in ROOT.iterdir() if p.suffix in KINDS or p.name == "Makefile"]
    files.append(ROOT / ".ci" / "run")
    assert len(files) > 500
    long = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 100
    ]
    assert long == []


PHRASES = (
    "rows in are rows out",
    "without a protobuf a value",
    "tests hunt for it",
    "two generations never meet",
    "is told to MLflow",
    "no longer now and then",
    "chance is an argument",
    "a number trembled",
    "starting alone moves nothing",
    "read from it: ",
    "of none surely",
    "a fault of ours",
    "changes hands in one step",
    "two writers take turns",
    "is learned so often",
    "numbers come somewhere",
    "a code means what it meant",
    "nobody is inside",
    "def nobody",
    "so many further processes",
    "never meet in one",
    "that nobody knows |",
    "who asks feast itself",
)
"""What readers who do not know the project stumbled over."""


def test_words_that_readers_stumbled_over_are_gone():
    """None of them stands in a page, a docstring or a message."""
    files = [*PAGES, ROOT / "CHANGELOG.md"]
    for folder in ("adc_features", "training", "benchmarks"):
        files += (ROOT / folder).rglob("*.py")
    found = []
    for file in files:
        text = " ".join(file.read_text(encoding="utf-8").split()).lower()
        found += [f"{file.relative_to(ROOT)}: {phrase}" for phrase in PHRASES if phrase in text]
    assert found == []

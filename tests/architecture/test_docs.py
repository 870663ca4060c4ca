"""README and the guides say what is so: commands parse, short blocks run, variables are read.
Reads: README.md, docs, the command line.
"""

import functools
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
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


class Command(NamedTuple):
    """A line of a block. where: page and line; words: without `adc`; said: options that its comment
    names.
    """

    where: str
    words: list[str]
    said: list[str]


def blocks(page: Path) -> list[tuple[int, str, list[str]]]:
    """(line, language, lines) of every fenced or indented block; an indented one has no
    language.
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
        ("promote", "Missing option '--run'"),
        ("promot --run x", "adc has no command ['promot']"),
        ("embed", "adc embed has no command []"),
        ("retrain --run x --window-days many", "Invalid value"),
        ("compare ... --strat", "adc compare has no option ['--strat']"),
    ],
)
def test_a_command_that_does_not_exist_is_found(words, problem):
    """An unknown command or option, a missing option and a value of another type are faults."""
    assert problem in fault(words.split())


def alternatives(words: list[str]) -> list[list[str]]:
    """What `data tables|beauty` or `compare|ablate` stands for: the words that name a command, one
    list for each.
    """
    named = list(itertools.takewhile(lambda word: re.fullmatch(r"[a-z|]+", word), words))[
        : 2 if words[0] in ("data", "embed", "retrieve") else 1
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
                    if o not in names
                ]
    assert seen > 60
    assert wrong == []


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
    """A folder with items.parquet, interactions.parquet, and runs/shop as far as two rankers; the
    commands are README's.
    """
    from adc_features.data.synthetic import synthetic
    from adc_features.pipeline.run import Run, RunSettings
    from adc_features.pipeline.stages import STAGES
    from training.stages import DATASET, RANKERS

    folder = tmp_path_factory.mktemp("docs")
    made = synthetic(seed=0, items=120, users=120, interactions=2500).dataset
    pq.write_table(made.items, folder / "items.parquet")
    pq.write_table(made.interactions, folder / "interactions.parquet")
    tables, doctor, run, _ = (command.words for command in commands(ROOT / "README.md"))
    assert [words[0] for words in (tables, doctor, run)] == ["data", "doctor", "run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        adc(*tables)
        adc(*doctor)
        # the titles' model takes longer than all else here
        adc(*(w for w in tables if w not in ("--text", "title=title")))
        settings = RunSettings(
            source=str(folder / "shop"), snapshots=1, codebook_size=8, steps=61, seeds=1
        )
        # all of `adc run` is tests/pipeline/test_end_to_end.py
        begun = Run.start(folder / "runs" / "shop", settings)
        for stage in (*STAGES, DATASET, RANKERS["codes"], RANKERS["codes_weights"]):
            begun.ensure(stage)
    return folder


@pytest.fixture
def here(shop, monkeypatch):
    """The folder as the current one."""
    monkeypatch.chdir(shop)
    return shop


def filled(words: list[str], **values: str) -> list[str]:
    """The words of a page with its placeholders filled in."""
    return [values.get(word, word) for word in words]


def test_readme_s_lookup_runs(here):
    """The last command of README's first block prints codes of an item."""
    assert "g1" in adc(*filled(commands(ROOT / "README.md")[-1].words, ITEM="i000001"))


def test_the_commands_of_the_catalogue_page_run(here):
    """docs/catalog.md, from versions to doctor, after a first promotion of another ranker."""
    adc("promote", "--run", "runs/shop", "--recipe", "codes")
    listed = [
        filled(command.words, RUN="runs/shop", ID="g1")
        for command in commands(ROOT / "docs" / "catalog.md")
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


def test_the_promotion_of_the_serving_page_runs(here):
    """docs/serving.md: one promotion file for all runs is written where the command says."""
    (words,) = [
        c.words
        for c in commands(ROOT / "docs" / "serving.md")
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


def test_the_audit_of_the_training_data_page_runs(here):
    """docs/training_data.md: the audit of a run, and that of a frame of anybody's."""
    import pyarrow as pa

    time = pa.array(np.arange(3) * 86_400_000_000, pa.timestamp("us", tz="UTC"))
    pq.write_table(
        pa.table({"ts": time, "profile_ts": time, "clicked_at": time}), here / "frame.parquet"
    )
    own, frame = (command.words for command in commands(ROOT / "docs" / "training_data.md"))
    assert adc(*own)
    assert adc(*frame)


def python(page: str) -> str:
    """The first Python block of a page."""
    return next(
        "\n".join(lines) for _, language, lines in blocks(ROOT / page) if language == "python"
    )


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
    log = pq.read_table(here / "interactions.parquet").slice(2400)
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
    exec(compile(python("README.md"), "README.md", "exec"), names)
    assert len(names["rows"]) == len(names["labels"])
    assert names["codes"].found.tolist() == [True, False]


def test_the_python_of_the_snapshot_and_online_pages_runs(here):
    """docs/snapshots.md with its canary left on the one generation there is, docs/online.md on the
    run's repository.
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
    }
    exec(
        compile(
            python("docs/snapshots.md")
            .replace('"g4"', '"g1"')
            .replace('"g3"', '"g1"')
            .replace('"g1", "g1"', '"g1"'),
            "docs/snapshots.md",
            "exec",
        ),
        names,
    )
    assert names["table"].found.all()
    assert names["sid"].shape == (2, names["table"].length)
    exec(
        compile(
            python("docs/online.md").replace("user_ids=ids[:1]", "user_ids=np.array(['u000001'])"),
            "docs/online.md",
            "exec",
        ),
        names | {"np": np},
    )

"""What the public names say of themselves. Reads: docs/api.md, docstrings of the library.

The examples of the store run in a small repository: `repo` has the generations g1 (codes 1 from
11 January 2014, codes 2 from 21 January) and g2 (codes 7), the items a, b and c, and the users u
and v. Those of rankers and services run in the repository `shop`, with a ranker trained on it.
"""

import dataclasses
import doctest
import importlib
import inspect
import re
import shutil
import types
from typing import Any

import pytest
from store_world import day, generation, published_world, snapshot
from test_public import NAMES

from adc_features import store
from adc_features.store.compute_engine import ArrowComputeEngine
from adc_features.store.offline_store import AsofOfflineStore
from adc_features.store.online_store import LmdbOnlineStore

VALUES = {f"{package}.{name}": (package, name) for package, name in NAMES}
WITHOUT_SOURCE = (
    "adc_features.catalog",
    "adc_features.data",
    "adc_features.errors",
    "adc_features.loader",
    "adc_features.serving",
)
"""What they hold is ours: no paper and no page of Feast says it."""
NEEDS_A_MODEL = {"adc_features.encoders.text_vectors"}
"""Its example reads a sentence-transformers model, which not every machine has."""


def value(name: str) -> Any:
    package, attribute = VALUES[name]
    return getattr(importlib.import_module(package), attribute)


def is_error(shown: Any) -> bool:
    return inspect.isclass(shown) and issubclass(shown, Exception)


SHOWN = [n for n in VALUES if isinstance(value(n), type | types.FunctionType)]
FUNCTIONS = [n for n in SHOWN if inspect.isfunction(value(n))]
CLASSES = [n for n in SHOWN if inspect.isclass(value(n)) and not is_error(value(n))]


def sections(text: str | None) -> dict[str, str]:
    """Title -> content of the sections of a NumPy docstring."""
    parts = re.split(r"^(\w[\w ]*)\n-+\n", inspect.cleandoc(text or ""), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def described(found: dict[str, str], *titles: str) -> list[str]:
    """Names that those sections describe, in their order."""
    lines = [
        line
        for title in titles
        for line in re.findall(r"^([*\w][*\w, ]*?)(?: : |$)", found.get(title, ""), re.MULTILINE)
    ]
    return [name.strip().lstrip("*") for line in lines for name in line.split(",")]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_and_result_of_a_public_function_is_described(name):
    """`Parameters` names each argument once, `Returns` is there where something is returned."""
    function = value(name)
    found, signature = sections(function.__doc__), inspect.signature(function)
    assert described(found, "Parameters") == [*signature.parameters]
    returns = signature.return_annotation not in (None, "None")
    assert bool({"Returns", "Yields"} & set(found)) == returns


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_of_a_public_class_is_described(name):
    """`Parameters` or `Attributes` names what the class is made of, all of it."""
    shown = value(name)
    fields = (
        [field.name for field in dataclasses.fields(shown) if field.init]
        if dataclasses.is_dataclass(shown)
        else [*inspect.signature(shown).parameters]
    )
    assert set(fields) <= set(described(sections(shown.__doc__), "Parameters", "Attributes"))


@pytest.mark.parametrize("name", CLASSES)
def test_every_method_of_a_public_class_says_what_it_returns(name):
    """Each has a docstring; one with arguments describes them, one with a result describes it."""
    for method, function in vars(value(name)).items():
        function = getattr(function, "fget", None) or getattr(function, "__func__", function)
        if method.startswith("_") or not inspect.isfunction(function):
            continue
        found, signature = sections(function.__doc__), inspect.signature(function)
        arguments = [a for a in signature.parameters if a not in ("self", "cls")]
        assert function.__doc__, method
        assert not arguments or described(found, "Parameters") == arguments, method


@pytest.mark.parametrize("name", SHOWN)
def test_a_public_name_shows_an_example_and_names_its_source(name):
    """`Examples` of each name but errors, `Raises` of each function, `Source` where there is one."""
    shown = value(name)
    if is_error(shown):
        return
    found = sections(shown.__doc__)
    assert ">>> " in found.get("Examples", "")
    if "doctest: +SKIP" in found["Examples"]:
        assert name in NEEDS_A_MODEL
    if not name.startswith(WITHOUT_SOURCE):
        assert found.get("Source")


@pytest.mark.parametrize(
    "shown",
    [value(n) for n in CLASSES] + [AsofOfflineStore, LmdbOnlineStore, ArrowComputeEngine],
    ids=lambda shown: shown.__name__,
)
def test_a_public_class_says_what_it_is_for(shown):
    """A summary of its own, then more."""
    summary, _, rest = inspect.cleandoc(shown.__doc__ or "").partition("\n\n")
    assert summary.endswith(".")
    assert rest


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The repository of the store's examples, materialized."""
    directory = published_world(tmp_path_factory.mktemp("examples") / "repo")
    store.materialize(directory, now=day(30))
    return directory


@pytest.fixture
def names(published, tmp_path, request):
    """What examples may use besides their module's own names."""
    repo = shutil.copytree(published, tmp_path / "repo")
    given = {
        "repo": repo,
        "folder": tmp_path,
        "generation": generation(trained_through=day(20)),
        "snapshot": snapshot(day(20), 2),
    }
    name = request.node.callspec.params["name"]
    if name.startswith(("adc_features.ranking", "adc_features.serving")):
        given |= of_the_shop(request.getfixturevalue("shop"), tmp_path)
    return given


def of_the_shop(shop, folder) -> dict[str, Any]:
    from serving_world import NOW

    from adc_features.serving import promote

    pair = shop.pair("codes_weights")
    promote(folder / "promotion.json", pair)
    return {"shop": shop.repository, "ranker": pair.ranker, "pair": pair, "now": NOW}


@pytest.mark.parametrize("name", [n for n in SHOWN if n not in NEEDS_A_MODEL])
def test_examples_run(name, names):
    """Every example of a public name, and of its methods, prints what stands below it."""
    shown = value(name)
    module = importlib.import_module(shown.__module__)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(shown, name, module=module, extraglobs=names):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0

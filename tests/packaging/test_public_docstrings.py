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
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from store_world import DAY, day, generation, published_world, snapshot
from test_public import NAMES

from adc_features import store
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.spec import SidSpec
from adc_features.store.compute_engine import ArrowComputeEngine
from adc_features.store.offline_store import AsofOfflineStore
from adc_features.store.online_store import LmdbOnlineStore

VALUES = {f"{package}.{name}": (package, name) for package, name in NAMES}
WITHOUT_SOURCE = (
    "adc_features.catalog",
    "adc_features.data",
    "adc_features.encoding",
    "adc_features.engines",
    "adc_features.errors",
    "adc_features.inputs",
    "adc_features.loader",
    "adc_features.serving",
)
"""What they hold is ours: no paper and no page of Feast says it."""
NEEDS_A_MODEL = {"adc_features.encoders.text_vectors", "adc_features.encoding.embed_files"}
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
    """`Parameters` or `Attributes` of the class, or of one that it inherits from, names each."""
    shown = value(name)
    fields = (
        [field.name for field in dataclasses.fields(shown) if field.init]
        if dataclasses.is_dataclass(shown)
        else [*inspect.signature(shown).parameters]
    )
    said = {
        field
        for base in shown.__mro__
        for field in described(sections(base.__doc__), "Parameters", "Attributes")
    }
    assert set(fields) <= said


@pytest.mark.parametrize("name", CLASSES)
def test_every_method_of_a_public_class_is_described(name):
    """Each has a docstring, which describes each argument once."""
    for method, member in vars(value(name)).items():
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if method.startswith("_") or not inspect.isfunction(function):
            continue
        found, signature = sections(function.__doc__), inspect.signature(function)
        arguments = [a for a in signature.parameters if a not in ("self", "cls")]
        assert function.__doc__, method
        assert not arguments or described(found, "Parameters") == arguments, method


@pytest.mark.parametrize("name", SHOWN)
def test_a_public_name_shows_an_example_and_names_its_source(name):
    """`Examples` of each name but errors, which run, and `Source` where there is one."""
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
    if name.startswith(
        ("adc_features.codes.open", "adc_features.tokenizer", "adc_features.encoding")
    ):
        given |= request.getfixturevalue("tokenizer")
    if name.startswith(("adc_features.ranking", "adc_features.serving")):
        given |= of_the_shop(request.getfixturevalue("shop"), tmp_path)
    return given


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Vectors of 300 items, and the directory of a small generation that was fitted on them."""
    from dataclasses import replace

    from adc_features.tokenizer.fit import adc, fit

    rng = np.random.default_rng(0)
    count = np.sort(rng.geometric(0.05, 300)).astype(np.int64)
    views = rng.normal(size=(2, 300, 12)).astype(np.float32)
    norm = np.linalg.norm(views[1], axis=1, keepdims=True)
    vectors = EmbeddingTable(
        np.arange(300),
        {"title": views[0], "behavior": (views[1] / norm * np.log1p(count)[:, None]).astype("f4")},
        {"title": np.ones(300, bool), "behavior": np.ones(300, bool)},
        count,
        datetime(2024, 1, 1, tzinfo=UTC),
    )
    directory = tmp_path_factory.mktemp("tokenizer") / "g1"
    fit(
        [vectors],
        SidSpec(content={"title": 1}, shared=1, behavior=1, codebook_size=8),
        settings=replace(adc(), steps=20, warmup_steps=10, batch=64, min_utilisation=0.0),
        generation_id="g1",
        directory=directory,
        seed=0,
    )
    return {"vectors": vectors, "fitted": directory}


def of_the_shop(shop, folder) -> dict[str, Any]:
    from serving_world import NOW

    from adc_features.serving import promote

    log = pa.table(
        {
            "user_id": ["u1", "u2"],
            "item_id": ["i00", "i01"],
            "time": pa.array([NOW - DAY, NOW], pa.timestamp("us", tz="UTC")),
            "label": [1.0, 0.0],
        }
    )
    pair = shop.pair("codes_weights")
    promote(folder / "promotion.json", pair)
    given = {"shop": shop.repository, "ranker": pair.ranker, "pair": pair}
    return given | {"now": NOW, "log": log}


@pytest.mark.parametrize("name", [n for n in SHOWN if n not in NEEDS_A_MODEL])
def test_examples_run(name, names):
    """Every example of a public name, and of its methods, prints what stands below it."""
    shown = value(name)
    module = importlib.import_module(shown.__module__)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(shown, name, module=module, extraglobs=names):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0

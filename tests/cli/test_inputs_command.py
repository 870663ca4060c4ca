"""`adc inputs` on a shop's own repository, as a person types it."""

import json
import sys
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from service_world import Shop

from adc_features.cli import console
from adc_features.cli.main import application
from adc_features.inputs.declaration import Ranker, Task
from adc_features.inputs.resolution import resolution
from adc_features.store.services.schema import declared_rankers, service_schema

SIDES = ("--user", "customer_id", "--item", "sku")


@pytest.fixture
def adc(monkeypatch, capsys):
    """Run one command in this process: (exit code, stdout, stderr)."""

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["adc", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            console.run_app(application())
        return stop.value.code, *capsys.readouterr()

    return command


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A shop with a ranker in its repository, and a label log beside it."""
    folder = tmp_path_factory.mktemp("inputs")
    shop = Shop(folder / "shop")
    shop.apply()
    (shop.folder / "rankers.py").write_text(RANKER)
    rows = 40
    log = {
        "customer_id": [f"c{n // 4}" for n in range(rows)],
        "sku": list(range(rows)),
        "event_timestamp": [datetime(2026, 2, 1, tzinfo=UTC)] * rows,
        "visit": [n // 4 for n in range(rows)],
        "budget": [float(n) if n % 4 else None for n in range(rows)],
        "position": [n % 4 for n in range(rows)],
        "click": [n % 2 for n in range(rows)],
    }
    pq.write_table(pa.table(log), folder / "labels.parquet")
    return folder


RANKER = """\
from adc_features.inputs.declaration import Ranker, Task, category, cross, infer, number, skip

front = Ranker(
    name="front",
    service="feed",
    tasks=[Task("click"), Task("buy", weight=0.3, delay="7d", given="click")],
    inputs=infer() | {
        "price": number(source="stock__price", log=True, clip=(0.0, 1e6)),
        "position": category(request=True, train_only=True, default=0),
        "place": cross(of=("segment", "country"), min_count=3),
        "affinity__score": skip(),
    },
    gates=["segment", "sid"],
    domain="country",
    user=["customer_id"],
    item=["sku"],
    score={"click": 1.0, "buy": 0.5},
)
"""


def test_every_feature_is_shown_with_what_becomes_of_it(adc, shop):
    """A line for each input with its side, kind and origin; what is left out has its reason."""
    code, out, err = adc("inputs", "--repo", shop / "shop", "--service", "feed", *SIDES)
    assert code == 0, err
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert lines["stock__price"][1:4] == ["Float32", "item", "number"]
    assert lines["stock__price"][-1] == "tag"
    assert lines["recent__recent"][2:4] == ["pair", "history"]
    assert lines["sid"][2:4] == ["item", "semantic_id"]
    assert lines["budget"][2] == "request"
    assert "holds named values" in out.partition("left out:")[2]
    assert "bought__bought" in out.partition("left out:")[2]
    assert "gates: profile__segment" in out


def test_sides_are_asked_for_and_can_come_from_requests(adc, shop):
    """Without sides the keys are listed; a request column of the log tells them."""
    words = ("inputs", "--repo", shop / "shop", "--service", "feed")
    code, _, err = adc(*words)
    assert code == 1
    assert "on which side are the join keys ['customer_id', 'sku']" in err
    log = ("--labels", shop / "labels.parquet", "--request", "visit")
    code, out, err = adc(*words, *log, "--json", "-")
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["user"], facts["item"]) == (["customer_id"], ["sku"])
    by_name = {row["input"]: row for row in facts["inputs"]}
    assert by_name["budget"]["missing"] == 0.25
    assert by_name["sku"]["hint"] == ""
    assert by_name["customer_id"]["missing"] == 0.0


@pytest.mark.parametrize("ranker", [(), ("--ranker", "front")])
def test_what_is_written_is_what_was_shown(adc, shop, tmp_path, ranker):
    """The declaration, imported from a repository, resolves to the same inputs and ranker."""
    log = ("--labels", shop / "labels.parquet")
    where = ranker or ("--service", "feed", *SIDES)
    words = ("inputs", "--repo", shop / "shop", *where, *log)
    code, out, err = adc(*words, "--write", tmp_path / "written.py", "--json", "-")
    assert code == 0, err
    shown = json.loads(out)
    (tmp_path / "feature_store.yaml").write_text("project: other\n")
    (written,) = declared_rankers(tmp_path).values()
    assert not written.declared.inferred
    schema = service_schema(shop / "shop", "feed")
    made = resolution(written, schema, columns={"position": "Int64"})
    by_rule = Ranker(service="feed", tasks=[Task("click")], user=["customer_id"], item=["sku"])
    declared = declared_rankers(shop / "shop")["front"] if ranker else by_rule
    first = resolution(declared, schema, columns={"position": "Int64"})
    assert [i.name for i in made.inputs] == [row["input"] for row in shown["inputs"]]
    kinds = {i.name: (i.kind, i.columns, i.side) for i in first.inputs}
    assert {i.name: (i.kind, i.columns, i.side) for i in made.inputs} == kinds
    assert made.ranker.tasks == first.ranker.tasks
    assert (made.ranker.gates, made.ranker.domain) == (first.ranker.gates, first.ranker.domain)
    assert made.ranker.score == first.ranker.score
    assert max(map(len, (tmp_path / "written.py").read_text().splitlines())) <= 100
    code, _, err = adc(*words, "--write", tmp_path / "written.py")
    assert (code, "exists; name another file" in err) == (1, True)


def test_wrong_names_and_files_are_refused(adc, shop, tmp_path):
    """A service, a ranker, a key and a label log that are not there, each with what there is."""
    words = ("inputs", "--repo", shop / "shop")
    assert "applied in" in adc(*words)[2]
    assert "nearest are ['front']" in adc(*words, "--ranker", "frond")[2]
    assert "reads service 'feed', not 'x'" in adc(*words, "--ranker", "front", "--service", "x")[2]
    feed = (*words, "--service", "feed")
    assert "'customer' is named as a join key" in adc(*feed, "--user", "customer")[2]
    assert "does not exist" in adc(*feed, *SIDES, "--labels", tmp_path / "no.parquet")[2]
    pq.write_table(pa.table({"sku": [1]}), tmp_path / "poor.parquet")
    err = adc(*feed, *SIDES, "--labels", tmp_path / "poor.parquet")[2]
    assert "has no columns ['event_timestamp', 'customer_id']" in err
    (tmp_path / "text.parquet").write_text("no parquet")
    assert (
        "cannot be read as Parquet" in adc(*feed, *SIDES, "--labels", tmp_path / "text.parquet")[2]
    )

"""`adc tokenize`, as a person meets it."""

import json
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from things_world import DAY, IDS, ITEMS, START, make_things
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.errors import InputError

QUICK = ("--steps", "80", "--codebook-size", "4")


def adc(*words):
    """What the command prints. Raises what it raises."""
    result = CliRunner().invoke(application(), [str(word) for word in words])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_a_repository_gets_codes_by_one_command(tmp_path):
    """Codes and a service with them are published, declared, online and written down; a second call
    adds a snapshot of the same generation."""
    from adc_features.store.registry import open_any_store

    repo = make_things(tmp_path / "repo")
    vectors = ("tokenize", "--repo", repo, "--vectors", "pictures__picture")
    out = tmp_path / "out.json"
    adc(
        *vectors, *QUICK, "--as-of", "2026-03-02", "--as-of", "2026-03-03", "--service", "things",
        "--add-to-service", "--apply", "--json", out,
    )  # fmt: skip
    told = json.loads(out.read_text())
    assert [s["items"] for s in told["snapshots"]] == [ITEMS, ITEMS]
    assert told["service"] == "things_g1"
    assert told["next"] == ["train a ranker on service 'things_g1': its input `sid`"]
    online = open_any_store(repo).get_online_features(
        ["item_sid_g1:sid"], [{"code": IDS["String"][0]}, {"code": "nobody"}]
    )
    found = online.to_dict()["sid"]
    assert len(found[0]) == len(told["positions"])
    assert found[1] is None
    service = open_any_store(repo).get_feature_service("things_g1")
    assert [p.name for p in service.feature_view_projections] == ["pictures", "item_sid_g1"]
    assert "things_g1 = with_codes(things, repo=REPO" in (repo / "adc_code_services.py").read_text()
    text = adc("tokenize", "--repo", repo, "--renew", "--as-of", "2026-03-04", "--apply")
    assert "24 items as of 2026-03-04 00:00:00 UTC; 0 new, 0 with other codes, 0 gone" in text
    text = adc(*vectors, "--as-of", "2026-03-05")
    assert "generation g1 read" in text
    assert "from adc_codes import item_sid_g1" in text
    assert "`feast apply`" in text


@pytest.mark.slow  # loads a sentence-transformers model
def test_texts_of_a_file_become_codes(tmp_path, monkeypatch):
    """Text alone is enough, from a file whose column of ids has the name of the join key."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    repo = make_things(tmp_path / "repo")
    titles = [
        f"{['red shoe', 'blue hat', 'green sock', 'gold ring'][n % 4]} {n}" for n in range(ITEMS)
    ]
    path = tmp_path / "titles.parquet"
    pq.write_table(pa.table({"code": IDS["String"], "title": titles}), path)
    out = adc("tokenize", "--repo", repo, "--text", path, *QUICK, "--as-of", "2026-03-02")
    assert "positions shared, title" in out
    assert f"title {ITEMS}" in out


def test_options_that_miss_something_are_refused(tmp_path):
    """Each says what to give; nothing is written."""
    repo = make_things(tmp_path / "repo")
    before = sorted(repo.rglob("*"))
    vectors = ("tokenize", "--repo", repo, "--vectors", "pictures__picture", *QUICK)
    for more, match in (
        (("--add-to-service",), "name it, --service"),
        (("--add-to-service", "--service", "thing"), "declares feature service 'thing'"),
        (("--labels", "x.parquet"), "of which ranker"),
        (("--labels", "x.parquet", "--ranker", "feed"), "declares no ranker 'feed'"),
        (
            ("--labels", "x.parquet", "--service", "things", "--task", "click", "--user", "u"),
            "x.parq",
        ),
        (("--generation", "G 1"), "generation id is 'G 1'"),
        (("--as-of", "yesterday"), "--as-of is 'yesterday'"),
        (("--tokenizer", "magic"), "tokenizer is 'magic'"),
        (("--renew",), "leave --codebook-size, --steps, --vectors out"),
        (("--as-of", (START + 3000 * DAY + timedelta(hours=1)).isoformat()), "in the future"),
    ):
        with pytest.raises(InputError, match=match):
            adc(*vectors, *more)
    assert sorted(repo.rglob("*")) == before

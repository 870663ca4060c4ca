"""What a newer version wrote is never written again by this one. Reads: a run of before the format
numbers (`before_formats`), to which later numbers are given.
"""

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import lmdb
import pytest
from before_formats import unpacked
from typer.testing import CliRunner

from adc_features.artifact import MANIFEST, checked, file_hash, with_check
from adc_features.cli.main import application
from adc_features.errors import NewerFormatError
from adc_features.formats import refuse_newer_inside

REPO = "feature_repo"
WORDS = r"format 99, this version reads up to \d.*a newer version of this library; upgrade"
WORKED_ON = (".lock", "lock.mdb", "-shm", "-wal")
"""What ends the names of files that are no artefact."""


def numbered_later(path: Path) -> None:
    """Give a document the format 99, and every manifest that seals it its new hash."""
    document = json.loads(path.read_text())
    later = {**checked(document, path), "format": 99}
    path.write_text(json.dumps(with_check(later) if "check" in document else later))
    resealed(path)


def resealed(path: Path) -> None:
    """Let the manifests above a changed file name it by its new hash."""
    for place in path.parents:
        manifest = place / MANIFEST
        name = str(path.relative_to(place))
        if manifest != path and manifest.is_file():
            document = checked(json.loads(manifest.read_text()), manifest)
            if name in document["files"]:
                document["files"][name] = file_hash(path)
                manifest.write_text(json.dumps(with_check(document)))
                resealed(manifest)
                return


def packed_later(path: Path) -> None:
    """Give a packed file the format 99: byte 8."""
    data = bytearray(path.read_bytes())
    data[8] = 99
    path.write_bytes(data)
    resealed(path)


def rows_later(store: Path) -> None:
    """Give every row of an online store the format 99: its first byte."""
    with closing(lmdb.open(str(store), max_dbs=16)) as environment:
        with environment.begin() as txn:
            tables = [bytes(name) for name, _ in txn.cursor()]
        for table in tables:
            handle = environment.open_db(table, create=False)
            with environment.begin(handle, write=True) as txn:
                rows = [(k, v) for k, v in txn.cursor() if not k.startswith(b"!")]
                for key, record in rows:
                    txn.put(key, b"\x63" + record[1:])


def snapshot_of(run: Path) -> dict[str, str]:
    """Every file of a run and the hash of its bytes."""
    return {
        str(path.relative_to(run)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and not path.name.endswith(WORKED_ON)
    }


def to_be_rebuilt(made_later: Callable[[Path], None]) -> Callable[[Path], None]:
    """The same in a run whose stage `publication` is damaged, so that all is published again."""

    def both(path: Path) -> None:
        made_later(path)
        run = next(place for place in path.parents if (place / "run.json").is_file())
        (run / "publication" / "publication.json").unlink()

    return both


CASES: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    "online record": (f"{REPO}/data/online.json", numbered_later, ["materialize"]),
    "online rows": (f"{REPO}/data/online_lmdb", rows_later, ["materialize"]),
    "online rows, published anew": (
        f"{REPO}/data/online_lmdb",
        to_be_rebuilt(rows_later),
        ["publish"],
    ),
    "online record, published anew": (
        f"{REPO}/data/online.json",
        to_be_rebuilt(numbered_later),
        ["publish"],
    ),
    "live generations": (f"{REPO}/data/live_generations.json", numbered_later, ["publish"]),
    "live generations, renewed": (
        f"{REPO}/data/live_generations.json",
        numbered_later,
        ["renew", "--generation", "g2"],
    ),
    "published codes": (f"{REPO}/data/item_sid_g1/{MANIFEST}", numbered_later, ["publish"]),
    "published statistics": (f"{REPO}/data/statistics/{MANIFEST}", numbered_later, ["publish"]),
    "packed file": (
        f"{REPO}/data/item_sid_g1/packed/20240521T000000000000.sids",
        to_be_rebuilt(packed_later),
        ["publish"],
    ),
    "run": ("run.json", numbered_later, ["publish", "--publish-lag-hours", "7"]),
    "stage: data": (f"data/{MANIFEST}", numbered_later, ["embed", "text"]),
    "data set": (f"data/dataset/{MANIFEST}", numbered_later, ["embed", "behavior"]),
    "generation": (f"generation/generation/{MANIFEST}", numbered_later, ["publish"]),
    "stage: generation": (f"generation/{MANIFEST}", numbered_later, ["fit"]),
    "stage: codes": (f"codes/{MANIFEST}", numbered_later, ["publish"]),
    "stage: publication": (f"publication/{MANIFEST}", numbered_later, ["publish"]),
    "stage: online": (f"online/{MANIFEST}", numbered_later, ["materialize"]),
    "ranker": (
        f"ranker_no_sid/model/{MANIFEST}",
        numbered_later,
        ["promote", "--recipe", "no_sid"],
    ),
    "promotion": ("promotion.json", numbered_later, ["promote", "--recipe", "no_sid"]),
    "promotion, rolled back": ("promotion.json", numbered_later, ["rollback"]),
    "snapshot": (
        f"snapshots/20241201T000000000000/{MANIFEST}",
        numbered_later,
        ["snapshot", "--as-of", "2024-12-15", "--data", "shop"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_no_command_writes_what_a_newer_version_wrote(tmp_path, monkeypatch, case):
    """The command that would write an artefact again says that a newer version wrote it and what
    to do; every file is as it was.
    """
    run = unpacked(tmp_path)
    monkeypatch.chdir(tmp_path)  # the data set of the run lies there, as `shop`
    name, made_later, words = CASES[case]
    made_later(run / name)
    before = snapshot_of(run)
    told = CliRunner().invoke(application(), [*words, "--run", str(run)])
    assert isinstance(told.exception, NewerFormatError), (told.output, told.exception)
    assert re.search(WORDS, str(told.exception))
    assert snapshot_of(run) == before


def test_a_data_set_of_a_newer_version_is_not_replaced(tmp_path):
    """`adc data synthetic` refuses a place where a newer version wrote a data set."""
    shop = unpacked(tmp_path).parent / "shop"
    numbered_later(shop / MANIFEST)
    before = snapshot_of(shop)
    told = CliRunner().invoke(application(), ["data", "synthetic", "--out", str(shop)])
    assert isinstance(told.exception, NewerFormatError), told.output
    assert snapshot_of(shop) == before


def test_a_promotion_file_elsewhere_of_a_newer_version_is_not_replaced(tmp_path):
    """`adc promote --promotion FILE` looks at that file, whatever its name."""
    run, elsewhere = unpacked(tmp_path), tmp_path / "serving" / "pair.json"
    elsewhere.parent.mkdir()
    elsewhere.write_text('{"format": 99, "pair": "of another kind"}')
    words = ["promote", "--recipe", "no_sid", "--run", str(run), "--promotion", str(elsewhere)]
    told = CliRunner().invoke(application(), words)
    assert isinstance(told.exception, NewerFormatError), told.output
    assert elsewhere.read_text() == '{"format": 99, "pair": "of another kind"}'


def test_a_catalogue_of_a_newer_version_is_not_written(tmp_path):
    """A promotion with a catalogue of an unknown revision changes neither it nor the pair."""
    run = unpacked(tmp_path)
    with closing(sqlite3.connect(run / "catalog.db")) as other, other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
    before = snapshot_of(run)
    told = CliRunner().invoke(application(), ["promote", "--recipe", "no_sid", "--run", str(run)])
    assert isinstance(told.exception, NewerFormatError), told.output
    assert "has revision 9999" in str(told.exception)
    assert snapshot_of(run) == before


@pytest.mark.parametrize("name", ["run.json", "live_generations.json", "online.json", MANIFEST])
def test_a_damaged_document_is_no_newer_one(tmp_path, name):
    """What is damaged, or has no number that could be one, may be replaced."""
    path = tmp_path / name
    for text in ("", "[]", "{", '{"format": "two"}', "\x00", '{"format": -1}', "[" * 100_000):
        path.write_text(text)
        refuse_newer_inside(tmp_path)
    path.write_text('{"format": 99}')
    with pytest.raises(NewerFormatError, match=name):
        refuse_newer_inside(tmp_path)

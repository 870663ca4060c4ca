"""All inputs of a ranker together. Reads: adc_features.inputs.encoder."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from encoder_cases import TIMES, rows_of, spec

from adc_features.artifact import MANIFEST, seal
from adc_features.errors import ArtifactError, InputError, LeakError
from adc_features.inputs.declaration import (
    category,
    cross,
    flag,
    number,
    time,
    vector,
)
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.rows import FeatureRows, Parts

PRICE = spec("price", number(bins=2))
COLOUR = spec("colour", category(min_count=1), "String")
POSITION = spec(
    "position",
    number(request=True, train_only=True, default=3),
    "Int64",
    side="request",
)
ROWS = {"price": [1.0, 2.0, None], "colour": ["red", "blue", None], "position": [1, 2, 3]}


def lookup(encoder: InputEncoder, parts: Parts, name: str) -> list[int]:
    """Rows of an input's only slot."""
    return encoder.encode(parts).blocks[name].slots[0].rows.tolist()


def shared(name: str, **options):
    """A category that reads its own column and shares the table of ids."""
    return spec(name, category(**{"min_count": 1, "share": "ids", **options}), "String")


def test_inputs_that_share_a_table_share_its_rows():
    """The vocabulary is fitted on the values of both, once, and has one name in the layout."""
    parts = rows_of({"seller": ["a", "b", "b"], "last_seller": ["c", "c", "c"]})
    encoder = InputEncoder.fit([shared("seller"), shared("last_seller")], parts)
    assert encoder.layout.tables == {"ids": 5}
    assert lookup(encoder, parts, "seller") == [4, 3, 3]
    assert lookup(encoder, parts, "last_seller") == [2, 2, 2]
    asked = rows_of({"seller": ["c"], "last_seller": ["a"]})
    assert (lookup(encoder, asked, "seller"), lookup(encoder, asked, "last_seller")) == ([2], [4])
    grown = encoder.grown(rows_of({"seller": ["d"], "last_seller": ["e"]}))
    assert grown.layout.tables == {"ids": 7}
    assert lookup(grown, parts, "seller") == [4, 3, 3]


def test_sharing_needs_one_type_and_one_set_of_options():
    """Ids of two types, or two bounds, cannot share a table; the message has both."""
    parts = rows_of({"a": ["x"], "b": [1]})
    with pytest.raises(InputError, match="share a table, but hold values of type int64 and string"):
        InputEncoder.fit([shared("a"), shared("b")], parts)
    parts = rows_of({"a": ["x"], "b": ["y"]})
    with pytest.raises(InputError, match="share table 'ids' with max_size=3 and max_size=None"):
        InputEncoder.fit([shared("a", max_size=3), shared("b")], parts)


def test_every_input_that_cannot_be_fitted_is_named():
    """One message for all faults, before any work is lost; one fault alone is told as it is."""
    parts = rows_of({"x": ["word"], "f": [2], "ok": [1.0]})
    inputs = [spec("x", number()), spec("f", flag()), spec("ok", number())]
    with pytest.raises(InputError, match=r"2 inputs cannot be encoded:\n- .*'x'.*\n- .*'f'"):
        InputEncoder.fit(inputs, parts)
    with pytest.raises(InputError, match=r"^input 'f' \(column f\) holds 2"):
        InputEncoder.fit(inputs[1:], parts)


def test_a_leak_among_faults_stays_a_leak():
    """Whoever tells leaks apart does so when other inputs are at fault too."""
    stamp = pa.timestamp("us", "UTC")
    inputs = [spec("t", time()), spec("f", flag())]
    fine = rows_of({"t": pa.array([TIMES[0].item()], stamp), "f": [True]})
    encoder = InputEncoder.fit(inputs, fine)
    late = rows_of({"t": pa.array([TIMES[5].item()], stamp), "f": [7]})
    with pytest.raises(LeakError, match="2 inputs cannot be encoded"):
        encoder.encode(late)


def test_missing_columns_are_named_at_once():
    """Columns that are not there, with their side, before anything is encoded."""
    with pytest.raises(InputError, match=r"2 of the columns .*: colour \(item\), price \(item\);"):
        InputEncoder.fit([PRICE, COLOUR], rows_of({"other": [1]}))
    encoder = InputEncoder.fit([PRICE, COLOUR], rows_of(ROWS))
    with pytest.raises(InputError, match=r"1 of the columns that inputs read are missing: colour"):
        encoder.encode(rows_of({"price": [1.0]}))


@pytest.mark.parametrize(
    ("weights", "said"),
    [([1.0], r"shape \(1,\)"), ([1.0, -1.0, 1.0], "from -1.0"), ([0.0, 0.0, 0.0], "not all 0")],
)
def test_weights_are_checked(weights, said):
    """Of another length, negative or all 0: refused with what they are."""
    with pytest.raises(InputError, match=said):
        InputEncoder.fit([PRICE], rows_of(ROWS), weights=np.array(weights))


def test_names_and_rows_are_checked():
    """Two inputs of a name, none at all, or no rows, cannot be fitted."""
    with pytest.raises(InputError, match="two inputs named 'price'"):
        InputEncoder.fit([PRICE, PRICE], rows_of(ROWS))
    with pytest.raises(InputError, match="has no inputs"):
        InputEncoder.fit([], rows_of(ROWS))
    with pytest.raises(InputError, match="no training rows"):
        InputEncoder.fit([PRICE], rows_of({"price": pa.array([], pa.float64())}))


def test_a_train_only_input_never_shows_its_column_in_a_score():
    """Whatever the position says, missing too, scores see the default: in one row for all."""
    encoder = InputEncoder.fit([PRICE, POSITION], rows_of(ROWS))
    shown = encoder.encode(rows_of(ROWS)).blocks["position"].dense
    assert shown.shape == (1, 2)
    for other in ([9, None, -5], [float("nan")] * 3, ["a", "b", "c"]):
        again = encoder.encode(rows_of({**ROWS, "position": other})).blocks["position"].dense
        assert again.tobytes() == shown.tobytes()
    online = rows_of({"price": [1.0, 2.0]})
    sides = {s: r for s, r in online.sides.items() if s != "request"}
    alone = encoder.encode(Parts({**sides, "request": FeatureRows(pa.table({}), TIMES[:0])}, 2))
    assert alone.blocks["position"].dense.tobytes() == shown.tobytes()
    assert encoder.encode(Parts(sides, 2)).blocks["position"].dense.tobytes() == shown.tobytes()
    assert "position" not in encoder.counts(online)


def test_a_tenth_of_the_training_rows_carry_the_default():
    """In training most rows show the column and a tenth the default; the choice follows from the
    seed, and the fit has seen the default.
    """
    count = 2_000
    times = np.full(count, TIMES[0])
    kind = category(request=True, train_only=True, default="none", min_count=1)
    where = spec("where", kind, "String", side="request")
    parts = rows_of({"where": ["top"] * count}, times)
    encoder = InputEncoder.fit([where], parts)
    rows = encoder.encode(parts, training=True).blocks["where"].slots[0].rows
    assert set(rows.tolist()) == {2, 3}
    assert 0.07 < (rows == 3).mean() < 0.13
    again = encoder.encode(parts, training=True).blocks["where"].slots[0].rows
    assert again.tolist() == rows.tolist()
    other = encoder.encode(parts, training=True, seed=1).blocks["where"].slots[0].rows
    assert other.tolist() != rows.tolist()
    assert lookup(encoder, parts, "where") == [3]


def test_a_default_that_is_none_is_absent():
    """Without a default a train-only input is absent in every score."""
    kind = number(request=True, train_only=True)
    encoder = InputEncoder.fit([spec("x", kind, side="request")], rows_of({"x": [1.0, 2.0]}))
    assert encoder.encode(rows_of({"x": [1.0]})).blocks["x"].dense.tolist() == [[0, 1]]


def test_impossible_defaults_are_refused():
    """A default of another type, and a train-only input of two columns, are refused at fit."""
    kind = number(request=True, train_only=True, default="top")
    with pytest.raises(InputError, match="default='top', which is no Int64"):
        InputEncoder.fit([spec("x", kind, "Int64")], rows_of({"x": [1]}))
    pair = cross(of=("a", "b"), train_only=True)
    roles = {"left": ("a", "String", "user"), "right": ("b", "String", "item")}
    with pytest.raises(InputError, match=r"train_only and reads 2 columns \(a, b\)"):
        InputEncoder.fit([spec("p", pair, **roles)], rows_of({"a": ["x"], "b": ["y"]}))


def test_counts_come_from_what_is_encoded_already():
    """Counts of an encoded batch are those of its parts."""
    parts = rows_of(ROWS)
    encoder = InputEncoder.fit([PRICE, COLOUR], parts)
    wanted = {
        "price": {"absent": 1, "unknown": 0, "present": 2},
        "colour": {"absent": 1, "unknown": 0, "present": 2},
    }
    assert encoder.counts(parts, encoder.encode(parts)) == wanted
    of_parts = encoder.counts(parts)
    assert of_parts["price"].pop("not_finite") == 0
    assert of_parts == wanted


def test_progress_and_order():
    """Every input is announced once; the layout has them in the order in which they are given."""
    told: list[str] = []
    encoder = InputEncoder.fit([COLOUR, PRICE], rows_of(ROWS), progress=told.append)
    assert told == ["colour", "price"]
    assert list(encoder.layout.inputs) == ["colour", "price"]
    assert list(encoder.layout.tables) == ["colour", "price"]


@pytest.fixture
def saved(tmp_path):
    """A directory of three inputs."""
    parts = rows_of({**ROWS, "v": pa.array([[1.0, 2.0], None, None])})
    inputs = [PRICE, COLOUR, spec("v", vector(), "Array(Float32)")]
    InputEncoder.fit(inputs, parts).save(tmp_path / "inputs")
    return tmp_path / "inputs"


def test_what_is_saved(saved):
    """JSON, safetensors and Arrow, all named by the manifest with its format; nothing pickled."""
    manifest = json.loads((saved / MANIFEST).read_text())
    assert (manifest["format"], manifest["kind"]) == (1, "inputs")
    files = {"states.safetensors", "vocabulary_0.arrow"}
    assert set(manifest["files"]) == files
    assert {p.name for p in saved.iterdir()} == {*files, MANIFEST}
    assert manifest["inputs"][0]["spec"]["options"]["bins"] == 2


@pytest.mark.parametrize("name", ["states.safetensors", "vocabulary_0.arrow"])
def test_altered_files_are_refused(saved, name):
    """One changed byte, or a missing file, is an error that names it."""
    content = bytearray((saved / name).read_bytes())
    content[-9] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} has sha256 .*altered"):
        InputEncoder.load(saved)
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        InputEncoder.load(saved)


def resealed(directory, change) -> None:
    """Change the manifest as someone who knows how to seal would."""
    manifest = json.loads((directory / MANIFEST).read_text())
    change(manifest)
    for name in ("files", "check", "format"):
        manifest.pop(name)
    seal(directory, manifest)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(kind="stage"), "is of a 'stage', expected the inputs of a ranker"),
        (lambda m: m["hashes_of"].update({"0": "1"}), "where 0 hashes to '1', here it is"),
        (lambda m: m["inputs"][0]["spec"].update(kind="sound"), "does not describe inputs"),
        (lambda m: m["inputs"][0]["spec"]["options"].update(loud=True), "does not describe inputs"),
        (lambda m: m["inputs"][0]["state"].pop("mean"), "does not describe inputs"),
        (lambda m: m.update(vocabularies=[]), "does not describe inputs"),
    ],
)
def test_manifests_that_say_something_else_are_refused(saved, change, said):
    """Another kind, another hash, unknown kinds and options, a state that lacks something."""
    resealed(saved, change)
    with pytest.raises(ArtifactError, match=said):
        InputEncoder.load(saved)


def test_hashes_of_another_version_are_refused(saved, monkeypatch):
    """Ids that would hash otherwise here are never looked up."""
    monkeypatch.setattr("adc_features.inputs.hashing.splitmix64", lambda v: v.astype(np.uint64))
    with pytest.raises(ArtifactError, match="was written where 0 hashes to"):
        InputEncoder.load(saved)


def test_a_kind_is_imported_when_it_is_used():
    """Importing the encoder loads no encoder of a kind, and neither torch nor feast."""
    code = (
        "import sys, adc_features.inputs.encoder; print([m for m in sys.modules if m in"
        " ('torch', 'feast', 'pandas', 'adc_features.inputs.encoders.number')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"

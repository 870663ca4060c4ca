"""A catalogue encoded from files to files has the codes that it has in memory, to the bit."""

import json
import shutil
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoding_world import catalogue, same, write
from items_world import day, frozen
from typer.testing import CliRunner

from adc_features import store
from adc_features.artifact import MANIFEST
from adc_features.cli.main import application
from adc_features.codes.generation import open_generation
from adc_features.encoding import encode_files, files, open_encoded
from adc_features.encoding.piece import EncodePiece
from adc_features.engines.parts import PartWork
from adc_features.engines.places import Place
from adc_features.errors import ArtifactError, GenerationMismatch, InputError
from adc_features.store.packed.snapshot import PackedSnapshot
from adc_features.tokenizer import encode as tokenizer_encode
from adc_features.tokenizer.encode import encode


@pytest.fixture(scope="module")
def expected(generation):
    """Every item at once, in memory."""
    return encode(catalogue(), open_generation(generation))


def encoded(items, out, generation, **more):
    return encode_files(str(items), str(out), generation, **more)


def rewritten(file: Path, change) -> None:
    """A file with other rows."""
    pq.write_table(change(pq.read_table(file)), file, row_group_size=32)


def parts(out: Path) -> list[str]:
    """The finished parts of an encode that did not end."""
    return sorted(p.name for p in (out / "_partial").glob("*.parquet"))


def test_files_give_what_memory_gives(items, tmp_path, generation, expected):
    """Codes, weights, reliability and collision counts are equal to the bit; progress ends with
    every item; nothing but the folder that the page describes is left.
    """
    told = []
    made = encoded(items, tmp_path / "out", generation, progress=lambda *said: told.append(said))
    assert same(made.table(), expected)
    assert len(made) == 300
    assert told[-1] == ("encode", 300, 300)
    assert [len(piece) for piece in made.pieces()] == [139, 86, 75]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "codes",
        "generation",
        MANIFEST,
    ]
    assert made.manifest["distinct_codes"] == len(np.unique(expected.sid, axis=0))
    assert made.manifest["largest_collision"] == expected.collision_count.max()
    assert made.manifest["cold_items"] == 40


def test_one_file_in_small_pieces_gives_the_same(tmp_path, generation, expected, monkeypatch):
    """What `EmbeddingTable.write` wrote is a source; a piece of 32 rows knows nothing of the
    others, and its items are coded alike.
    """
    catalogue().write(tmp_path / "items.parquet")
    monkeypatch.setattr(files, "PartWork", partial(PartWork, rows=32))
    told = []
    made = encoded(
        tmp_path / "items.parquet",
        tmp_path / "out",
        generation,
        progress=lambda label, done, total: told.append(done),
    )
    assert same(made.table(), expected)
    assert told[:2] == [32, 64]


def test_a_snapshot_before_is_held(items, tmp_path, generation, expected, packed):
    """Items that had codes keep them where `encode` in memory does; the packed file alone says so,
    and it is not left in the output.
    """
    before = PackedSnapshot(packed).table()[0]
    held = encode(catalogue(), open_generation(generation), previous=before)
    made = encoded(items, tmp_path / "out", generation, previous=packed)
    assert same(made.table(), held)
    assert not same(made.table(), expected)
    assert not list((tmp_path / "out").rglob("*.sids"))


def test_a_snapshot_of_another_time_or_generation_is_refused(items, tmp_path, generation, packed):
    """Before any work: codes are held in order of time, and of one vocabulary."""
    catalogue_then = replace(catalogue(), as_of=day(0))
    then = write(catalogue_then, tmp_path / "then")
    with pytest.raises(InputError, match="in order of time"):
        encoded(then, tmp_path / "out", generation, previous=packed)
    other = shutil.copytree(generation, tmp_path / "other")
    (other / MANIFEST).write_text(
        json.dumps(
            {k: v for k, v in json.loads((other / MANIFEST).read_text()).items() if k != "check"}
            | {"id": "g9"}
        )
    )
    with pytest.raises(GenerationMismatch, match="'g1', this encodes with 'g9'"):
        encoded(items, tmp_path / "out", other, previous=packed)
    assert not (tmp_path / "out").exists()


def test_lists_of_any_width_are_read_where_a_file_has_no_vector(
    items, tmp_path, generation, expected
):
    """Vectors may be plain lists, as Spark writes them; a file whose items are all cold does not
    tell a width, and is encoded all the same.
    """

    def plain(table):
        names = [n for n in table.column_names if n.startswith("vector_")]
        for name in names:
            place = table.column_names.index(name)
            table = table.set_column(place, name, table[name].cast(pa.list_(pa.float32())))
        return table

    for file in items.iterdir():
        rewritten(file, plain)
    whole = pa.concat_tables([pq.read_table(p) for p in sorted(items.iterdir())])
    shutil.rmtree(items)
    items.mkdir()
    pq.write_table(whole.slice(0, 260), items / "0.parquet")
    pq.write_table(whole.slice(260), items / "1.parquet")
    assert pq.read_table(items / "1.parquet")["vector_behavior"].null_count == 40
    assert same(encoded(items, tmp_path / "out", generation).table(), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: pa.concat_tables([t, t.slice(0, 1)]), "stand more than once"),
        (lambda t: t.set_column(1, "interaction_count", pa.nulls(len(t), pa.int64())), "nulls"),
        (
            lambda t: t.set_column(
                2,
                "vector_title",
                pa.FixedSizeListArray.from_arrays(pa.array(np.full(6 * len(t), np.nan, "f4")), 6),
            ),
            "NaN or infinite",
        ),
    ],
)
def test_items_that_cannot_be_used_are_named_and_nothing_is_complete(
    items, tmp_path, generation, expected, change, words
):
    """A bad row in the last file stops the encode with our own error; mended, the same command
    succeeds.
    """
    last, kept = items / "2.parquet", pq.read_table(items / "2.parquet")
    rewritten(last, change)
    with pytest.raises(InputError, match=words):
        encoded(items, tmp_path / "out", generation)
    assert not (tmp_path / "out" / MANIFEST).exists()
    with pytest.raises(ArtifactError, match="no encode ended there"):
        open_encoded(str(tmp_path / "out"))
    rewritten(last, lambda _: kept)
    assert same(encoded(items, tmp_path / "out", generation).table(), expected)


def test_ids_in_two_files_are_found_before_any_work(items, tmp_path, generation):
    """No part is written when an id of the first file stands in the last one."""
    first = pq.read_table(items / "0.parquet").slice(0, 1)
    rewritten(items / "2.parquet", lambda t: pa.concat_tables([t, first]))
    with pytest.raises(InputError, match="'i050'"):
        encoded(items, tmp_path / "out", generation)
    assert parts(tmp_path / "out") == []


def test_columns_and_widths_are_checked_before_any_work(items, tmp_path, generation):
    """A missing modality and one of another width are told from the schema."""
    whole = pa.concat_tables([pq.read_table(p) for p in sorted(items.iterdir())])
    file = tmp_path / "one.parquet"
    pq.write_table(whole.drop_columns("vector_image"), file)
    with pytest.raises(InputError, match=r"lacks \['vector_image'\]"):
        encoded(file, tmp_path / "out", generation)
    narrow = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(900, np.float32)), 3)
    place = whole.column_names.index("vector_title")
    pq.write_table(whole.set_column(place, "vector_title", narrow), file)
    with pytest.raises(InputError, match="'title' has width 3, the generation was fitted on 6"):
        encoded(file, tmp_path / "out", generation)
    assert not (tmp_path / "out").exists()


def test_the_cut_off_is_told_once(items, tmp_path, generation, expected):
    """Files without a cut-off need one; another one than theirs is refused."""
    with pytest.raises(InputError, match="asked is 2024-01-04"):
        encoded(items, tmp_path / "out", generation, as_of=day(3))
    for file in items.iterdir():
        rewritten(file, lambda t: t.replace_schema_metadata(None))
    with pytest.raises(InputError, match="as of when"):
        encoded(items, tmp_path / "out", generation)
    made = encoded(items, tmp_path / "out", generation, as_of=day(1))
    assert same(made.table(), expected)


class Stopped(BaseException):
    """What a kill is to a test."""


def stopped_after(rows: int):
    def progress(label: str, done: int, total: int) -> None:
        if done >= rows:
            raise Stopped

    return progress


def test_what_was_finished_is_kept(items, tmp_path, generation, expected, monkeypatch):
    """Stopped in its second file, the same command encodes the rest alone."""
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        encoded(items, out, generation, progress=stopped_after(140))
    assert parts(out) == ["part-00000.parquet"]
    seen, coded = [], tokenizer_encode.coded

    def counted(table, *rest, **named):
        seen.append(len(table))
        return coded(table, *rest, **named)

    monkeypatch.setattr(tokenizer_encode, "coded", counted)
    assert same(encoded(items, out, generation).table(), expected)
    assert seen == [86, 75]


def test_finished_parts_of_other_items_are_not_kept(items, tmp_path, generation):
    """Parts belong to one plan: with other items, all are encoded anew."""
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        encoded(items, out, generation, progress=stopped_after(140))
    changed = catalogue().take(np.arange(299, -1, -1))
    other = write(changed, tmp_path / "other")
    made = encoded(other, out, generation)
    assert same(made.table(), encode(changed, open_generation(generation)))


def test_a_part_that_lost_rows_is_found_before_anything_is_complete(items, tmp_path, generation):
    """Rows in are rows out, of every part, when the manifest is written."""
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        encoded(items, out, generation, progress=stopped_after(140))
    rewritten(out / "_partial" / "part-00000.parquet", lambda t: t.slice(1))
    with pytest.raises(ArtifactError, match="holds 138 rows, its items are 139"):
        encoded(items, out, generation)
    assert not (out / MANIFEST).exists()


def test_items_that_change_meanwhile_are_found(items, tmp_path, generation):
    """A file that is written anew during the work voids it."""

    def changes(label, done, total):
        rewritten(items / "0.parquet", lambda t: t)

    with pytest.raises(ArtifactError, match=r"0\.parquet changed while it was read"):
        encoded(items, tmp_path / "out", generation, progress=changes)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_the_same_again_does_nothing_and_something_else_is_refused(
    items, tmp_path, generation, monkeypatch
):
    """A finished folder is returned as it is; it is never overwritten, nor are other files."""
    out = tmp_path / "out"
    made = encoded(items, out, generation)
    monkeypatch.setattr(tokenizer_encode, "coded", None)
    assert encoded(items, out, generation).manifest == made.manifest
    with pytest.raises(InputError, match="made of other items"):
        encoded(write(catalogue(), tmp_path / "again", files=2), out, generation)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(InputError, match="did not write"):
        encoded(items, tmp_path / "full", generation)
    assert (tmp_path / "full" / "mine.txt").exists()


def test_an_altered_output_is_refused(items, tmp_path, generation):
    """A flipped byte in a part of the codes is found when it is opened."""
    out = tmp_path / "out"
    encoded(items, out, generation)
    file = out / "codes" / "part-00001.parquet"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match="sha256"):
        open_encoded(str(out))


def test_a_store_of_objects_holds_the_output(items, tmp_path, generation, expected):
    """Items and output on another file system: the same codes, opened from a copy."""
    place = Place("memory://encode-files/items")
    for file in items.iterdir():
        place.write(file.name, file.read_bytes())
    made = encoded(place.uri, "memory://encode-files/out", generation)
    assert same(made.table(), expected)
    assert same(open_encoded("memory://encode-files/out").table(), expected)
    assert Place("memory://encode-files/out/_partial").listed() == []


def test_a_worker_that_sees_another_folder_says_so(items, tmp_path, generation):
    """Without the generation's files, or with those of another one, a worker encodes nothing."""
    piece = pq.read_table(items / "0.parquet")
    elsewhere = EncodePiece(str(tmp_path / "nowhere"), "ab" * 32, None, day(1), None)
    with pytest.raises(ArtifactError, match="finds no generation in"):
        elsewhere(piece)
    encoded(items, tmp_path / "out", generation)
    with pytest.raises(ArtifactError, match="finds codebook"):
        replace(elsewhere, output=str(tmp_path / "out"))(piece)


def adc(*words: object, code: int = 0):
    result = CliRunner().invoke(application(), [str(w) for w in words])
    assert result.exit_code == code, result.output or result.exception
    return result


def test_the_commands_encode_and_publish(run, items, tmp_path, generation):
    """`adc encode` and `adc publish --codes` make a snapshot of a repository: what lookups read is
    what `encode` gives when it holds on to the snapshot before.
    """
    repo = Path(shutil.copytree(run / "feature_repo", tmp_path / "repo"))
    (file,) = repo.glob("data/item_sid_g1/packed/*.sids")
    facts = tmp_path / "facts.json"
    command = ("encode", "--generation", generation, "--items", items, "--out", tmp_path / "out")
    adc(*command, "--previous", file, "--json", facts)
    told = json.loads(facts.read_text())
    assert (told["items"], told["cold_items"], told["engine"]) == (300, 40, "local")
    adc("publish", "--repo", repo, "--codes", tmp_path / "out", "--publish-lag-hours", 6)
    timeline = store.published_timeline(repo, "g1")
    assert timeline.servable_at[-1] == np.datetime64("2024-01-02T06:00", "us")
    before = PackedSnapshot(file).table()[0]
    made = encode(catalogue(), frozen(run / "feature_repo"), previous=before)
    newest = timeline.snapshots[-1].lookup(made.item_ids)
    np.testing.assert_array_equal(newest.sid, made.sid)
    np.testing.assert_array_equal(newest.sid_weight, made.sid_weight)
    np.testing.assert_array_equal(newest.collision_count, made.collision_count)
    (entry,) = [s for s in store.published_snapshots(repo, "g1") if s.as_of == day(1)]
    assert entry.servable_at == day(1) + timedelta(hours=6)


def test_the_commands_refuse_what_contradicts_itself(run, items, tmp_path, generation):
    """Which tokenizer, which repository, and settings without a name are asked for in words."""
    where = ("--items", items, "--out", tmp_path / "out")
    assert "--generation or --run" in adc("encode", *where, code=2).output
    failed = CliRunner().invoke(
        application(),
        [str(w) for w in ("encode", *where, "--generation", generation, "--engine-set", "cores")],
    )
    assert isinstance(failed.exception, InputError)
    assert "expected NAME=VALUE" in str(failed.exception)
    assert "--run or --repo" in adc("publish", "--codes", tmp_path / "out", code=2).output
    failed = CliRunner().invoke(application(), ["publish", "--repo", str(run / "feature_repo")])
    assert "give --codes" in str(failed.exception)

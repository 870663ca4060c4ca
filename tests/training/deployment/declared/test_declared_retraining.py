"""Retraining a ranker of a feature service: what is refused, what is learned, what is promoted."""

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from declared_feed import changed_log, days, materialize, redefine, with_new_customers

from adc_features.errors import InputError
from adc_features.inputs.renewal import renewed
from adc_features.ranking.multitask.scorer import NetworkScorer
from adc_features.ranking.multitask.shape import NetworkShape
from adc_features.serving.promotion import read_promotion
from adc_features.serving.workspace import Workspace
from training.deployment.declared import judging, retrain
from training.deployment.declared.champion import champion_of
from training.deployment.declared.monitor import monitor_ranker
from training.deployment.declared.promotions import ranker_versions, rollback_ranker
from training.deployment.declared.retrain import retrain_ranker
from training.deployment.declared.task import retrain_task
from training.deployment.gates import Gate
from training.deployment.settings import RetrainSettings
from training.ranker.fitting import TrainSettings
from training.ranker.joined import join_log
from training.ranker.network import Networks

LENIENT = RetrainSettings(
    window_days=7, min_new_rows=100, min_gain=-1.0, max_loss=1.0, max_miscalibration=99.0
)
"""Gates that hold for a challenger of one round."""
STRICT = RetrainSettings(window_days=7, min_new_rows=100)


def serving(folder):
    return read_promotion(folder / "rankers" / "feed" / "promotion.json").ranker_hash


def only_the_first_gate(monkeypatch):
    """Other tasks and slices have few rows here and lose with certainty now and then."""
    monkeypatch.setattr(judging, "_no_certain_loss", lambda gain: Gate(True, dict(gain), {}))


def test_new_ids_join_and_old_ones_keep_their_rows(feed, monkeypatch):
    """A challenger that passes its gates serves; every id of the champion's vocabulary has the row
    that it had, new ids come after; run again it answers what was decided; it can be rolled back.
    """
    only_the_first_gate(monkeypatch)
    before = champion_of(feed.folder, "feed")
    labels = with_new_customers(feed.folder)
    answer = retrain_ranker(feed.folder, "feed", labels, settings=LENIENT, at=feed.at)
    assert answer["decision"] == "promoted", answer["gates"]
    assert answer["reasons"]["new_rows"]["asks"]

    place = Workspace(feed.folder, "feed")
    after = champion_of(feed.folder, "feed")
    assert after.pair.ranker == place.newest().resolve() == place.version(feed.at).resolve()
    assert after.pair.ranker_hash == answer["challenger"] == serving(feed.folder)
    for table, old in before.trained.encoder.vocabularies.items():
        new = after.trained.encoder.vocabularies[table]
        assert new.ids.slice(0, len(old.ids)).equals(old.ids), table
    known, admitted = (
        c.trained.encoder.vocabularies["customer_id"].ids.to_pylist() for c in (before, after)
    )
    assert {"n0", "n1"} <= set(admitted[len(known) :])
    assert after.trained.facts["warm_start"]
    assert after.through.isoformat() == answer["window"]["start"].isoformat()

    again = retrain_ranker(feed.folder, "feed", labels, settings=LENIENT, at=feed.at)
    assert again["reused"]
    assert again["challenger"] == answer["challenger"]

    later = feed.at + timedelta(days=1)
    assert rollback_ranker(feed.folder, "feed", at=later)["to"] == before.pair.ranker.name
    assert serving(feed.folder) == before.pair.ranker_hash
    found = ranker_versions(feed.folder)["rankers"]["feed"]
    assert [v["serving"] for v in found["versions"]] == [True, False]
    assert [p["number"] for p in found["promotions"]] == [1, 2, 3]
    assert found["versions"][1]["judged"] == pytest.approx(
        answer["scores"]["challenger"]["request_gauc"]["mean"]
    )


def test_a_warm_start_scores_as_the_champion_before_any_step(feed):
    """With grown vocabularies and no step trained, every row scores as the champion scores it
    within 1e-6, those of new ids too, as they begin as the row "unknown"."""
    from training.ranker.fit_network import parameters
    from training.ranker.warm_start import warm_start

    labels = with_new_customers(feed.folder)
    task = retrain_task(feed.folder, "feed", labels, as_of=None, settings=STRICT, accept=())
    joined = join_log(feed.folder, task.schema, task.resolution, task.log)
    champion = task.champion.trained
    parts = joined.parts(np.arange(len(joined)))
    encoder = renewed(champion.encoder, joined.resolution.inputs, parts)
    assert encoder.layout.tables["customer_id"] > champion.encoder.layout.tables["customer_id"]
    shape = NetworkShape.of(encoder.layout, joined.ranker, specs=encoder.specs)
    model, older = Networks(shape), champion.models[0]
    assert warm_start(model, older.shape, older.tensors).anew == []
    found = NetworkScorer(shape, parameters(model)).predict(encoder.encode(parts))
    expected = older.predict(champion.encoder.encode(parts))
    assert np.abs(found - expected).max() <= 1e-6


@pytest.mark.slow
def test_a_worse_challenger_is_kept(feed, monkeypatch):
    """Where it learns the opposite of what comes, the champion goes on serving, the challenger is
    no version of the ranker, and its numbers are on record."""
    log = pq.read_table(feed.labels)
    past = days(feed.folder) < 30
    click = log["click"].to_numpy() ^ past
    other = click & (np.random.default_rng(0).random(len(log)) < 0.5)
    purchase = np.where(past, other, log["purchase"].to_numpy())
    soon = log["event_timestamp"].to_numpy() + np.timedelta64(1, "h")
    bought = np.where(past, soon, log["bought_at"].to_numpy())
    mixed = changed_log(
        feed.folder,
        click=click,
        purchase=purchase,
        bought_at=pa.array(bought, pa.timestamp("us", "UTC"), mask=~purchase),
    )
    fit = retrain.fit_then_refit

    def cold(*arguments, **options):
        return fit(*arguments[:-1], TrainSettings(seeds=1), **{**options, "start": None})

    monkeypatch.setattr(retrain, "fit_then_refit", cold)
    before = serving(feed.folder)
    answer = retrain_ranker(feed.folder, "feed", mixed, settings=STRICT, at=feed.at)
    assert answer["decision"] == "kept"
    assert not answer["gates"]["click_request_gauc_gain"]["passed"]
    assert serving(feed.folder) == before
    assert len(Workspace(feed.folder, "feed").versions()) == 1
    (path,) = (feed.folder / "rankers/feed").glob("retrains/*/decision.json")
    scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
    assert scores["challenger"]["auc"]["mean"] < scores["champion"]["auc"]["mean"]


@pytest.mark.slow
def test_a_challenger_that_reads_other_values_online_is_kept(feed, monkeypatch):
    """Values that are otherwise online keep the champion, and are named; the refusal is not
    remembered, and once they are online the challenger serves."""
    only_the_first_gate(monkeypatch)
    path = feed.folder / "stock.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("quality")
    other = pa.array(table["quality"].to_numpy() + 1.0)
    pq.write_table(table.set_column(place, "quality", other), path)
    kept = retrain_ranker(feed.folder, "feed", feed.labels, settings=LENIENT, at=feed.at)
    assert kept["decision"] == "kept"
    assert not kept["gates"]["online_parity"]["passed"]
    assert any("stock__quality" in said for said in kept["noticed"])
    materialize(feed.folder)
    after = retrain_ranker(feed.folder, "feed", feed.labels, settings=LENIENT, at=feed.at)
    assert after["decision"] == "promoted"
    assert after["challenger"] == kept["challenger"]


def test_without_a_reason_nothing_is_trained(feed, monkeypatch):
    """No reason, no challenger."""
    monkeypatch.setattr(retrain, "challenger_ranker", None)
    calm = RetrainSettings(window_days=7, max_uncoded=1.0, max_gauc_drop=1.0, max_usage_drift=1.0)
    answer = retrain_ranker(feed.folder, "feed", feed.labels, settings=calm, at=feed.at)
    assert answer["decision"] == "kept"
    assert answer["gates"] == {}


@pytest.mark.slow
def test_a_killed_retraining_leaves_the_champion_and_goes_on(feed, monkeypatch):
    """Killed before the promotion, the champion serves; run again, the challenger that was trained
    is judged and promoted, not trained anew."""
    only_the_first_gate(monkeypatch)
    before = serving(feed.folder)

    def killed(*_, **__):
        raise KeyboardInterrupt

    for name in ("promote_on_record", "_promoted"):
        with monkeypatch.context() as patched:
            patched.setattr(retrain, name, killed)
            with pytest.raises(KeyboardInterrupt):
                retrain_ranker(feed.folder, "feed", feed.labels, settings=LENIENT, at=feed.at)
        assert serving(feed.folder) == before
    monkeypatch.setattr(retrain, "fit_then_refit", killed)
    later = feed.at + timedelta(hours=1)
    answer = retrain_ranker(feed.folder, "feed", feed.labels, settings=LENIENT, at=later)
    assert answer["decision"] == "promoted"
    assert serving(feed.folder) == answer["challenger"]
    assert len(Workspace(feed.folder, "feed").versions()) == 2


def test_another_promotion_meanwhile_is_not_overridden(feed, monkeypatch):
    """A ranker that was promoted while the challenger was judged goes on serving."""
    only_the_first_gate(monkeypatch)
    task = retrain_task(feed.folder, "feed", feed.labels, as_of=None, settings=LENIENT, accept=())
    pair = replace(task.champion.pair, ranker_hash="0" * 64)
    old = replace(task, champion=replace(task.champion, pair=pair))
    with pytest.raises(InputError, match="was promoted while the challenger"):
        retrain._promoted(old, old.directory, at=feed.at)


def refused(feed, **options):
    """The message of a retraining with a label log that does not exist: nothing may read it."""
    with pytest.raises(InputError) as caught:
        retrain_ranker(feed.folder, "feed", feed.folder / "no.parquet", at=feed.at, **options)
    return str(caught.value)


def test_a_feature_that_is_gone_is_refused_before_work(feed):
    """The message names input, feature and nearest other; no option lifts it."""
    redefine(feed.folder, 'Field(name="quality", dtype=Float64), ', "")
    message = refused(feed, accept=("inputs",))
    assert "refusing to retrain" in message
    assert "stock__quality (Float64) is gone from service 'feed_v1'" in message
    assert "--accept" not in message


def retype_visits(feed):
    path = feed.folder / "affinity.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("visits")
    table = table.set_column(place, "visits", table["visits"].cast(pa.string()))
    pq.write_table(table, path)
    redefine(feed.folder, 'Field(name="visits", dtype=Int64)', 'Field(name="visits", dtype=String)')


def test_a_retyped_feature_is_refused_or_starts_anew(feed, monkeypatch):
    """Another type is refused with old and new; accepted, the input is fitted anew as its new kind,
    the champion is judged without it, and the others keep their ids."""
    only_the_first_gate(monkeypatch)
    retype_visits(feed)
    message = refused(feed)
    assert "affinity__visits was Int64 and is String now" in message
    assert "--accept-inputs" in message
    before = champion_of(feed.folder, "feed").trained
    asked = {"settings": LENIENT, "accept": ("inputs",), "at": feed.at}
    answer = retrain_ranker(feed.folder, "feed", feed.labels, **asked)
    assert answer["anew"] == ["affinity__visits"]
    assert answer["absent_for_the_champion"] == ["affinity__visits"]
    assert answer["decision"] == "promoted", answer["gates"]
    after = champion_of(feed.folder, "feed").trained
    kinds = {s.name: type(s.kind).__name__ for s in after.encoder.specs}
    assert kinds["affinity__visits"] == "Category"
    assert set(kinds) == {s.name for s in before.encoder.specs}
    old, new = (t.encoder.vocabularies["customer_id"].ids for t in (before, after))
    assert new.slice(0, len(old)).equals(old)
    assert after.facts["anew"] == ["affinity__visits"]


def test_a_column_of_the_log_that_is_no_text_any_more_is_refused_or_starts_anew(feed):
    """Devices were learned as text: a log that numbers them is refused with both types, by a
    retraining and by a monitor, before anything is joined; accepted, the input starts anew."""
    log, labels = pq.read_table(feed.labels), feed.folder / "numbered.parquet"
    numbers = log["device"].combine_chunks().dictionary_encode().indices.cast(pa.int64())
    pq.write_table(log.set_column(log.column_names.index("device"), "device", numbers), labels)
    told = "column device of the label log was String and is Int64 now"
    asked = {"as_of": None, "settings": STRICT}
    with pytest.raises(InputError, match=rf"(?s){told}.*--accept-inputs"):
        retrain_task(feed.folder, "feed", labels, **asked, accept=())
    with pytest.raises(InputError, match=told):
        monitor_ranker(feed.folder, "feed", labels)
    task = retrain_task(feed.folder, "feed", labels, **asked, accept=("inputs",))
    assert task.anew == {"device"}
    (device,) = [s for s in task.resolution.inputs if s.name == "device"]
    assert device.columns["source"].dtype == "Int64"


def test_changed_tags_are_refused_or_accepted(feed):
    """A tag that changes what an input would be is refused; accepted, it starts anew."""
    redefine(feed.folder, 'tags={"adc.log": "true"}', "tags={}")
    assert "input 'stock__price' would be" in refused(feed)
    task = retrain_task(
        feed.folder, "feed", feed.labels, as_of=None, settings=STRICT, accept=("inputs",)
    )
    assert task.anew == {"stock__price"}
    (price,) = [s for s in task.resolution.inputs if s.name == "stock__price"]
    assert not price.kind.log


def test_another_definition_starts_its_inputs_anew(feed):
    """A view with another ttl goes on; its inputs are fitted anew, the others are not."""
    old = 'name="affinity", entities=[customer, product], ttl=timedelta(0)'
    redefine(feed.folder, old, old.replace("timedelta(0)", "timedelta(days=90)"))
    task = retrain_task(feed.folder, "feed", feed.labels, as_of=None, settings=STRICT, accept=())
    assert task.anew == {"affinity__visits"}
    assert any("ttl" in f.message for f in task.found)


def test_a_new_feature_is_noticed_and_not_taken(feed):
    """What the service offers beside the champion's inputs is named, and no input."""
    path = feed.folder / "profile.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("age", pa.array([30.0] * len(table))), path)
    redefine(
        feed.folder,
        'Field(name="activity", dtype=Float64)',
        'Field(name="activity", dtype=Float64), Field(name="age", dtype=Float64)',
    )
    task = retrain_task(feed.folder, "feed", feed.labels, as_of=None, settings=STRICT, accept=())
    assert any("profile__age" in f.message for f in task.found)
    assert task.resolution.inputs == task.champion.trained.encoder.specs
    assert task.anew == frozenset()


def test_an_applied_wider_type_is_taken(feed):
    """Float32 that is Float64 now keeps its scale; the challenger pins the new type."""
    redefine(feed.folder, 'Field(name="price", dtype=Float32', 'Field(name="price", dtype=Float64')
    task = retrain_task(feed.folder, "feed", feed.labels, as_of=None, settings=STRICT, accept=())
    assert task.anew == frozenset()
    (price,) = [s for s in task.resolution.inputs if s.name == "stock__price"]
    assert price.columns["source"].dtype == "Float64"

"""Tokenizers compared over rolling windows, on a small shop; and what the result computes, by
hand.
"""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.data.dataset import Windows, write_dataset
from adc_features.data.synthetic import synthetic
from adc_features.errors import InputError
from adc_features.pipeline.run import RunSettings
from training.comparison import comparison, trial
from training.comparison.comparison import compare
from training.comparison.inputs import rows_of
from training.comparison.plan import ComparisonSettings, Variant, Window, windows_of
from training.comparison.significance import comparison_result, holm, sign_test
from training.comparison.trial import TrialTask, is_complete
from training.evaluation.metrics import Estimate
from training.evaluation.refits import p_value

pytestmark = pytest.mark.slow  # compares tokenizers over windows, each fitted anew

RECIPE = RunSettings.behavior
VARIANTS = (
    Variant("adc", "adc", {"steps": 60, "warmup_steps": 10}),
    Variant("rq_kmeans", "rq_kmeans"),
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("compare") / "shop"
    write_dataset(synthetic(seed=0, items=150, users=200, interactions=4000).dataset, directory)
    return directory


def settings(source: Path, **changes) -> ComparisonSettings:
    return ComparisonSettings(
        **{
            "source": str(source),
            "variants": VARIANTS,
            "windows": 2,
            "window_days": 20,
            "codebook_size": 8,
            "snapshots": 2,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def compared(shop: Path):
    out = shop.parent / "comparison"
    return out, compare(out, settings(shop))


def test_every_system_scores_the_same_rows_of_every_window(compared):
    """Two windows, without codes, both tokenizers and the controls of the first: probabilities for
    each row, one set a seed; and the baselines, which are numbers of any size.
    """
    out, (trials, facts) = compared
    rows = {w.name: len(rows_of(out).between(w.start, w.end)) for w in facts["windows"]}
    assert [(c.window.name, c.variant) for c in trials] == [
        (w, v) for w in rows for v in (None, "adc", "rq_kmeans", "baselines")
    ]
    for each in trials:
        for score in each.scores.values():
            assert score.shape == (1, rows[each.window.name])
            assert np.isfinite(score).all()
            assert each.variant == "baselines" or ((score > 0) & (score < 1)).all()
    assert set(trials[3].scores) == {
        f"{name}/baseline" for name in ("item_mean", "user_item_means", "popularity", "lightgbm")
    }
    assert set(trials[0].scores) == {"no_sid/ppnet", "vectors/ppnet"}
    assert set(trials[1].scores) == {"adc/ppnet", "adc_codes/ppnet", "adc_permuted/ppnet"}
    assert set(trials[2].scores) == {"rq_kmeans/ppnet"}
    assert {"fit_seconds", "encode_rows_per_second", "bytes_per_item", "quality"} <= set(
        trials[1].facts
    )


def test_what_is_complete_is_found_again(compared, shop, monkeypatch):
    """A second call makes no trial; after one trial is lost, only that one is made, to the same
    scores. Another version of the library makes its own.
    """
    import shutil

    out, (trials, _) = compared
    made = []
    real = comparison.ensure_trial
    monkeypatch.setattr(
        comparison, "ensure_trial", lambda *given: made.append(given[2].variant) or real(*given)
    )
    compare(out, settings(shop))
    assert made == []
    shutil.rmtree(out / "cells" / f"{trials[2].window.name}_rq_kmeans_0")
    again, _ = compare(out, settings(shop))
    assert [v.name for v in made] == ["rq_kmeans"]
    assert np.array_equal(again[2].scores["rq_kmeans/ppnet"], trials[2].scores["rq_kmeans/ppnet"])
    task = TrialTask(trials[2].window, VARIANTS[1], 0)
    assert is_complete(out, settings(shop), task)
    monkeypatch.setattr(trial, "__version__", "another")
    assert not is_complete(out, settings(shop), task)


def test_another_fit_learns_everything_anew(compared, shop):
    """With two fits the first is found again; the second has behaviour vectors, codes and rankers
    of its own, and the result is the mean of both.
    """
    out, (trials, _) = compared
    both, _ = compare(out, settings(shop, fits=2))
    first, second = ([c for c in both if c.fit == fit] for fit in (0, 1))
    assert len(first) == len(second) == len(trials)
    for old, kept, new in zip(trials, first, second, strict=True):
        for name, scores in old.scores.items():
            assert np.array_equal(kept.scores[name], scores)
            learned = old.variant != "baselines" or name == "lightgbm/baseline"
            assert np.array_equal(new.scores[name], scores) != learned
    vectors = [
        np.load(out / "behavior" / RECIPE / str(fit) / "series.npz")["vectors"] for fit in (0, 1)
    ]
    assert not np.array_equal(*vectors)
    results = [comparison_result(part, rows_of(out), first="adc") for part in (both, first, second)]
    whole, *apart = (r["paired"]["adc_minus_rq_kmeans"]["gauc"] for r in results)
    assert whole["fits"] == [part["mean"] for part in apart]
    assert whole["mean"] == pytest.approx(np.mean(whole["fits"]))
    plain = results[0]["paired_codes"]
    assert set(plain) == {
        f"adc_codes_minus_{o}" for o in ("no_sid", "vectors", "adc", "adc_permuted", "rq_kmeans")
    }
    assert plain["adc_codes_minus_adc"]["auc"]["mean"] == pytest.approx(
        -results[0]["paired"]["adc_minus_adc_codes"]["auc"]["mean"]
    )


def test_a_variant_reads_the_vectors_of_its_own_encoder(compared, shop):
    """The same tokenizer on the vectors of another encoder is a variant beside the first, whose
    scores stay; rankers without codes are shared.
    """
    out, (trials, _) = compared
    other = Variant("rq_kmeans+wmf_content", "rq_kmeans", behavior="wmf_content")
    both, _ = compare(out, settings(shop, variants=(*VARIANTS, other)))
    of = {(c.window.name, c.variant): c.scores for c in both}
    window = both[0].window.name
    for old in trials:
        for name, scores in old.scores.items():
            assert np.array_equal(of[old.window.name, old.variant][name], scores)
    ours, theirs = of[window, "rq_kmeans"], of[window, other.name]
    assert not np.array_equal(ours["rq_kmeans/ppnet"], theirs[f"{other.name}/ppnet"])
    assert {p.name for p in (out / "behavior").iterdir()} == {RECIPE, "wmf_content"}


def test_a_window_knows_nothing_of_what_comes_after_it(compared, shop, tmp_path):
    """With every later label turned round, the first day of the first window is scored the same to
    the bit; its later days may read labels of its first.
    """
    _, (trials, facts) = compared
    first, data = (
        facts["windows"][0],
        synthetic(seed=0, items=150, users=200, interactions=4000).dataset,
    )
    late = data.interactions["time"].to_numpy().astype("datetime64[us]") >= np.datetime64(
        first.start.replace(tzinfo=None)
    )
    label = data.interactions["label"].to_numpy()
    altered = data.interactions.set_column(
        data.interactions.column_names.index("label"),
        "label",
        pa.array(np.where(late, 1 - label, label).astype(np.float32)),
    )
    write_dataset(replace(data, interactions=altered), tmp_path / "shop")
    again, _ = compare(
        tmp_path / "out", settings(tmp_path / "shop", windows=2, variants=VARIANTS[1:])
    )
    mine = {c.variant: c.scores for c in again if c.window.name == first.name}
    wanted = {c.variant: c.scores for c in trials if c.window.name == first.name}
    for name in ("rq_kmeans/ppnet",):
        same_day = rows_of(tmp_path / "out").between(first.start, first.start + timedelta(days=1))
        assert np.array_equal(
            mine["rq_kmeans"][name][:, : len(same_day)],
            wanted["rq_kmeans"][name][:, : len(same_day)],
        )


def test_the_command_writes_a_table_json_and_a_page(compared, shop):
    """All three name the competitors, those of a second encoder with its name; the page needs no
    network; a tokenizer without its modality is left out by name.
    """
    out, _ = compared
    words = [
        "compare",
        "--data",
        str(shop),
        "--out",
        str(out),
        "--tokenizers",
        "rq_kmeans,opq",
        "--encoder",
        "sasrec_content",
        "--encoder",
        "wmf_content",
        "--rankers",
        "ppnet,xgboost",
        "--codebook-size",
        "8",
    ]
    shown = CliRunner().invoke(
        application(),
        [
            *words,
            "--windows",
            "1",
            "--window-days",
            "20",
            "--snapshots",
            "2",
            "--fits",
            "1",
            "--strata",
            "--json",
            str(out / "r.json"),
        ],
    )
    assert shown.exit_code == 0, shown.output
    result = json.loads((out / "r.json").read_text())
    assert result["pooled_rows"] == result["windows"][0]["rows"]
    others = ("opq", "rq_kmeans+wmf_content", "opq+wmf_content")
    assert set(result["paired"]) == {
        f"rq_kmeans_minus_{o}"
        for o in ("no_sid", "vectors", *others, "rq_kmeans_codes", "rq_kmeans_permuted")
    }
    assert set(result["paired_xgboost"]) == {
        f"rq_kmeans_minus_{o}/xgboost" for o in ("no_sid", *others)
    }
    assert set(result["paired"]["rq_kmeans_minus_opq"]["gauc"]) == {
        "mean",
        "low",
        "high",
        "p",
        "sign_test",
        "windows",
        "fits",
        "survives",
    }
    assert result["interval_covers"] == ["users"]
    assert "leave out the chance of fitting" in shown.output
    page = (out / "comparison.html").read_text()
    assert "opq" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "decile_9_auc" in result["systems"]["opq/ppnet"]


def test_fits_on_the_same_behavior_vectors_are_cheaper(compared, shop):
    """With vectors of the first fit for all: the second learns none, and other tokenizers and
    rankers. Each user's newest rows are scored apart from the windows.
    """
    out = compared[0].parent / "cheaper"
    asked = settings(
        shop,
        windows=1,
        fits=2,
        variants=VARIANTS[1:],
        behavior_anew=False,
        controls=False,
        per_user=True,
    )
    trials, _ = compare(out, asked)
    assert [path.name for path in (out / "behavior" / RECIPE).iterdir()] == ["0"]
    coded = [c.scores["rq_kmeans/ppnet"] for c in trials if c.variant and "rq" in c.variant]
    rolling, of_users, again, _ = coded
    assert not np.array_equal(rolling, again)
    assert all("vectors/ppnet" not in c.scores for c in trials)
    result = comparison_result(trials, rows_of(out), first="rq_kmeans")
    assert result["per_user"]["rows"] == of_users.shape[1]
    assert result["pooled_rows"] == rolling.shape[1]


def test_a_missing_modality_removes_the_tokenizers_that_need_it(tmp_path):
    """Without content vectors LETTER is left out by name, ADC-SID stays."""
    data = synthetic(seed=0, items=150, users=200, interactions=4000).dataset
    items = data.items.drop_columns([c for c in data.items.column_names if c.startswith("vector_")])
    write_dataset(replace(data, items=items, text_views={}), tmp_path / "shop")
    trials, _ = compare(
        tmp_path / "out",
        settings(
            tmp_path / "shop",
            windows=1,
            variants=(VARIANTS[0], Variant("letter", "letter")),
            controls=False,
        ),
    )
    result = comparison_result(trials, rows_of(tmp_path / "out"), first="adc")
    assert "letter codes content" in result["removed"]["letter"]
    assert set(result["paired"]) == {"adc_minus_no_sid"}


def test_a_tokenizer_that_learns_from_interactions_is_ranked(compared, shop):
    """It gets them from the comparison: codes of a generator's teaching score a window."""
    out, _ = compared
    short = {"steps": 20, "warmup_steps": 5, "epochs": 1, "width": 16, "min_utilisation": 0.0}
    taught = Variant("diger", "diger", short)
    trials, _ = compare(out, settings(shop, windows=1, variants=(taught,), controls=False))
    assert np.isfinite(trials[1].scores["diger/ppnet"]).all()


def test_a_collapsed_tokenizer_is_reported_and_not_ranked(compared, shop, monkeypatch):
    """A fit that uses too few of its codes says so in the result, and has no score."""
    from adc_features.errors import QualityError
    from adc_features.tokenizer import fit as module

    out, _ = compared
    monkeypatch.setattr(
        module,
        "fit",
        lambda *_, **__: (_ for _ in ()).throw(QualityError("codebook 0 uses 12% of its codes")),
    )
    trials, _ = compare(out, settings(shop, windows=1, variants=(Variant("flat", "rq_kmeans"),)))
    result = comparison_result(trials, rows_of(out), first="flat")
    assert result["collapsed"] == {"flat": "codebook 0 uses 12% of its codes"}
    assert "paired" not in result


def test_a_window_of_one_class_is_left_out_and_counted(tmp_path):
    """Its name is in the answer; the other window is scored; when none is left, the request is
    refused.
    """
    data = synthetic(seed=0, items=150, users=200, interactions=4000).dataset
    asked = ComparisonSettings(source="", variants=VARIANTS[1:], windows=2, window_days=20)
    first = windows_of(data, asked)[0]
    times, label = (
        data.interactions["time"].to_numpy().astype("datetime64[us]"),
        data.interactions["label"].to_numpy(),
    )
    inside = (times >= np.datetime64(first.start.replace(tzinfo=None))) & (
        times < np.datetime64(first.end.replace(tzinfo=None))
    )
    one = data.interactions.set_column(
        data.interactions.column_names.index("label"),
        "label",
        pa.array(np.where(inside, 1, label).astype(np.float32)),
    )
    write_dataset(replace(data, interactions=one), tmp_path / "shop")
    _, facts = compare(
        tmp_path / "out", settings(tmp_path / "shop", variants=VARIANTS[1:], controls=False)
    )
    assert facts["left_out"] == [first.name]
    assert len(facts["windows"]) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ()}, "give at least one"),
        ({"variants": (VARIANTS[0], VARIANTS[0])}, "each name once"),
        ({"rankers": ("mlp",)}, "there is no ranker 'mlp'"),
        ({"windows": 0}, "expected at least 1"),
        ({"fits": 0}, "fits is 0; expected at least 1"),
        ({"newest": True}, "ask for them with --final"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(changes, message):
    """Before any work, naming what was asked for."""
    with pytest.raises(InputError, match=message):
        settings(Path("nowhere"), **changes)


def test_windows_tile_the_rows_that_may_be_scored(shop):
    """Validation windows end where validation ends; final ones divide the rows after it; more than
    there is room for are refused.
    """
    data = replace(
        synthetic(seed=0, items=150, users=200, interactions=4000).dataset,
        windows=Windows(
            datetime(2024, 6, 1, tzinfo=UTC),
            datetime(2024, 8, 1, tzinfo=UTC),
            datetime(2024, 11, 1, tzinfo=UTC),
        ),
    )
    asked = ComparisonSettings(source="", variants=VARIANTS, windows=2, window_days=10)
    assert [(w.start.day, w.end) for w in windows_of(data, asked)] == [
        (12, datetime(2024, 7, 22, tzinfo=UTC)),
        (22, datetime(2024, 8, 1, tzinfo=UTC)),
    ]
    final = windows_of(data, replace(asked, final=True, newest=True, window_days=None))
    assert final[0].start - data.windows.validation_end < timedelta(days=2)
    assert final[0].end == final[1].start
    assert final[2] == Window(
        "split_20241101", data.windows.test_start, final[1].end, split_90_10=True
    )
    with pytest.raises(InputError, match="ask for fewer or shorter windows"):
        windows_of(data, replace(asked, windows=100))


def test_holm_rejects_from_the_smallest_until_one_fails():
    """Holm's own rule by hand: .01, .02, .03 against .05/3, .05/2, .05/1; with .03 first against
    .05/2 nothing after it counts.
    """
    assert holm([0.03, 0.01, 0.02], level=0.05) == [True, True, True]
    assert holm([0.04, 0.03, 0.01], level=0.05) == [False, False, True]
    assert holm([float("nan"), 0.04], level=0.05) == [False, True]
    assert holm([], level=0.05) == []


def test_p_and_sign_are_those_of_the_textbook():
    """1.96 standard errors from 0 is 5 %, no draw is no p; 5 of 5 windows won is 2 / 32; a tie
    counts for neither side.
    """
    draws = np.tile([-1.0, 1.0], 100) + 1.96
    assert p_value(Estimate(1.96, draws)) == pytest.approx(0.05, abs=1e-3)
    assert p_value(Estimate(0.0, np.zeros(10))) == 1.0
    assert np.isnan(p_value(Estimate(0.5, np.full(3, np.nan))))
    assert sign_test([1, 2, 3, 4, 5]) == {"won": 5, "of": 5, "p": 2 / 32}
    assert sign_test([1.0, 0.0, -1.0])["of"] == 2
    assert sign_test([]) == {"won": 0, "of": 0, "p": 1.0}

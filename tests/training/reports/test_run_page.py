"""The run's page. Reads: fake metrics and pictures. Writes: temporary HTML files."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from training.evaluation.results import Coverage, RecipeScores, RunMetrics
from training.reports.pictures import Pictures
from training.reports.run_page import report_html, write_report

RECIPES = {
    "no_sid": (0.741, 0.601),
    "codes": (0.746, 0.611),
    "codes_weights": (0.748, 0.614),
    "weights_permuted": (0.746, 0.610),
    "weights_permuted_in_decile": (0.747, 0.612),
    "codes_no_item_id": (0.747, 0.615),
    "vectors": (0.750, 0.617),
    "codes_weights_retroactive": (0.761, 0.629),
    "xgboost_no_sid": (0.738, 0.584),
    "xgboost_codes_weights": (0.740, 0.589),
}
PAIRS = {
    "codes_weights_minus_no_sid": (0.0071, 0.0132),
    "codes_minus_no_sid": (0.0049, 0.0101),
    "codes_weights_minus_codes": (0.0021, 0.0031),
    "codes_weights_minus_weights_permuted": (0.0018, 0.0044),
    "codes_weights_minus_weights_permuted_in_decile": (0.0007, 0.0018),
    "codes_weights_minus_vectors": (-0.0062, -0.0034),
    "codes_weights_retroactive_minus_codes_weights": (0.0131, 0.0149),
    "xgboost_codes_weights_minus_xgboost_no_sid": (0.0019, 0.0052),
}
POSITIONS = ["shared", "title", "brand_category", "behavior_1", "behavior_2", "behavior_3"]


def interval(mean: float, half: float = 0.005) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def fake_recipe(auc: float, gauc: float) -> RecipeScores:
    """Plausible scores of a recipe with these means."""
    slices = (
        ("head", 0.02, 0.008, 6120),
        ("middle", 0.0, 0.008, 8410),
        ("tail", -0.04, 0.014, 3120),
        ("cold", -0.07, 0.024, 940),
    )
    return RecipeScores(
        auc=interval(auc),
        gauc=interval(gauc, 0.009),
        logloss=interval(0.462 - (auc - 0.74), 0.006),
        tail_auc=interval(auc - 0.04, 0.014),
        calibration=interval(0.996, 0.012),
        expected_calibration_error=0.013,
        deciles=[
            {
                "interactions": 2.6 * 2.0**i if i else 0.0,
                "rows": 1859,
                "auc": interval(auc - 0.07 + 0.012 * i, 0.022 - 0.001 * i),
            }
            for i in range(10)
        ],
        slices={s: {"rows": n, "auc": interval(auc + d, half)} for s, d, half, n in slices},
    )


def fake_codebook(number: int, name: str) -> dict:
    """The quality of one codebook; the fifth has a dead code."""
    dead = int(number == 4)
    return {
        "position": number,
        "kind": name,
        "modality": name,
        "entropy": 4.5 - 0.03 * number,
        "entropy_bound": 4.605,
        "utilisation": 1.0 - 0.01 * dead,
        "perplexity": 90.0,
        "dead": dead,
    }


def both(auc: float, gauc: float, half: float = 0.005) -> dict:
    return {"auc": interval(auc, half), "gauc": interval(gauc, half)}


def fake_metrics(**changes: object) -> dict:
    """What a whole run writes, with plausible values."""
    seconds = {"data": 2.1, "text": 71.0, "behavior": 402.5, "generation": 241.0, "codes": 3.3}
    seconds |= {"publication": 14.2, "online": 9.7, "dataset": 21.4, "scores": 33.8, "parity": 6.6}
    metrics = RunMetrics(
        dataset={
            "name": "beauty",
            "items": 12101,
            "users": 22363,
            "interactions": 198502,
            "split": {
                "train_end": "2013-03-01T00:00:00+00:00",
                "eval_start": "2013-03-01T00:00:00+00:00",
                "eval_end": "2013-06-01T00:00:00+00:00",
            },
        },
        final=False,
        generation={
            "id": "g1",
            "codebook_hash": "c0de",
            "trained_through": "2013-03-01T00:00:00+00:00",
            "recipe": "adc",
        },
        rows_in=146231,
        rows_out=146231,
        scored_rows=18590,
        gauc_users=1645,
        gauc_rows=8291,
        label_rate=0.786,
        seeds=3,
        reliability="norm",
        baselines={
            "item_mean": both(0.66, 0.58),
            "popularity": both(0.55, 0.54),
            "user_mean": both(0.7, 0.47),
        },
        recipes={name: fake_recipe(*means) for name, means in RECIPES.items()},
        paired={
            name: {"auc": interval(auc, 0.0035), "gauc": interval(gauc, 0.0065)}
            for name, (auc, gauc) in PAIRS.items()
        },
        quality={
            "codebooks": [fake_codebook(i, name) for i, name in enumerate(POSITIONS)],
            "uniqueness": 0.987,
            "largest_collision": 6,
            "reconstruction_1_minus_r2": 0.41,
        },
        reliability_rank_correlation=1.0,
        reliability_half_agreement_rank_correlation=0.62,
        norm_rank_correlation=0.4,
        weight_count_rank_correlation=0.5,
        drift=None,
        changed_codes=None,
        coverage={
            "train": Coverage(rows=126000, with_codes=0.912, age_days=61.2),
            "scored": Coverage(rows=18590, with_codes=1.0, age_days=44.8),
        },
        unmatched={},
        cutoffs=["2013-03-01T00:00:00+00:00"],
        bytes_per_item={"codes_weights": 36, "vectors": 2048},
        parity={"items": 1000, "users": 1000, "different": 0, "now": "2013-06-01T00:00:00+00:00"},
        test_openings=[],
        stage_seconds=seconds,
        peak_memory_bytes=3_650_000_000,
    )
    return metrics.to_dict() | changes


def fake_pictures() -> Pictures:
    """Pictures of a whole run: 12,000 items, six positions, 100 codes."""
    rng = np.random.default_rng(0)
    decile = [3 * 1.7**i for i in range(10)]
    steps = np.arange(0, 3000, 10)
    terms = {
        "loss": 3.1,
        "reconstruction": 1.2,
        "codebook": 0.4,
        "alignment": 2.0,
        "sparsity": 0.1,
        "commitment": 0.2,
    }
    return Pictures(
        behavior_deciles=[
            {"interactions": c, "norm": 2.4 - 0.12 * i, "half_agreement": 0.15 + 0.07 * i}
            for i, c in enumerate(decile)
        ],
        code_deciles=[
            {
                "interactions": c,
                "reliability": 0.05 + 0.08 * i,
                "alignment": 1 / (1 + np.exp(4 - 1.2 * i)),
                "behavioral_weight": 0.35 + 0.11 * i,
                "zero_weights": 0.62 - 0.05 * i,
            }
            for i, c in enumerate(decile)
        ],
        signal=rng.beta(1.4, 4.0, 11000),
        alpha=20.0,
        beta=4.0,
        norms=rng.lognormal(0.6, 0.25, 11000),
        usage=rng.multinomial(12000, rng.dirichlet(np.full(100, 6.0)), size=6),
        positions=POSITIONS,
        titles=[
            {
                "position": p,
                "code": 17 + i,
                "items": 143 - i,
                "titles": [
                    f"Moisturising Hand Cream with Shea Butter, {n} oz (Pack of {n})"
                    for n in range(1, 13)
                ],
            }
            for i, p in enumerate(("title", "brand_category", "behavior_1"))
        ],
        tokenizer_curve=[
            {"step": int(s)}
            | {k: float(v * (0.4 + 0.6 * np.exp(-s / 500))) for k, v in terms.items()}
            for s in steps
        ],
        ranker_curves={
            r: [
                {
                    "epoch": e,
                    "train_loss": 0.5 - 0.02 * e,
                    "holdout_loss": 0.49 - 0.02 * e + 0.006 * e * e,
                }
                for e in range(5)
            ]
            for r in list(RECIPES)[:8]
        },
    )


class _Visible(HTMLParser):
    """Elements left open and the text a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} " if "style" not in self.open else ""


def visible(page: str) -> str:
    """The page's text, once its elements are seen to close."""
    reader = _Visible(page)
    assert reader.open == []
    return re.sub(r"\s+", " ", reader.text)


@pytest.fixture(scope="module")
def page() -> str:
    return report_html(fake_metrics(), fake_pictures())


def test_the_page_carries_everything_in_itself(page: str) -> None:
    """No script, no link, no image or font from elsewhere."""
    assert "<script" not in page
    assert not re.search(r"\b(src|href)=|url\((?!#)|@import", page)


def test_the_page_answers_in_words(page: str) -> None:
    """The headline names the difference, its interval, and says chance where the interval holds
    zero.
    """
    text = visible(page)
    assert "codes + weights against no codes" in text
    assert "+0.0132 better" in text
    assert "interval +0.0067 to +0.0197" in text
    assert "Do weights add to codes? AUC, GAUC: no difference can be told apart from chance" in text


def test_every_picture_says_what_it_shows(page: str) -> None:
    """Each SVG is an image with a label."""
    assert page.count("<svg ") == page.count('<svg role="img" aria-label="') >= 18


GAUC = "codes_minus_no_sid"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Validation window: the test rows stay closed"),
        ({"final": True, "test_openings": 1}, "Test rows, opened 1 time Real data"),
        (
            {"final": True, "test_openings": ["2026-01-01", "2026-01-02"]},
            "Test rows, opened 2 times",
        ),
        ({"dataset": {"name": "synthetic"}}, "Generated data"),
        ({"dataset": {"name": "beauty"}}, "Real data"),
        (
            {"parity": {"items": 1000, "different": 3}},
            "✗ fails Online values equal offline values, bit for bit 3 of 1,000 looked up differ",
        ),
        ({"rows_out": 146230}, "✗ fails The point-in-time join kept every row"),
        (
            {"reliability_rank_correlation": -0.6},
            "✗ fails The reliability signal rises with interactions",
        ),
        (
            {"paired": {GAUC: {"gauc": {"mean": -0.02, "low": -0.03, "high": -0.01}}}},
            "\N{MINUS SIGN}0.0200 worse",
        ),
        (
            {"paired": {GAUC: {"gauc": {"mean": 0.01, "low": 0.0, "high": 0.02}}}},
            "+0.0100 no difference can be told apart from chance",
        ),
        ({}, "compared no recipes"),
        ({}, "No ranker was scored"),
    ],
)
def test_the_page_says_what_kind_of_scores_these_are(changes: dict, said: str) -> None:
    """Window, openings, kind of data and failed checks stand in the text."""
    assert said in visible(
        report_html(fake_metrics(**{"recipes": {}, "paired": {}} | changes), Pictures())
    )


def test_retroactive_scores_are_named_as_leaking(page: str) -> None:
    """Wherever the retroactive recipe appears by name, so does its leak."""
    assert "Retroactive scores beside them: they leak the future" in visible(page)
    assert "retroactive codes + weights (leaks the future)" in visible(page)
    assert "How large is the retroactive leak? AUC, GAUC: higher by reading the future" in visible(
        page
    )
    assert "leak the future" not in visible(
        report_html(fake_metrics(recipes={"codes": {"auc": interval(0.7)}}, paired={}), Pictures())
    )


def test_user_text_is_escaped() -> None:
    """A title, a name or a position with markup in it shows as text."""
    nasty = "<script>alert('&\"')</script>"
    pictures = Pictures(
        titles=[{"position": nasty, "code": 1, "items": 2, "titles": [nasty]}],
        usage=np.array([[1, 2]]),
        positions=[nasty],
        ranker_curves={nasty: [{"epoch": 0, nasty: 0.5}, {"epoch": 1, nasty: 0.4}]},
        tokenizer_curve=[{"step": 0, nasty: 1.0}, {"step": 1, nasty: 0.5}],
    )
    recipe = {
        "auc": interval(0.7),
        "slices": {"head": {"auc": interval(0.7), "rows": 3}},
        "deciles": [{"interactions": 1, "auc": interval(0.7)}],
        "calibration": {nasty: 1.0},
    }
    metrics = fake_metrics(
        recipes={nasty: recipe},
        paired={f"{nasty}_minus_codes": {"auc": interval(0.1)}},
        dataset={"name": nasty, "split": nasty},
        stage_seconds={nasty: 1.0},
        coverage={nasty: {nasty: nasty}},
        bytes_per_item={nasty: 1},
        quality={nasty: 0.5},
    )
    page = report_html(metrics, pictures)
    assert "<script" not in page
    assert nasty in visible(page)


UNSEEN = {"scored_rows", "norm_rank_correlation", "weight_count_rank_correlation"}
UNSEEN |= {"generation", "drift", "changed_codes", "unmatched", "cutoffs"}
UNSEEN |= {"final", "test_openings", "reliability", "baselines"}
"""Parts of the metrics that the page does not show; the last four show under other values, or
beside recipes, only.
"""


@pytest.mark.parametrize("absent", fake_metrics())
def test_any_part_of_the_metrics_may_be_missing(absent: str) -> None:
    """Without a part, or with null in its place, there is still a page."""
    metrics = {
        k: v
        for k, v in fake_metrics().items()
        if k not in ("paired", "recipes") or absent in ("paired", "recipes")
    }
    whole = visible(report_html(metrics, Pictures()))
    without = visible(report_html({k: v for k, v in metrics.items() if k != absent}, Pictures()))
    null = visible(report_html(metrics | {absent: None}, Pictures()))
    assert without == null
    assert ("Validation window" in without) == ("Validation window" in whole)
    assert (without == whole) == (absent in UNSEEN), absent


def test_nothing_at_all_is_still_a_page() -> None:
    """A run that failed early gets a page that says so."""
    text = visible(report_html({}, Pictures()))
    assert "cannot say" in text
    assert "recorded no checks" in text


def test_undefined_scores_are_left_out() -> None:
    """A null score, as of a slice with one class, is a dash in the table and no point in the
    picture.
    """
    nothing = {"mean": None, "low": None, "high": None}
    recipe = {
        "auc": nothing,
        "gauc": nothing,
        "slices": {"cold": {"auc": nothing, "rows": 4}},
        "deciles": [{"interactions": None, "rows": 0, "auc": nothing}],
        "calibration": None,
    }
    pictures = Pictures(
        behavior_deciles=[{"interactions": 1.0, "norm": float("nan"), "half_agreement": None}],
        signal=np.array([np.nan]),
        norms=np.array([2.0, 2.0]),
        positions=["shared"],
    )
    page = report_html(
        fake_metrics(
            recipes={"codes": recipe}, paired={"codes_minus_no_sid": {"auc": nothing, "gauc": None}}
        ),
        pictures,
    )
    assert "4 rows" in visible(page)
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    """The old page is replaced at once and nothing stays beside it."""
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(path, {}, Pictures())
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_the_same_run_gives_the_same_page(page: str) -> None:
    """Nothing in the page depends on when or where it was made."""
    assert report_html(fake_metrics(), fake_pictures()) == page


def test_the_report_shows_the_coverage_that_a_run_writes() -> None:
    """Training and scored rows by name, as the values of a run have them; how the stage fills
    them in is checked end to end (tests/pipeline).
    """
    said = visible(report_html(fake_metrics(), Pictures()))
    assert (
        "Rows with codes that were servable at their time 91.2% of training rows, 100% of scored"
        " rows" in said
    )


def test_the_page_says_what_its_numbers_rest_on(page: str) -> None:
    """Label rate, users and rows of GAUC, seeds, plain baselines, and what the intervals cover."""
    said = visible(page)
    for words in (
        "positive, scored rows 78.6%",
        "GAUC rests on 1,645 users, 8,291 rows",
        "seeds a recipe 3",
        "item's mean label 0.6600",
    ):
        assert words in said
    assert "bootstrap over users and over the 3 seeds" in said
    assert "With one seed they leave out the chance in training" in visible(
        report_html(fake_metrics(seeds=1), Pictures())
    )


def test_a_count_that_rises_with_counts_proves_nothing() -> None:
    """Under log_count the correlation of reliability and interactions is a note, not a check that
    holds.
    """
    assert "• note The reliability signal rises with interactions" in visible(
        report_html(fake_metrics(reliability="log_count"), Pictures())
    )


def test_a_leak_within_chance_is_neutral() -> None:
    """An interval that holds zero is never drawn in red."""
    paired = {
        "codes_weights_retroactive_minus_codes_weights": {
            "auc": interval(0.001),
            "gauc": interval(0.001),
        }
    }
    page = report_html(fake_metrics(paired=paired, recipes={}), Pictures())
    drawn = page[page.index("Paired differences in AUC") :]
    assert "var(--red)" not in drawn[: drawn.index("</svg>")]

"""Why to trust a run, or not. Reads: the content of metrics.json, paired comparisons. Writes:
checks, each {mark (good, bad, note), what was checked, what was found}.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adc_features.codes.reliability import MIN_RANK_CORRELATION
from training.reports.values import mapping, number, percent, signed, value_text

Check = dict[str, str]


def checks(
    metrics: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]], *, openings: Any, final: bool
) -> list[Check]:
    """Every check that the run has values for."""
    return [
        *_rows(metrics),
        *_reliability(metrics),
        *_controls(pairs),
        *_coverage(metrics),
        *_openings(openings, final=final),
    ]


def _check(good: bool | None, what: str, found: str) -> Check:
    mark = "note" if good is None else "good" if good else "bad"
    return {"mark": mark, "what": what, "found": found}


def _rows(metrics: Mapping[str, Any]) -> Iterator[Check]:
    if (rows_in := metrics.get("rows_in")) is not None:
        rows_out = metrics.get("rows_out")
        yield _check(
            rows_in == rows_out,
            "The point-in-time join kept every row",
            f"{value_text(rows_in)} in, {value_text(rows_out)} out",
        )
    if "items" in (parity := mapping(metrics, "parity")):
        different = parity.get("different")
        yield _check(
            different == 0,
            "Online values equal offline values, bit for bit",
            f"{value_text(different)} of {value_text(parity['items'])} looked up differ",
        )


def _reliability(metrics: Mapping[str, Any]) -> Iterator[Check]:
    if (rank := number(metrics.get("reliability_rank_correlation"))) is not None:
        given = metrics.get("reliability") == "log_count"
        wanted = (
            "it is a count of interactions, so this is given by definition"
            if given
            else f"at least {MIN_RANK_CORRELATION} wanted"
        )
        yield _check(
            None if given else rank >= MIN_RANK_CORRELATION,
            "The reliability signal rises with interactions",
            f"rank correlation {signed(rank, 2)}, {wanted}",
        )
    if (rank := number(metrics.get("reliability_half_agreement_rank_correlation"))) is not None:
        yield _check(
            None if rank <= 0 else True,
            "The signal agrees with an independent one",
            f"rank correlation {signed(rank, 2)} with the agreement of vectors trained on two"
            " halves of the data",
        )


def _controls(pairs: Sequence[Mapping[str, Any]]) -> Iterator[Check]:
    for pair in pairs:
        shown = "; ".join(f"{measures}: {said}" for measures, said, _ in pair["answers"])
        if pair["pair"] == ("codes_weights", "weights_permuted"):
            good = any(pair[m] and pair[m].low > 0 for m in ("auc", "gauc"))
            what = "Control: weights permuted across items do worse"
            yield _check(True if good else None, what, shown)
        if pair["leak"]:
            means = ", ".join(
                f"{m.upper()} {signed(pair[m].mean)}" for m in ("auc", "gauc") if pair[m]
            )
            what = "Size of the leak when the split's codes serve for all time"
            yield _check(None, what, f"{means} ({shown})")


def _coverage(metrics: Mapping[str, Any]) -> Iterator[Check]:
    train, scored = (
        number(mapping(metrics, "coverage", part).get("with_codes")) for part in ("train", "scored")
    )
    if train is not None and scored is not None and max(train, scored) <= 1:
        yield _check(
            None,
            "Rows with codes that were servable at their time",
            f"{percent(train)} of training rows, {percent(scored)} of scored rows",
        )


def _openings(openings: Any, *, final: bool) -> Iterator[Check]:
    if final and openings is not None:
        opened = f"opened {openings} time{'s' if openings != 1 else ''}"
        yield _check(openings == 1 or None, "Test rows are scored once", opened)

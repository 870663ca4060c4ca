"""What training's commands print as text. Reads: training.cli.lines."""

from training.cli.lines import run_lines

HALF = {"mean": 0.5, "low": 0.45, "high": 0.5512}


def test_a_run_ends_with_tables_that_are_cut_at_no_width():
    """Every recipe and every difference is a whole line, its intervals under their headings."""
    name = "codes_weights_retroactive - codes_weights_under_one_name"
    result = {
        "final": False,
        "rows_in": 10,
        "rows_out": 10,
        "scored_rows": 4,
        "built": ["data"],
        "reused": [],
        "recipes": {"no_sid": {"auc": HALF, "gauc": HALF}},
        "paired": {name: {"auc": HALF, "gauc": HALF}},
        "parity": {"items": 2, "users": 3, "different": 0},
        "report": "report.html",
        "next": "adc promote",
    }
    lines = run_lines(result).splitlines()
    assert "10 rows in, 10 rows out; 4 scored on the validation window" in lines
    assert lines[lines.index("95 % intervals") + 1].split() == ["AUC", "GAUC"]
    interval = "0.5000  [0.4500, 0.5512]"
    assert f"no_sid  {interval}  {interval}" in lines
    assert f"{name}  {interval}  {interval}" in lines

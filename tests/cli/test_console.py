"""What a person sees of a result. Reads: adc_features.cli.console."""

from adc_features.cli.console import table


def test_a_table_has_aligned_columns() -> None:
    """Names stand over their values, numbers are aligned to the right, an absent value is empty."""
    rows = [{"item_id": "a", "weight": 0.5}, {"item_id": "[b]unknown", "weight": 12, "sid": [1, 2]}]
    assert table(rows).splitlines() == [
        "item_id     weight  sid",
        "a              0.5",
        "[b]unknown      12  [1, 2]",
    ]


def test_a_long_row_stays_one_line() -> None:
    """A pipe gets whole lines, however wide; nothing is cut."""
    wide = table([{"codes": list(range(300)), "path": "x" * 400}])
    assert len(wide.splitlines()) == 2
    assert wide.endswith("x" * 400)
    assert "299" in wide

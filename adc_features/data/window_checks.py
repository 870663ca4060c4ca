"""What the windows of a dataset hold. Reads: Datasets. Writes: findings."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.data.dataset import Dataset
from adc_features.data.table_checks import Finding


def examine_windows(dataset: Dataset) -> list[Finding]:
    """Split dates, rows, label rate, users and items new to each scored window, and what GAUC rests
    on there.
    """
    w = dataset.windows
    train = dataset.before(w.validation_start)
    findings = [
        Finding(
            "fact", "windows.training", f"{len(train)} rows before {w.validation_start.isoformat()}"
        )
    ]
    for name, start, end in (
        ("validation", w.validation_start, w.validation_end),
        ("test", w.test_start, None),
    ):
        findings.append(
            _window(
                name,
                dataset.before(start),
                dataset.within(start, end),
                f"from {start.isoformat()} to {end.isoformat() if end else 'the end'}",
            )
        )
    return findings


def _window(name: str, seen: pa.Table, rows: pa.Table, span: str) -> Finding:
    where, choose = (
        f"windows.{name}",
        "choose other windows with `adc data tables --validation-start TIME --test-start TIME`",
    )
    if not len(rows):
        return Finding("warning", where, f"no row {span}", choose)
    said = f"{len(rows)} rows {span}, {pc.mean(rows['label']).as_py():.1%} of them positive"
    for entity in ("user", "item"):
        ids = rows[f"{entity}_id"]
        known = pc.is_in(pc.unique(ids), value_set=pc.unique(seen[f"{entity}_id"]))
        said += (
            f"; {1 - np.mean(known.to_numpy(zero_copy_only=False)):.1%} of its {len(known)}"
            f" {entity}s are new"
        )
    users, covered = gauc_base(rows)
    said += f"; GAUC rests on {users} users with both classes and their {covered} rows"
    return Finding("fact", where, said) if users else Finding("warning", where, said, choose)


def gauc_base(rows: pa.Table) -> tuple[int, int]:
    """Users with both classes, and their rows."""
    by_user = rows.group_by("user_id").aggregate(
        [("label", "min"), ("label", "max"), ("label", "count")]
    )
    both = by_user.filter(pc.less(by_user["label_min"], by_user["label_max"]))
    return len(both), pc.sum(both["label_count"]).as_py() or 0

"""`adc compare`, `adc ablate`, `adc sweep`: one harness, three lists of variants. Each writes
comparison.json and comparison.html.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from adc_features.cli.console import JsonOption, progress, report
from training.cli.comparison_lines import comparison_lines
from training.cli.rankers import RefreshOption, refresh_texts

TOKENIZERS = "adc,rq_vae,rq_kmeans,opq,qarm,letter,das,mm_rq_vae,mmq,unisid,posterior"
ABLATIONS = ("adc", "without_controller", "without_contrastive", "without_gate", "without_sparsity")
"""Table 3 of the paper."""

OutOption = Annotated[
    Path,
    typer.Option(
        "--out", metavar="DIR", help="Comparison directory; what is complete there is used again."
    ),
]
DataOption = Annotated[str, typer.Option("--data", metavar="DIR|synthetic", help="Data source.")]
RankersOption = Annotated[str, typer.Option(help="ppnet, xgboost or both, comma-separated.")]
FitsOption = Annotated[
    int,
    typer.Option(
        min=1,
        help=(
            "Number of full refits, each with other seeds; intervals cover their chance. With 1"
            " they cover users alone."
        ),
    ),
]
BehaviorOption = Annotated[
    bool,
    typer.Option(
        "--behavior-anew/--behavior-once",
        help=(
            "Whether every fit learns behaviour vectors of its own; once is cheaper, and leaves"
            " their chance out of the intervals."
        ),
    ),
]
ControlsOption = Annotated[
    bool,
    typer.Option(
        "--controls/--no-controls",
        help=(
            "Also raw vectors, and the codes of the first tokenizer without weights and with"
            " those of other items."
        ),
    ),
]
SnapshotsOption = Annotated[
    int, typer.Option(min=1, help="Past cut-offs at which items get codes, before the last window.")
]
SeedsOption = Annotated[int, typer.Option(min=1, help="Rankers of each kind and fit.")]
WindowsOption = Annotated[
    int, typer.Option(min=1, help="Rolling windows; each refits everything on earlier rows.")
]
DaysOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=(
            "Days of a window; default 91, with --final the span after the validation rows in equal"
            " parts."
        ),
    ),
]
FinalOption = Annotated[
    bool,
    typer.Option("--final", help="Windows after the validation rows. Opens test rows; logged."),
]
JobsOption = Annotated[int, typer.Option(min=1, help="Processes side by side, one thread each.")]
SizeOption = Annotated[int, typer.Option(min=2, help="K, codes per position.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (compare, ablate, sweep):
        app.command()(command)


def compare(
    data: DataOption,
    out: OutOption,
    tokenizers: Annotated[
        str, typer.Option(help="Comma-separated; the first is compared with each other one.")
    ] = TOKENIZERS,
    rankers: RankersOption = "ppnet,xgboost",
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "Encoder of behaviour, as for `adc embed behavior`; repeatable: the variants of"
                " further ones are called TOKENIZER+ENCODER. Default: that of `adc run`."
            )
        ),
    ] = None,
    fits: FitsOption = 5,
    behavior_anew: BehaviorOption = True,
    seeds: SeedsOption = 1,
    windows: WindowsOption = 1,
    window_days: DaysOption = None,
    codebook_size: SizeOption = 100,
    final: FinalOption = False,
    split_90_10: Annotated[
        bool,
        typer.Option(
            "--split-90-10",
            help="Also the rows of the 90/10 split, apart from the windows; needs --final.",
        ),
    ] = False,
    per_user: Annotated[
        bool,
        typer.Option(
            "--per-user",
            help="Also each user's newest rows, apart from the windows; see the guide.",
        ),
    ] = False,
    snapshots: SnapshotsOption = 8,
    steps: Annotated[
        int | None,
        typer.Option(
            min=100,
            help="Optimiser steps of the tokenizers that have them; default each one's own.",
        ),
    ] = None,
    controls: ControlsOption = True,
    strata: Annotated[
        bool, typer.Option("--strata", help="Also by popularity decile of the item (Fig. 6).")
    ] = False,
    jobs: JobsOption = 1,
    refresh: RefreshOption = None,
    json: JsonOption = None,
) -> None:
    """Rank with each tokenizer's codes on the same rows, split and budget, over windows that roll
    through time.
    """
    from adc_features.pipeline.recipes import behavior_recipe
    from training.comparison.plan import Variant

    behavior, *others = [behavior_recipe(name, None) for name in encoder or ()] or [None]
    named = tokenizers.split(",")
    variants = (
        *(Variant(n, n, _steps(n, steps)) for n in named),
        *(
            Variant(f"{n}+{name}", n, _steps(n, steps), behavior=recipe)
            for name, recipe in zip((encoder or ())[1:], others, strict=True)
            for n in named
        ),
    )
    settings = _settings(
        rankers,
        fits,
        seeds,
        windows,
        window_days=window_days,
        codebook_size=codebook_size,
        final=final,
        behavior_anew=behavior_anew,
    )
    _run(
        "Tokenizers compared",
        data,
        out,
        variants,
        {
            **settings,
            **({"behavior": behavior} if behavior else {}),
            "newest": split_90_10,
            "per_user": per_user,
            "snapshots": snapshots,
            "controls": controls,
            "refresh": refresh_texts(refresh) or {},
        },
        strata=strata,
        jobs=jobs,
        json=json,
    )


def ablate(
    data: DataOption,
    out: OutOption,
    rankers: RankersOption = "ppnet",
    fits: FitsOption = 5,
    behavior_anew: BehaviorOption = True,
    seeds: SeedsOption = 1,
    windows: WindowsOption = 1,
    window_days: DaysOption = None,
    codebook_size: SizeOption = 100,
    final: FinalOption = False,
    jobs: JobsOption = 1,
    json: JsonOption = None,
) -> None:
    """ADC-SID and its four ablations (Table 3)."""
    from training.comparison.plan import Variant

    settings = _settings(
        rankers,
        fits,
        seeds,
        windows,
        window_days=window_days,
        codebook_size=codebook_size,
        final=final,
        behavior_anew=behavior_anew,
    )
    _run(
        "ADC-SID and what is left without each part",
        data,
        out,
        tuple(Variant(n, n) for n in ABLATIONS),
        settings,
        strata=False,
        jobs=jobs,
        json=json,
    )


def sweep(
    parameter: Annotated[
        Literal["alpha_beta", "behavior_experts", "codebook_size"],
        typer.Argument(help="What varies (Table 4, Fig. 5)."),
    ],
    data: DataOption,
    out: OutOption,
    rankers: RankersOption = "ppnet",
    fits: FitsOption = 5,
    behavior_anew: BehaviorOption = True,
    seeds: SeedsOption = 1,
    windows: WindowsOption = 1,
    window_days: DaysOption = None,
    codebook_size: SizeOption = 100,
    final: FinalOption = False,
    jobs: JobsOption = 1,
    json: JsonOption = None,
) -> None:
    """ADC-SID with one parameter varied, its default first."""
    from training.comparison.plan import Variant

    grid: dict[str, Sequence[Variant]] = {
        "alpha_beta": [
            Variant("adc", "adc"),
            *(
                Variant(f"alpha_{a}_beta_{b}", "adc", {"alpha": float(a), "beta": float(b)})
                for a, b in ((0, 0), (10, 5), (10, 9), (20, 8), (40, 8))
            ),
        ],
        "behavior_experts": [
            Variant("adc", "adc"),
            *(Variant(f"experts_{n}", "adc", behavior_codes=n) for n in (1, 2, 4, 5)),
        ],
        "codebook_size": [
            Variant("adc", "adc"),
            *(Variant(f"codes_{k}", "adc", codebook_size=k) for k in (25, 50, 200, 400)),
        ],
    }
    settings = _settings(
        rankers,
        fits,
        seeds,
        windows,
        window_days=window_days,
        codebook_size=codebook_size,
        final=final,
        behavior_anew=behavior_anew,
    )
    _run(
        f"ADC-SID by {parameter.replace('_', ' ')}",
        data,
        out,
        tuple(grid[parameter]),
        settings,
        strata=False,
        jobs=jobs,
        json=json,
    )


def _settings(rankers: str, fits: int, seeds: int, windows: int, **others: Any) -> dict[str, Any]:
    """What the three commands say alike, as fields of ComparisonSettings."""
    return {
        "rankers": tuple(rankers.split(",")),
        "fits": fits,
        "seeds": seeds,
        "windows": windows,
        **others,
    }


def _steps(tokenizer: str, steps: int | None) -> dict[str, int]:
    """The change of a tokenizer's settings that gives it so many steps, if it has any."""
    from adc_features.tokenizer.fit import RECIPES

    if steps is None or tokenizer not in RECIPES or not hasattr(RECIPES[tokenizer](), "steps"):
        return {}
    return {"steps": steps}


def _run(
    title: str,
    data: str,
    out: Path,
    variants: tuple[Any, ...],
    settings: Mapping[str, Any],
    *,
    strata: bool,
    jobs: int,
    json: str | None,
) -> None:
    from adc_features.artifact import write_json
    from training.comparison.comparison import compare as compare_all
    from training.comparison.inputs import rows_of
    from training.comparison.plan import ComparisonSettings
    from training.comparison.significance import comparison_result
    from training.reports.comparison_page import comparison_page
    from training.reports.pages import write_page

    asked = ComparisonSettings(source=data, variants=variants, **settings)
    with progress() as notify:
        cells, facts = compare_all(out, asked, jobs=jobs, progress=notify)
    result = {
        "command": " ".join(["adc", *sys.argv[1:]]),
        "commit": _commit(),
        "fits": asked.fits,
        "behavior": asked.behavior,
        "behavior_fits": asked.fits if asked.behavior_anew else 1,
        "seeds": asked.seeds,
        "snapshots": asked.snapshots,
        "settings": {v.name: dict(v.changes) for v in variants if v.changes},
        "final": asked.final,
        "left_out": facts["left_out"],
        "refresh": dict(asked.refresh),
    }
    result |= comparison_result(
        cells, rows_of(out), first=variants[0].name, seed=asked.seed, deciles=strata
    )
    write_json(out / "comparison.json", result)
    write_page(
        out / "comparison.html", comparison_page(result, title=title, first=variants[0].name)
    )
    report(
        {**result, "page": str(out / "comparison.html")},
        json,
        text=partial(comparison_lines, first=variants[0].name),
    )


def _commit() -> str | None:
    """The commit that this code lies in, where it lies in a repository: evidence names it."""
    try:
        shown = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return shown.stdout.strip()

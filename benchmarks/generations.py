"""What moving through time does to codes and to the rankers that read them. Reads: items,
interactions; only rows that choices may look at. Writes: JSON.

stability   Four ways to go on from one generation over monthly steps: `frozen` encodes later
            snapshots with it, `aligned` starts each month's generation from the one before and
            keeps its codes' meaning, `naive_aligned` fits each from scratch and only names its
            codes, `naive` only fits. kept: share of (item, position) codes unchanged from month to
            month among items that have a code there in both, mean over the steps; kept_warm: of
            items with behaviour in both; kept_behavioral: at behavioural positions. auc, gauc: a
            ranker trained on rows before the scored window reads, unchanged, each month's codes.
survival    A ranker of generation n reads the rows of the next month with its own generation's
            codes, and with those of n + 1: what that costs.
time_travel Trained on codes as they were at each row's time, on the newest for every row
            (hindsight), on those of a year before (and reading those when it serves).
retraining  Over the span (a year), one ranker that is never retrained and one retrained each
            month; codes of one generation, frozen before.
faults      Kills of a deployment's commands (deployment_faults.py), with --kills.

Rankers are the recipe `codes` (--recipe), mean over seeds. Metrics over several windows are means
weighted by rows, intervals 95 % from draws of users, paired.

    python benchmarks/generations.py --data BEAUTY --kills 300 --json -
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from _measure import apart, write_report
from deployment_faults import faults

from adc_features.codes.churn import churn_report, relabelled
from adc_features.codes.embeddings import EmbeddingTable, id_array
from adc_features.codes.generation import Generation, open_generation
from adc_features.codes.sids import SidTable, SidTimeline
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.data.dataset import Dataset, snapshot_times
from adc_features.loader.frame import TrainingFrame, label_table, training_frame
from adc_features.pipeline.run import Run, RunSettings
from adc_features.pipeline.stages import DATA, TEXT, content_vectors, dataset_of, statistics_of
from adc_features.ranking.recipes import Sources
from adc_features.tokenizer.encode import encode, encode_series
from adc_features.tokenizer.fit import adc, fit
from adc_features.tokenizer.line import Line
from training.comparison.inputs import coded_frame
from training.comparison.plan import Window
from training.comparison.significance import comparison_result
from training.comparison.trial import Trial
from training.fit import train

SYSTEMS = ("frozen", "aligned", "naive_aligned", "naive")
PARTS = ("stability", "survival", "time_travel", "retraining")


def months_back(end: datetime, count: int) -> list[datetime]:
    """The firsts of `count` months, and of the one before them:
    the last is the newest not after `end`.
    """
    newest = end.year * 12 + end.month - 1
    first = end.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return [
        first.replace(year=m // 12, month=m % 12 + 1) for m in range(newest - count, newest + 1)
    ]


@dataclass(frozen=True)
class World:
    """Vectors as of every cut-off, rows with every feature but codes, and the generations fitted on
    them; kept in a directory, made when first asked for.
    """

    directory: Path
    o: argparse.Namespace

    @cached_property
    def run(self) -> Run:
        run = Run.start(self.directory / "run", RunSettings(source=self.o.data, seed=self.o.seed))
        for stage in (DATA, TEXT):
            run.ensure(stage)
        return run

    @cached_property
    def dataset(self) -> Dataset:
        return dataset_of(self.run)

    @cached_property
    def months(self) -> list[datetime]:
        """Firsts of the months of the span (a year), and its end."""
        return months_back(self.dataset.windows.validation_end, self.o.span)

    @cached_property
    def steps(self) -> list[datetime]:
        """Firsts of the months that generations are compared over:
        the newest --months, and the one before.
        """
        return self.months[-1 - self.o.months :]

    @cached_property
    def tables(self) -> list[EmbeddingTable]:
        """Vectors as of the cut-offs before the span, and as of each of its months, of one
        chronological pass.
        """
        from adc_features.encoders.behavior import behavior_series, full_softmax

        place = self.directory / "tables"
        if not place.exists():
            past = self.dataset.before(self.months[-1])
            cutoffs = snapshot_times(
                past["time"].to_numpy(), split=self.months[0], count=self.o.history
            )
            ids, text = id_array(self.dataset.items["item_id"]), self.run.output("text")
            content, present = content_vectors(
                self.dataset,
                lambda view: (np.load(text / f"{view}.npy"), np.load(text / f"{view}.present.npy")),
            )
            series = behavior_series(
                past,
                ids,
                cutoffs=[*cutoffs, *self.months[1:]],
                settings=full_softmax(),
                seed=self.o.seed,
            )
            aside = Path(tempfile.mkdtemp(dir=self.directory))
            for number, b in enumerate(series):
                table = EmbeddingTable(
                    ids,
                    {**content, BEHAVIOR: b.vectors},
                    {**present, BEHAVIOR: b.present},
                    b.interaction_count,
                    b.as_of,
                )
                table.write(aside / f"{number:03d}.parquet")
            aside.rename(place)
        return [EmbeddingTable.read(path) for path in sorted(place.glob("*.parquet"))]

    def until(self, time: datetime) -> list[EmbeddingTable]:
        return [t for t in self.tables if t.as_of <= time]

    @cached_property
    def rows(self) -> TrainingFrame:
        """Labelled rows before the end of the span with the statistics that were known at each,
        joined by Feast; no codes.
        """
        from adc_features.store import (
            apply,
            create_repository,
            publish_statistics,
            service_name,
            training_features,
        )

        path, events = self.directory / "frame.parquet", self.dataset.before(self.months[-1])
        if not path.exists():
            repo = Path(tempfile.mkdtemp(dir=self.directory)) / "feature_repo"
            create_repository(repo, project="generations")
            publish_statistics(
                repo,
                **statistics_of(self.dataset, events, refresh_at=self.months),
                resolution=self.dataset.resolution,
            )
            apply(repo)
            pq.write_table(
                training_features(repo, label_table(events), service=service_name(None)), path
            )
        return training_frame(
            pq.read_table(path),
            label_table(events),
            generation=None,
            codebook_size=0,
            resolution=self.dataset.resolution,
        )

    def generation(
        self, name: str, through: datetime, *, line: Line | None = None, seed: int = 0
    ) -> Generation:
        """The generation fitted on the vectors up to a cut-off."""
        place = self.directory / "generations" / name
        if not place.exists():
            tables = self.until(through)
            spec = SidSpec(content={m: 1 for m in tables[0].vectors if m != BEHAVIOR})
            settings = adc() if self.o.steps is None else replace(adc(), steps=self.o.steps)
            place.parent.mkdir(exist_ok=True)
            fit(
                tables,
                spec,
                settings=settings,
                generation_id=name,
                directory=place,
                seed=self.o.seed + seed,
                line=line,
            )
        return open_generation(place)

    @cached_property
    def frozen(self) -> Generation:
        """Of the first step: every way goes on from it."""
        return self.generation("g0", self.steps[0])

    def line(self, name: str) -> list[Generation]:
        """The generation of every step: one a month, or `frozen` for all."""
        line = [self.frozen]
        for number, step in enumerate(self.steps[1:], start=1):
            if name == "frozen":
                line.append(self.frozen)
            else:
                warm = name == "aligned"
                line.append(
                    self.generation(
                        f"{'aligned' if warm else 'anew'}{number}",
                        step,
                        line=Line(line[-1], warm=warm),
                        seed=number,
                    )
                )
        return line

    def chain(self, generation: Generation, through: datetime) -> list[SidTable]:
        """Snapshots of one generation, held from one to the next."""
        return list(encode_series(self.until(through), generation))

    def table(self, time: datetime) -> EmbeddingTable:
        return next(t for t in self.tables if t.as_of == time)

    def scores(
        self,
        start: datetime,
        end: datetime,
        *,
        learned: Sequence[SidTable],
        served: Sequence[SidTable],
    ) -> np.ndarray:
        """Of the rows from start to end with the codes `served`, by rankers trained on all rows
        before with the codes `learned`: float32 [seeds, N].
        """
        return self.ranker(start, learned)(start, end, served)

    def ranker(
        self, before: datetime, learned: Sequence[SidTable]
    ) -> Callable[[datetime, datetime, Sequence[SidTable]], np.ndarray]:
        """Trained on the rows before; scores rows from start to end with the codes served then,
        float32 [seeds, N].
        """
        codes = timeline(learned)
        frame = coded_frame(
            self.rows.between(None, before), codes, codebook_size=learned[0].codebook_size
        )
        trained = train(
            frame, self.o.recipe, sources=Sources(sids=codes), seeds=range(self.o.seeds)
        )

        def scores(start: datetime, end: datetime, served: Sequence[SidTable]) -> np.ndarray:
            later = timeline(served)
            return trained.predict(
                coded_frame(
                    self.rows.between(start, end), later, codebook_size=served[0].codebook_size
                ),
                Sources(sids=later),
            )

        return scores

    def judged(
        self, windows: Sequence[tuple[datetime, datetime, Mapping[str, np.ndarray]]], first: str
    ) -> dict[str, Any]:
        """{"systems": {name: {"auc", "gauc", ...}}, "paired": {first_minus_name: ...},
        "pooled_rows", "windows"} of the scores of each window.
        """
        cells = [
            Trial(
                Window(f"{start:%Y-%m-%d}", start, end),
                "generations",
                {f"{n}/ppnet": s for n, s in scores.items()},
                {},
            )
            for start, end, scores in windows
        ]
        said = comparison_result(cells, self.rows, first=first, seed=self.o.seed)
        systems = {name.removesuffix("/ppnet"): values for name, values in said["systems"].items()}
        return {
            "pooled_rows": said["pooled_rows"],
            "windows": said["windows"],
            "systems": systems,
            "paired": said["paired"],
        }


def timeline(snapshots: Sequence[SidTable]) -> SidTimeline:
    """Each row reads the snapshot of its time, whatever generation that is of: what a promotion
    refuses to do.
    """
    return SidTimeline(
        [replace(s, generation="forced") for s in snapshots], [s.as_of for s in snapshots]
    )


def unnamed(snapshot: SidTable, generation: Generation) -> SidTable:
    """The snapshot under the names that the fit gave its codes."""
    aligned = generation.settings.get("aligned")
    return (
        snapshot
        if aligned is None
        else replace(
            snapshot, sid=relabelled(snapshot.sid, np.argsort(np.array(aligned["names"]), axis=1))
        )
    )


def of_system(name: str, snapshot: SidTable, generation: Generation) -> SidTable:
    return unnamed(snapshot, generation) if name == "naive" else snapshot


def stability(world: World) -> dict[str, Any]:
    """Kept codes of each way, and the scores of a ranker that is trained once and reads every
    month's codes.
    """
    start, end = (
        max(m for m in world.steps if m <= world.dataset.windows.validation_start),
        world.steps[-1],
    )
    kept: dict[str, Any] = {}
    scores: dict[str, np.ndarray] = {}
    for name in SYSTEMS:
        line = world.line(name)
        served = world.chain(line[0], world.steps[0])[-1:]
        for generation, step in zip(line[1:], world.steps[1:], strict=True):
            held = name in ("frozen", "aligned")  # codes of another line are nothing to hold on to
            served.append(
                encode(world.table(step), generation, previous=served[-1] if held else None)
            )
        served = [of_system(name, s, g) for s, g in zip(served, line, strict=True)]
        kept[name] = kept_codes(served, world)
        in_force = line[world.steps.index(start)]  # at the window's start
        learned = [of_system(name, s, in_force) for s in world.chain(in_force, start)]
        scores[name] = world.scores(
            start, end, learned=learned, served=[s for s in served if s.as_of >= start]
        )
    judged = world.judged([(start, end, scores)], "frozen")
    return {
        **{
            name: {**kept[name], **{m: judged["systems"][name][m]["mean"] for m in ("auc", "gauc")}}
            for name in SYSTEMS
        },
        "paired": judged["paired"],
        "scored": judged["windows"],
    }


def kept_codes(served: Sequence[SidTable], world: World) -> dict[str, Any]:
    steps = []
    for old, new in itertools.pairwise(served):
        report = churn_report(
            old, new, world.table(new.as_of).interaction_count, spec=world.frozen.spec
        )
        warm = ~old.is_cold & ~new.is_cold
        steps.append(
            {
                "kept": 1 - report["changed"],
                "kept_warm": float((old.sid == new.sid)[warm].mean()),
                "kept_behavioral": 1 - report["changed_behavioral"],
            }
        )
    return {**{k: float(np.mean([s[k] for s in steps])) for k in steps[0]}, "by_step": steps}


def survival(world: World) -> dict[str, Any]:
    """auc_loss: AUC with the own generation's codes less that with the next one's, the same
    rankers, the same rows.
    """
    said = {}
    for name in ("aligned", "naive"):
        line = world.line(name)
        windows = []
        for (before, after), (trained, start), end in zip(
            itertools.pairwise(line), itertools.pairwise(world.steps), world.steps[2:], strict=False
        ):
            own = [of_system(name, s, before) for s in world.chain(before, start)]
            held = world.chain(before, trained)[-1] if name == "aligned" else None
            given = of_system(name, encode(world.table(start), after, previous=held), after)
            ranker = world.ranker(trained, own[:-1])
            windows.append(
                (
                    start,
                    end,
                    {"own": ranker(start, end, own[-1:]), "given": ranker(start, end, [given])},
                )
            )
        judged = world.judged(windows, "own")
        loss = judged["paired"]["own_minus_given"]
        said[name] = {f"{m}_loss": loss[m]["mean"] for m in ("auc", "gauc")} | {
            "interval": {m: loss[m] for m in ("auc", "gauc")},
            **judged["systems"],
        }
        said["pooled_rows"], said["windows"] = judged["pooled_rows"], judged["windows"]
    return said


def time_travel(world: World) -> dict[str, Any]:
    """Four windows of three months, each with rankers of its own; the generation was frozen before
    the first.
    """
    windows = []
    for start, end in zip(world.months[:-1:3], world.months[3::3], strict=True):
        chain = world.chain(world.generation("year", world.months[0]), end)
        known, serving = (
            [s for s in chain if s.as_of <= start],
            [s for s in chain if start <= s.as_of < end],
        )
        old = ([s for s in chain if s.as_of <= start - timedelta(days=365)] or chain[:1])[-1]
        always = chain[0].as_of
        windows.append(
            (
                start,
                end,
                {
                    "point_in_time": world.scores(start, end, learned=known, served=serving),
                    "latest": world.scores(
                        start, end, learned=[replace(known[-1], as_of=always)], served=serving
                    ),
                    "old": world.scores(
                        start, end, learned=[replace(old, as_of=always)], served=[old]
                    ),
                },
            )
        )
    judged = world.judged(windows, "point_in_time")
    return {**judged["systems"], "paired": judged["paired"], "pooled_rows": judged["pooled_rows"]}


def retraining(world: World) -> dict[str, Any]:
    """Month by month: AUC and GAUC of a ranker of the year's start, and of one trained on every row
    before the month.
    """
    chain = world.chain(world.generation("year", world.months[0]), world.months[-1])
    never = world.ranker(world.months[0], [s for s in chain if s.as_of <= world.months[0]])
    windows = []
    for start, end in itertools.pairwise(world.months):
        served = [s for s in chain if s.as_of == start]
        monthly = world.scores(
            start, end, learned=[s for s in chain if s.as_of <= start], served=served
        )
        windows.append((start, end, {"never": never(start, end, served), "monthly": monthly}))
    judged = world.judged(windows, "monthly")
    curve = {
        name: [
            {
                "month": w["name"],
                "rows": w["rows"],
                **{m: judged["systems"][name]["windows"][m][i] for m in ("auc", "gauc")},
            }
            for i, w in enumerate(judged["windows"])
        ]
        for name in ("never", "monthly")
    }
    return {**curve, "paired": judged["paired"], "pooled_rows": judged["pooled_rows"]}


def part(name: str, o: argparse.Namespace, directory: Path) -> dict[str, Any]:
    import torch

    torch.set_num_threads(o.threads)
    return {
        "stability": stability,
        "survival": survival,
        "time_travel": time_travel,
        "retraining": retraining,
    }[name](World(directory, o))


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", required=True, metavar="DIR|synthetic")
    options.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    options.add_argument(
        "--span",
        type=int,
        default=12,
        help="months of retraining and time_travel, the newest that choices may look at",
    )
    options.add_argument(
        "--months",
        type=int,
        default=6,
        help="monthly steps of stability and survival, the newest of the span",
    )
    options.add_argument("--history", type=int, default=8, help="cut-offs before the span")
    options.add_argument(
        "--steps", type=int, help="optimiser steps of a fit; default: the recipe's"
    )
    options.add_argument("--recipe", default="codes", help="of the rankers")
    options.add_argument("--seeds", type=int, default=3, help="rankers of each kind")
    options.add_argument("--kills", type=int, default=0)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument(
        "--work",
        type=Path,
        help="directory that keeps vectors and generations; a killed call goes on from it",
    )
    options.add_argument("--json", default="-", metavar="FILE|-")
    o = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        directory = o.work or Path(place)
        directory.mkdir(exist_ok=True)
        said = {name: apart(part, name, o, directory) for name in o.parts.split(",")}
        if o.kills:
            said["faults"] = apart(faults, o.kills, o.seed)
    systems = {name: said["stability"][name] for name in SYSTEMS} if "stability" in said else {}
    ratios = (
        {
            f"{name}_kept_over_naive": systems[name]["kept"] / systems["naive"]["kept"]
            for name in SYSTEMS[:-1]
        }
        if systems
        else {}
    )
    write_report(
        o.json,
        systems=systems,
        ratios=ratios,
        **said,
        options={k: str(v) for k, v in vars(o).items()},
    )


if __name__ == "__main__":
    main()

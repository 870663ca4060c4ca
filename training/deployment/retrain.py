"""The next ranker: whether one is needed, whether it is better, and then only its promotion. Reads:
a run, newer data, its catalogue. Writes:

<run>/retrains/<as_of>_<hash>/frame_<generation>/   labelled rows joined with what was knowable at
                                                    each
<run>/retrains/<as_of>_<hash>/ranker/model/         the challenger
<run>/retrains/<as_of>_<hash>/decision.json         written last: reasons, gates, what became of it

window = [as_of - window_days, as_of), later than anything champion or challenger learned from
snapshot as of the window's start -> join -> reasons -> challenger on the rows before the window ->
gates -> materialize, parity, pointer

Every step is kept under a name made of its inputs, so a killed command goes on where it was; a
finished one repeats its answer while all that the answer depended on is as it was
(`training.deployment.decisions`).
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adc_features.artifact import (
    MANIFEST,
    file_hash,
    fresh_directory,
    json_text,
    read_manifest,
    seal,
    write_json,
)
from adc_features.catalog import Catalog
from adc_features.catalog.tables import RUNS
from adc_features.clock import utc
from adc_features.codes.churn import usage_distance
from adc_features.codes.embeddings import id_array
from adc_features.data.dataset import Dataset
from adc_features.errors import ArtifactError, InputError
from adc_features.loader.frame import TrainingFrame, label_table, training_frame
from adc_features.pipeline.dataset_manifest import retrieval_manifest
from adc_features.pipeline.pairs import promotion_of
from adc_features.pipeline.run import Run
from adc_features.pipeline.snapshots import refresh_statistics, refuse_after_window, snapshot
from adc_features.pipeline.stages import dataset_of, load_source, repository_of, split_of
from adc_features.ranking.recipes import Recipe, Sources
from adc_features.ranking.trained import Trained, load_trained
from adc_features.serving.promotion import PROMOTION, Promotion, read_promotion
from training.deployment.decisions import DECISION, RetrainSettings, content_hash, remembered
from training.deployment.deployment import deploy, line_of, sync
from training.deployment.places import retrain_place
from training.deployment.tracking import track
from training.evaluation.metrics import Estimate, Judge, popularity_slices
from training.fit import train
from training.stages import PARITY_SAMPLE, code_coverage

log = logging.getLogger(__name__)


def retrain(
    run: Run,
    catalog: Catalog,
    *,
    as_of: datetime | None = None,
    source: str | None = None,
    generation: str | None = None,
    settings: RetrainSettings | None = None,
    complete_through: datetime | None = None,
    force: bool = False,
    at: datetime,
) -> dict[str, Any]:
    """Train the next ranker if there is reason to, and promote it if it is better; returns the
    decision.

    as_of: aware, exclusive end of the labelled window; default just after the last event that the
    run may look at. source: newer data than the run's own, from the start on. generation: a live
    generation for the challenger; default the champion's. complete_through: the data is complete up
    to here, whatever its last event is. force: train without a reason, and decide anew. at: the
    time on record. Returns {"decision": "promoted" | "kept", "reasons", "gates", "champion",
    "challenger", ...}. Raises InputError, the deployment as it was, when another retrain runs, the
    champion already learned from the window, or too few rows are new.
    """
    from adc_features.store import service_name

    settings = settings or RetrainSettings()
    with catalog.alone("retrain"):
        task = _Task.of(
            run,
            catalog,
            as_of=as_of,
            source=source,
            generation=generation,
            settings=settings,
            complete_through=complete_through,
            at=at,
        )
        if (done := task.answered(force=force)) is not None:
            return {**done, "reused": True}
        with catalog.write(at=at) as writer:
            for left in writer.rows(RUNS, command="retrain", state="running"):
                writer.put(
                    RUNS, {"number": left["number"]}, {"state": "killed"}, event="retrain_killed"
                )
            number = writer.add(
                RUNS,
                {"command": "retrain", "started_at": at, "state": "running", "facts": task.facts()},
                event="retrain_begun",
            )
        try:
            answer = task.decided(force=force)
        except BaseException as error:
            _ended(catalog, number, "failed", {"error": str(error)}, at)
            raise
        _ended(
            catalog,
            number,
            answer["decision"],
            {k: answer[k] for k in ("reasons", "gates", "challenger")},
            at,
        )
        write_json(task.directory / DECISION, answer | task.depends_on())
    # a slow server holds no lock
    track(repository_of(run), answer, service=service_name(task.generation))
    return {**answer, "reused": False}


def _ended(
    catalog: Catalog, number: int, state: str, facts: Mapping[str, Any], at: datetime
) -> None:
    with catalog.write(at=at) as writer:
        writer.put(
            RUNS,
            {"number": number},
            {"state": state, "ended_at": at, "facts": json.loads(json_text(facts))},
            event=f"retrain_{state}",
        )


@dataclass(frozen=True)
class _Task:
    """One retraining: everything that its answer follows from. through: exclusive end of the
    champion's training rows.
    """

    run: Run
    catalog: Catalog
    dataset: Dataset
    source: str | None
    champion: Promotion
    through: datetime
    generation: str | None
    start: datetime
    as_of: datetime
    settings: RetrainSettings
    at: datetime

    @classmethod
    def of(
        cls,
        run: Run,
        catalog: Catalog,
        *,
        as_of: datetime | None,
        source: str | None,
        generation: str | None,
        settings: RetrainSettings,
        complete_through: datetime | None,
        at: datetime,
    ) -> "_Task":
        dataset = load_source(source, seed=run.settings.seed) if source else dataset_of(run)
        dataset = (
            replace(dataset, complete_through=complete_through) if complete_through else dataset
        )
        limit = None if source else split_of(run).eval_end
        as_of = utc(as_of, name="as_of") if as_of else min(limit or dataset.last_known, dataset.end)
        if limit is not None:
            refuse_after_window(as_of, limit)
        dataset.refuse_after_end(as_of)
        sync(run, catalog, at=at)
        path = run.directory / PROMOTION
        champion = read_promotion(path) if path.exists() else promotion_of(run, promoted_at=at)
        known = {r["hash"]: r for r in catalog.rankers()}
        if champion.ranker_hash not in known:
            raise ArtifactError(
                f"the serving ranker {champion.ranker} is not a ranker of {run.directory}; promote"
                f" one of its own, `adc promote --run {run.directory}`"
            )
        through = known[champion.ranker_hash]["trained_through"]
        start = as_of - timedelta(days=settings.window_days)
        return cls(
            run,
            catalog,
            dataset,
            source,
            champion,
            through,
            generation or champion.generation,
            start,
            as_of,
            settings,
            at,
        )

    @cached_property
    def directory(self) -> Path:
        """Named by everything that the answer follows from: no later task writes where a ranker
        serves.
        """
        return self.run.directory / retrain_place(self.as_of, self.made_of())

    @cached_property
    def online_time(self) -> datetime:
        """What a promoted pair reads online: as_of, or later where the store is ahead of the
        labels, since it holds the newest values only.
        """
        from adc_features.store import materialized_through

        return max(self.as_of, materialized_through(repository_of(self.run)) or self.as_of)

    def facts(self) -> dict[str, Any]:
        return {
            "as_of": self.as_of.isoformat(),
            "window_start": self.start.isoformat(),
            "champion": self.champion.ranker_hash,
            "generation": self.generation,
        }

    def made_of(self) -> dict[str, Any]:
        """Equal tasks have equal answers."""
        return {**self.facts(), "labels": self._labels_hash, "settings": asdict(self.settings)}

    @cached_property
    def _labels_hash(self) -> str:
        labels = self.labels()
        return str(retrieval_manifest([labels], labels.schema)["content_hash"])

    def labels(self) -> pa.Table:
        return label_table(self.dataset.before(self.as_of))

    def answered(self, *, force: bool) -> dict[str, Any] | None:
        return remembered(
            self.run.directory,
            self.made_of(),
            self.depends_on(),
            champion=self.champion.ranker_hash,
            force=force,
        )

    def depends_on(self) -> dict[str, Any]:
        """What the answer follows from besides the task: what is published, and what the champion
        was judged to be.
        """
        from adc_features.store import live_generations, published_snapshots

        repo = repository_of(self.run)
        used = {self.generation, self.champion.generation} - {None}
        snapshots = {
            g.id: [g.codebook_hash, *(s.to_dict() for s in published_snapshots(repo, g.id))]
            for g in live_generations(repo)
            if g.id in used
        }
        facts = {
            "snapshots": snapshots,
            "champion_on": self.champion.generation,
            "judged_gauc": self._judged_gauc(),
            "items": id_array(self.dataset.items["item_id"]),
        }
        return {"depends_on": content_hash(facts)}

    def decided(self, *, force: bool) -> dict[str, Any]:
        self._refuse_too_little()
        self._publish()
        window, champion = self._champion_scores()
        judge = Judge(window.labels, window.user_ids, seed=self.run.settings.seed)
        reasons = self._reasons(window, judge.gauc(champion).value)
        answer: dict[str, Any] = {
            "decision": "kept",
            "reasons": reasons,
            "gates": {},
            "champion": self.champion.ranker_hash,
            "challenger": None,
            "directory": str(self.directory),
        }
        answer |= {
            "window": {"start": self.start, "end": self.as_of, "rows": len(window)},
            "made_of": self.made_of(),
        }
        for name, reason in reasons.items():
            log.info(
                "stage=retrain reason=%s asks=%s value=%s limit=%s",
                name,
                reason["asks"],
                reason["value"],
                reason["limit"],
            )
        if not (force or any(r["asks"] for r in reasons.values())):
            return answer
        frame = self._frame(self.generation)
        model = self._challenger(frame)
        trained = load_trained(model, generation=self.generation)
        scores = {
            "champion": champion,
            "challenger": trained.predict(
                frame.between(self.start, self.as_of), self._sources(self.generation)
            ),
        }
        gates = self._gates(judge, scores, frame, window)
        pair = Promotion(
            model,
            file_hash(model / MANIFEST),
            repository_of(self.run),
            self.generation,
            self._codebook(),
            self.at,
        )
        answer |= {"gates": gates, "challenger": pair.ranker_hash}
        answer["scores"] = {
            name: {"auc": judge.auc(s).interval(), "gauc": judge.gauc(s).interval()}
            for name, s in scores.items()
        }
        if all(gate["passed"] for gate in gates.values()):
            gates["online_parity"] = self._parity()
        for name, gate in gates.items():
            log.info(
                "stage=retrain gate=%s passed=%s value=%s limit=%s",
                name,
                gate["passed"],
                gate["value"],
                gate["limit"],
            )
        if all(gate["passed"] for gate in gates.values()):
            self._refuse_another_champion()
            answer |= {
                "decision": "promoted",
                "promotion": deploy(self.run, self.catalog, pair, at=self.at),
            }
        return answer

    def _refuse_another_champion(self) -> None:
        path = self.run.directory / PROMOTION
        if path.exists() and (now := read_promotion(path).ranker_hash) != self.champion.ranker_hash:
            raise InputError(
                f"ranker {now[:12]} was promoted while the challenger of"
                f" {self.champion.ranker_hash[:12]} was judged; nothing was promoted, run the"
                " command again to judge it beside that one"
            )

    def _refuse_too_little(self) -> None:
        window, fresh = (
            self.dataset.within(self.start, self.as_of),
            self.dataset.within(self.through, self.start),
        )
        span = f"from {self.start.isoformat()} to {self.as_of.isoformat()}"
        if self.start < self.through:
            raise InputError(
                f"the champion learned from rows up to {self.through.isoformat()}, the labelled"
                f" window begins at {self.start.isoformat()}: it would be judged on what it has"
                " seen; wait for newer data, or shorten --window-days"
            )
        if len(window) < self.settings.min_rows or len(np.unique(window["label"].to_numpy())) < 2:
            raise InputError(
                f"{len(window)} labelled rows lie in the window {span}; expected at least"
                f" {self.settings.min_rows}, of both classes; wait, or widen --window-days"
            )
        if len(fresh) < self.settings.min_rows:
            raise InputError(
                f"{len(fresh)} rows lie between the champion's last, {self.through.isoformat()},"
                f" and the window {span}; expected at least {self.settings.min_rows}: there is"
                " nothing new to learn, bring newer data"
            )

    def _publish(self) -> None:
        """What the window's rows may read: statistics through its end or what is online already,
        codes as of its start in the run's own generation.
        """
        from adc_features.store import apply

        if not refresh_statistics(
            self.run, self.as_of if self.source is None else self.online_time, source=self.source
        ):
            apply(repository_of(self.run))  # a run that was moved is declared where it lies now
        if self.run.settings.generation in (self.generation, self.champion.generation):
            snapshot(
                self.run,
                self.start,
                source=self.source,
                complete_through=self.dataset.complete_through,
            )

    def _frame(self, generation: str | None) -> TrainingFrame:
        """Every labelled row before as_of with the features of this generation's service."""
        from adc_features.store import (
            published_snapshots,
            service_name,
            training_features,
            write_parquet,
        )

        repo, labels = repository_of(self.run), self.labels()
        snapshots = (
            [s.to_dict() for s in published_snapshots(repo, generation)] if generation else []
        )
        made_of = json.loads(
            json.dumps({"labels": self._labels_hash, "snapshots": snapshots}, default=str)
        )
        target = self.directory / f"frame_{generation or 'no_sid'}"
        if not _is(target, made_of):
            with fresh_directory(target) as aside:
                write_parquet(
                    [training_features(repo, labels, service=service_name(generation))],
                    aside / "frame.parquet",
                )
                seal(aside, {"made_of": made_of})
        size = self._live(generation).codebook_size if generation else 0
        return training_frame(
            pq.read_table(target / "frame.parquet"),
            labels,
            generation=generation,
            codebook_size=size,
            resolution=self.dataset.resolution,
        )

    def _champion_scores(self) -> tuple[TrainingFrame, np.ndarray]:
        """The window's rows with the champion's own generation, and its scores [S, N]."""
        window = self._frame(self.champion.generation).between(self.start, self.as_of)
        return window, self._champion().predict(window, self._sources(self.champion.generation))

    def _champion(self) -> Trained:
        return load_trained(
            self.champion.ranker, generation=self.champion.known_as or self.champion.generation
        )

    def _sources(self, generation: str | None) -> Sources:
        from adc_features.store import published_timeline

        return (
            Sources(sids=published_timeline(repository_of(self.run), generation))
            if generation
            else Sources()
        )

    def _challenger(self, frame: TrainingFrame) -> Path:
        """The challenger's directory, trained on the rows before the window or found there
        complete.
        """
        recipe = Recipe(**read_manifest(self.champion.ranker)["recipe"])
        made_of = json.loads(
            json.dumps(
                {
                    **self.made_of(),
                    "frame": read_manifest(self.directory / f"frame_{self.generation or 'no_sid'}")[
                        "files"
                    ],
                },
                default=str,
            )
        )
        target = self.directory / "ranker"
        if not _is(target, made_of):
            start = next(iter(self._champion().rankers.values())) if self._same_line() else None
            with fresh_directory(target) as aside:
                trained = train(
                    frame.between(None, self.start),
                    recipe,
                    sources=self._sources(self.generation),
                    seeds=range(self.run.settings.seeds),
                    start=start,
                    progress=self.run.progress,
                )
                trained.save(aside / "model")
                facts = {
                    "recipe": recipe.name,
                    "trained_through": self.start,
                    "warm": start is not None,
                }
                seal(aside, {"made_of": made_of, "facts": facts})
        return target / "model"

    def _same_line(self) -> bool:
        live = {g["id"]: g for g in self.catalog.generations() if g["state"] == "live"}
        return self.generation is not None and (
            self.champion.known_as or self.champion.generation
        ) in line_of(live, self.generation)

    def _live(self, generation: str) -> Any:
        from adc_features.store.repository import live_generation

        return live_generation(repository_of(self.run), generation)

    def _codebook(self) -> str | None:
        return self._live(self.generation).codebook_hash if self.generation else None

    def _reasons(self, window: TrainingFrame, gauc: float) -> dict[str, dict[str, Any]]:
        """Each reason to train: its value, its limit, and whether it asks for a challenger."""
        s = self.settings
        values: dict[str, tuple[float, float, bool]] = {
            "days_since_champion": (
                age := (self.as_of - self.through) / timedelta(days=1),
                s.every_days,
                age >= s.every_days,
            ),
            "new_rows": (
                new := len(self.dataset.within(self.through, self.as_of)),
                s.min_new_rows,
                new >= s.min_new_rows,
            ),
        }
        if self.champion.generation is not None:
            uncoded, drift = 1 - code_coverage(window)["with_codes"], self._usage_drift(window)
            values["uncoded_share"] = (uncoded, s.max_uncoded, uncoded > s.max_uncoded)
            values["code_usage_drift"] = (drift, s.max_usage_drift, drift > s.max_usage_drift)
        if (judged := self._judged_gauc()) is not None:
            values["gauc_drop"] = (judged - gauc, s.max_gauc_drop, judged - gauc > s.max_gauc_drop)
        return {
            name: {"value": value, "limit": limit, "asks": bool(asks)}
            for name, (value, limit, asks) in values.items()
        }

    def _usage_drift(self, window: TrainingFrame) -> float:
        """Between the window and the rows of the same length before the champion's end: the largest
        distance over positions.
        """
        live = self._live(str(self.champion.generation))
        before = self._frame(self.champion.generation).between(
            self.through - (self.as_of - self.start), self.through
        )
        codes = [rows.codes(live.length)[0] for rows in (before, window)]
        return float(
            np.nanmax(usage_distance(*codes, codebook_size=live.codebook_size), initial=0.0)
        )

    def _judged_gauc(self) -> float | None:
        """GAUC of the champion when it was judged: by the run's evaluation, or by the retraining
        that made it.
        """
        decision = self.champion.ranker.parent.parent / DECISION
        if decision.is_file():
            return float(
                json.loads(decision.read_text(encoding="utf-8"))["scores"]["challenger"]["gauc"][
                    "mean"
                ]
            )
        scores = self.run.directory / "scores" / "scores.json"
        recipe = read_manifest(self.champion.ranker, verify=False)["recipe"]["name"]
        known = (
            json.loads(scores.read_text(encoding="utf-8"))["recipes"] if scores.is_file() else {}
        )
        return float(known[recipe]["gauc"]["mean"]) if recipe in known else None

    def _gates(
        self,
        judge: Judge,
        scores: Mapping[str, np.ndarray],
        frame: TrainingFrame,
        window: TrainingFrame,
    ) -> dict[str, dict[str, Any]]:
        s, rows = self.settings, frame.between(self.start, self.as_of)
        before = frame.between(None, self.start)
        items, counts = np.unique(before.item_ids, return_counts=True)
        place = np.minimum(np.searchsorted(items, rows.item_ids), len(items) - 1)
        slices = popularity_slices(np.where(items[place] == rows.item_ids, counts[place], 0))

        def gain(metric: Any) -> dict[str, float]:
            difference: Estimate = metric(scores["challenger"]) - metric(scores["champion"])
            return difference.interval()

        gauc = gain(judge.gauc)
        gates = {
            "gauc_gain": {
                "passed": gauc["mean"] >= s.min_gain and gauc["low"] >= -s.max_loss,
                "value": gauc,
                "limit": {"mean": s.min_gain, "low": -s.max_loss},
            }
        }
        for part in ("head", "tail"):
            auc = gain(partial(judge.auc, rows=slices[part]))
            gates[f"{part}_auc"] = {
                "passed": not auc["high"] < 0,
                "value": auc,
                "limit": {"high": 0.0},
            }
        ratio = judge.calibration(scores["challenger"]).value
        gates["calibration"] = {
            "passed": abs(ratio - 1) <= s.max_miscalibration,
            "value": ratio,
            "limit": s.max_miscalibration,
        }
        if self.generation is not None and self.champion.generation is not None:
            lost = code_coverage(window)["with_codes"] - code_coverage(rows)["with_codes"]
            gates["coverage"] = {
                "passed": lost <= s.max_coverage_loss,
                "value": lost,
                "limit": s.max_coverage_loss,
            }
            changed = self._churn()
            gates["churn"] = {
                "passed": changed <= s.max_churn,
                "value": changed,
                "limit": s.max_churn,
            }
        return gates

    def _churn(self) -> float:
        """Share of codes that the newest snapshots of both generations name otherwise."""
        from adc_features.store import published_timeline

        if self.generation == self.champion.generation:
            return 0.0
        old, new = (
            published_timeline(repository_of(self.run), str(g)).snapshots[-1].table()[0]
            for g in (self.champion.generation, self.generation)
        )
        if old.sid.shape[1] != new.sid.shape[1]:
            return 1.0
        now = new.lookup(old.item_ids)
        return float((old.sid != now.sid)[now.found].mean())

    def _parity(self) -> dict[str, Any]:
        """Everything as of the online time is online, and equal to offline there, for a sample of
        users and items.
        """
        from adc_features.store import materialize, parity, service_name

        repo, rng = repository_of(self.run), np.random.default_rng(self.run.settings.seed)
        materialize(repo, now=self.online_time, progress=self.run.progress)
        ids = {
            "item_ids": id_array(self.dataset.items["item_id"]),
            "user_ids": np.unique(id_array(self.dataset.before(self.as_of)["user_id"])),
        }
        sample = {name: rng.permutation(values)[:PARITY_SAMPLE] for name, values in ids.items()}
        facts = parity(repo, service=service_name(self.generation), now=self.online_time, **sample)
        return {
            "passed": facts["different"] == 0,
            "value": facts["different"],
            "limit": 0,
            "first_differences": facts["first_differences"],
        }


def _is(directory: Path, made_of: Mapping[str, Any]) -> bool:
    """Is the directory complete, unaltered and made of this?"""
    try:
        return bool(
            (directory / MANIFEST).is_file() and read_manifest(directory)["made_of"] == made_of
        )
    except ArtifactError as error:
        log.warning("stage=retrain rebuilt=true reason=%s", error)
        return False

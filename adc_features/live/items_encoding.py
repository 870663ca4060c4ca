"""Codes of new items at once. Reads: the frozen generation of a repository. Writes: SidTable.

The codes of an item are a function of the item alone: the network always computes one block of a
fixed size, and each text is embedded by itself, so that an item has the same codes whether it comes
alone, among others or in the next snapshot. Behaviour is absent: its codes are -1, its weights 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.artifact import MANIFEST
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation, generation_place, open_generation
from adc_features.codes.raw_items import RAW_TOKENIZERS
from adc_features.codes.sids import CODES, LISTS, SidTable
from adc_features.codes.spec import BEHAVIOR
from adc_features.errors import GenerationMismatch, InputError
from adc_features.extras import extra_modules, require
from adc_features.live.items_incoming import ItemChange, ItemShape
from adc_features.store.repository import LiveGeneration, live_generation, live_generations


@dataclass(frozen=True)
class ItemEncoder:
    """The frozen tokenizer of a published generation, open for new items. `open_encoder` makes one.

    Parameters
    ----------
    live : LiveGeneration
    generation : Generation
    shape : ItemShape
        What an item consists of.
    texts : object or None
        Embeds texts; None where the generation reads none.
    """

    live: LiveGeneration
    generation: Generation
    shape: ItemShape
    network: Any
    texts: Any = None

    def described(
        self, changes: Sequence[ItemChange]
    ) -> tuple[list[dict[str, np.ndarray]], dict[bytes, bytes]]:
        """See `Encoder`."""
        wanted = sorted({text for change in changes for text in change.texts.values()})
        if not wanted:
            return [dict(change.vectors) for change in changes], {}
        vectors, kept = self.texts.vectors(wanted)
        made = dict(zip(wanted, vectors, strict=True))
        return [
            {**change.vectors, **{m: made[text] for m, text in change.texts.items()}}
            for change in changes
        ], kept

    def encode(
        self,
        changes: Sequence[ItemChange],
        vectors: Sequence[Mapping[str, np.ndarray]],
        as_of: datetime,
    ) -> SidTable:
        """See `Encoder`."""
        from adc_features.tokenizer.encode import encode

        n, dtype = len(changes), np.int64 if self.live.id_type == "int64" else np.str_
        widths = self.network.widths
        matrices = {m: np.zeros((n, width), np.float32) for m, width in widths.items()}
        present = {m: np.zeros(n, bool) for m in widths}
        for row, of in enumerate(vectors):
            for modality, vector in of.items():
                matrices[modality][row], present[modality][row] = vector, True
        ids = np.array([change.id for change in changes], dtype)
        table = EmbeddingTable(ids, matrices, present, np.zeros(n, np.int64), as_of)
        codes = encode(table, self.generation, network=self.network)
        found = ~np.array([change.removed for change in changes])
        lists = {
            name: np.where(found[:, None], array, -1 if name in CODES else 0).astype(array.dtype)
            for name, array in codes.arrays.items()
            if name in LISTS
        }
        return SidTable(
            item_ids=ids,
            **lists,
            reliability=np.where(found, codes.reliability, 0).astype(np.float32),
            alignment=np.where(found, codes.alignment, 0).astype(np.float32),
            is_cold=np.ones(n, bool),
            # itself; who else has these codes is counted by the next snapshot
            collision_count=found.astype(np.int32),
            found=found,
            generation=codes.generation,
            codebook_size=codes.codebook_size,
            as_of=as_of,
        )


def open_encoder(repo: Path, generation: str | None = None) -> ItemEncoder:
    """The frozen tokenizer that made the published codes of a repository.

    Parameters
    ----------
    repo : Path
        Of `adc tokenize --repo`, or `feature_repo` of a run.
    generation : str, optional
        A published one; by default the only one.

    Raises
    ------
    InputError
        Nothing or several generations are published and none is named, or its tokenizer is in
        none of the places where it is kept.
    GenerationMismatch
        The tokenizer that lies there is not the one of the published codes.
    MissingExtraError
        torch is not installed.
    """
    require("torch")
    with extra_modules():
        from adc_features.tokenizer.encode import read

    repo = Path(repo).resolve()
    if generation is None:
        names = [one.id for one in live_generations(repo)]
        if len(names) != 1:
            raise InputError(
                f"{repo} has the published generations {', '.join(names) or 'none'}; "
                + ("name one, --generation" if names else "publish codes first, `adc tokenize`")
            )
        generation = names[0]
    live = live_generation(repo, generation)
    place, model, views = _place(repo, live)
    opened = open_generation(place)
    if opened.codebook_hash != live.codebook_hash:
        raise GenerationMismatch(
            f"{place} holds another tokenizer than the one of the published codes of"
            f" {generation!r}; put the published one back, or publish its codes"
        )
    if opened.tokenizer in RAW_TOKENIZERS:
        raise InputError(
            f"generation {generation!r} is of {opened.tokenizer}, which reads raw titles and"
            " images, and live items are vectors and texts: add them to the next snapshot"
        )
    network = read(opened)
    widths = {m: width for m, width in network.widths.items() if m != BEHAVIOR}
    texts = None
    if model is not None and views is None:
        views = dict.fromkeys(widths, ())
    if model is not None and views:
        from adc_features.encoders.text import SingleTexts

        texts = SingleTexts(model)
        fitting = {m: columns for m, columns in views.items() if widths.get(m) == texts.width}
        if not fitting:
            texts = None
        views = fitting
    shape = ItemShape(live.id_type, widths, views if texts is not None and views else {})
    return ItemEncoder(live, opened, shape, network, texts)


def _place(
    repo: Path, live: LiveGeneration
) -> tuple[Path, str | None, Mapping[str, Sequence[str]] | None]:
    """Where the tokenizer lies, the text model, and which attributes make the text of a modality,
    None where nobody says which modalities are of text.
    """
    own, run = repo / "tokenizers" / live.id, repo.parent
    if (own / "generation" / MANIFEST).is_file():
        made_of = _json(own / MANIFEST).get("made_of", {})
        return own / "generation", made_of.get("text_model"), None
    for place in (run / "generation" / "generation", run / generation_place(live.id)):
        if _json(place / MANIFEST).get("id") == live.id:
            views = _json(run / "data" / "dataset" / MANIFEST).get("text_views", {})
            model = _json(run / "run.json").get("text_model") if views else None
            return place, model, views
    raise InputError(
        f"the tokenizer of generation {live.id!r} is neither in {own} nor in the run above {repo};"
        " new items are encoded by it: put it back, or add them to the next snapshot"
    )


def _json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; an empty one where there is no file."""
    if not path.is_file():
        return {}
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read

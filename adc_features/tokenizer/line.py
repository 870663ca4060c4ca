"""A new generation that keeps the meaning of an older one's codes. Reads: the older Generation,
EmbeddingTables. Writes: codes to hold, a renamed Generation.

Legend: N items, L positions, K codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from adc_features.clock import instant
from adc_features.codes.churn import churn_report, relabelled, relabelling
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.errors import InputError, QualityError
from adc_features.tokenizer.encode import encode, encode_series
from adc_features.tokenizer.recipes import Settings, name_of

_POSTERIOR = ("latent", "draws")
SHAPES = {
    "adc": ("hidden", "latent", "aligned", "gate_scale", "gate_input"),
    "posterior": _POSTERIOR,
    "posterior_experts": _POSTERIOR,
    "posterior_second": _POSTERIOR,
}
"""The tokenizers that can keep the meaning of codes, and the settings that shape their networks."""


@dataclass(frozen=True)
class Line:
    """The generation whose codes a new one should keep.

    warm: start from its parameters and pay for moving items off its codes; else the new codes are
    only renamed. churn_budget: share of (item,
    position) codes that may change; a fit over it is refused.
    """

    parent: Generation
    warm: bool = True
    churn_budget: float | None = None

    def __post_init__(self) -> None:
        if self.churn_budget is not None and not 0 <= self.churn_budget <= 1:
            raise InputError(f"churn_budget is {self.churn_budget}; expected a share from 0 to 1")

    def check(
        self,
        spec: SidSpec,
        settings: Settings,
        tables: Sequence[EmbeddingTable],
        *,
        generation_id: str,
    ) -> None:
        """Raise InputError when these codes could not continue the parent's."""
        name = self.parent.tokenizer
        if name not in SHAPES or name != name_of(settings):
            raise InputError(
                f"the parent was written by tokenizer {name!r}, this fit is of"
                f" {name_of(settings)!r}; only generations of ADC-SID or posterior can be aligned,"
                " fit with a recipe of the parent's tokenizer"
            )
        if self.parent.spec != spec:
            raise InputError(
                f"the parent has spec {self.parent.spec.to_dict()}, asked for {spec.to_dict()}; an"
                " aligned generation keeps positions and codebook size"
            )
        own = self.parent.settings[name]
        if self.warm and (odd := [n for n in SHAPES[name] if own[n] != getattr(settings, n)]):
            raise InputError(
                f"the parent's network differs in {odd}; a warm start needs the same, fit with the"
                " parent's settings or start anew"
            )
        if generation_id == self.parent.id:
            raise InputError(
                f"the new generation is called {generation_id!r} like its parent; give it a new id"
            )
        if (newest := max(t.as_of for t in tables)) < self.parent.trained_through:
            raise InputError(
                f"the newest vectors are as of {newest.isoformat()}, the parent was trained through"
                f" {self.parent.trained_through.isoformat()}; bring newer ones"
            )

    def codes(self, tables: Sequence[EmbeddingTable]) -> list[np.ndarray]:
        """The parent's codes of each table, oldest first, held from one to the next as snapshots
        are: int32 [N, L] each.
        """
        return [s.sid for s in encode_series(tables, self.parent)]

    def tensors(self, cutoffs: Sequence[datetime]) -> dict[str, np.ndarray]:
        """The parent's tensors for these cut-offs: each is standardised as the parent would."""
        known = np.array(
            [instant(datetime.fromisoformat(text)) for text in self.parent.settings["cutoffs"]]
        )
        rows = np.maximum(
            np.searchsorted(known, [instant(t) for t in cutoffs], side="right") - 1, 0
        )
        return {
            name: array[rows] if name.startswith(f"standard.{BEHAVIOR}.") else array
            for name, array in self.parent.tensors.items()
        }

    def renamed(
        self, draft: Generation, newest: EmbeddingTable
    ) -> tuple[Generation, dict[str, Any]]:
        """The draft with its codes named after the parent's where items agree, and the churn report
        of the newest table.

        Recorded in settings["aligned"]: the parent's id and codebook hash, and the names. Raises
        QualityError when more codes change than the budget allows.
        """
        old, fresh = encode(newest, self.parent), encode(newest, draft)
        names = relabelling(old.sid, fresh.sid, codebook_size=draft.spec.codebook_size)
        books, first = {}, 0
        for key in _codewords(draft):
            words = draft.tensors[key]
            books[key] = np.empty_like(words)
            for p, order in enumerate(names[first : first + len(words)]):
                books[key][p, order] = words[p]
            first += len(words)
        aligned = {
            "parent": self.parent.id,
            "parent_codebook_hash": self.parent.codebook_hash,
            "warm": self.warm,
            "names": names.tolist(),
        }
        child = replace(
            draft,
            tensors={**draft.tensors, **books},
            settings={**draft.settings, "aligned": aligned},
        )
        served = replace(fresh, sid=relabelled(fresh.sid, names))
        if self.warm:
            served = encode(newest, child, previous=old)
        report = churn_report(old, served, newest.interaction_count, spec=draft.spec, names=names)
        if self.churn_budget is not None and not report["changed"] <= self.churn_budget:
            raise QualityError(
                f"{report['changed']:.1%} of the codes would change from generation"
                f" {self.parent.id!r} to {draft.id!r}, the budget is {self.churn_budget:.1%} (by"
                f" position {[round(c, 3) for c in report['by_position']]}); raise stay_weight,"
                " train fewer steps, or allow more"
            )
        return child, report


def _codewords(generation: Generation) -> list[str]:
    """The tensors [n, K, D] that hold a generation's codewords, in the order of its positions."""
    if generation.tokenizer == "adc":
        return ["codebooks.codewords"]
    names = ("shared", *generation.spec.content, BEHAVIOR)
    return [key for name in names if (key := f"chains.{name}.words") in generation.tensors]

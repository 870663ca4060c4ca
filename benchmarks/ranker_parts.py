"""What do PPNet's gates bring, and how should codes enter it? Reads: a validation run up to its
dataset stage. Writes: JSON.

    python benchmarks/ranker_parts.py --run runs/beauty --json -

The windows, rows and judgement are those of ranker_windows.py. Each variant changes one thing of a
recipe's PPNet and is compared with that recipe as it is: what the gates see (gates of nothing are
1, a plain MLP), or how codes and weights reach the tower.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from _measure import apart, write_report
from ranker_windows import arguments, described, judged, measure, windows_of

from adc_features.loader.frame import TrainingFrame
from adc_features.pipeline.run import Run
from adc_features.ranking.legacy.features import ITEM_COLUMNS, KINDS, recent_items
from adc_features.ranking.legacy.inputs import InputEncoder, Inputs, VectorRows
from adc_features.ranking.recipes import Recipe, Sources

ALL = ("user", "item", "content", "activity", "general")
"""What gates may see: the embeddings of the user's and the item's id, of codes, how active the user
is, and all that the tower sees.
"""

DENSE = len(ITEM_COLUMNS) + len(KINDS)
"""Dense features before the weights."""

RECENT = 20
"""Recent items that are stored with a user."""


@dataclass(frozen=True)
class Variant:
    """recipe: the one it changes. gates: of ALL. pace: how much faster than the tower gates learn,
    from 1 on. whole_input: also gate the tower's input (EPNet, arXiv 2302.01115). codes: as the
    tower gets their embeddings: weighted and side by side (concat); added up (sum); with their
    products (crosses); each times a gate that is learned from all weights and the reliability
    (trust); whole, with the weights shown to the gates alone (to_gates); or beside what the user's
    recent items have in common with them, by learned attention of the candidate's codes to theirs
    (attention; Deep Interest Network, arXiv 1706.06978).
    """

    recipe: str
    gates: tuple[str, ...] = ALL
    pace: float = 1.0
    whole_input: bool = False
    codes: Literal["concat", "sum", "crosses", "trust", "to_gates", "attention"] = "concat"


def _without(*names: str) -> tuple[str, ...]:
    return tuple(name for name in ALL if name not in names)


VARIANTS: Mapping[str, Variant] = {
    **{recipe: Variant(recipe) for recipe in ("codes", "codes_weights", "no_sid")},
    "no_sid without gates": Variant("no_sid", ()),
    "codes without gates": Variant("codes", ()),
    "codes, gates see ids": Variant("codes", ("user", "item")),
    "codes, gates see the user": Variant("codes", ("user", "activity")),
    "codes, gates see codes": Variant("codes", ("content",)),
    "codes, gates see what the tower sees": Variant("codes", ("general",)),
    "codes, gates see all but ids": Variant("codes", _without("user", "item")),
    "codes, gates see all but the tower's input": Variant("codes", _without("general")),
    "codes, gates learn ten times faster": Variant("codes", pace=10.0),
    "codes, input gated too": Variant("codes", whole_input=True),
    "codes added up": Variant("codes", codes="sum"),
    "codes and their products": Variant("codes", codes="crosses"),
    "codes, attention to recent items": Variant("codes", codes="attention"),
    "codes_weights without gates": Variant("codes_weights", ()),
    "codes_weights, weights to gates only": Variant("codes_weights", codes="to_gates"),
    "codes_weights, learned trust": Variant("codes_weights", codes="trust"),
    "codes_weights added up": Variant("codes_weights", codes="sum"),
    "codes_weights and their products": Variant("codes_weights", codes="crosses"),
    "codes_weights, attention to recent items": Variant("codes_weights", codes="attention"),
}


def varied(variant: Variant) -> type:
    """PPNet with the variant's change."""
    import torch
    from adc_features.ranking.legacy.network import Batch, GatedTower, PPNet
    from torch import Tensor, nn

    class Varied(PPNet):
        def __init__(self, id_sizes: Any, **options: Any) -> None:
            super().__init__(id_sizes, **{**options, "vectors": ()})
            positions, width = options["positions"], options["embedding"]
            wider = {
                "sum": width - width * positions,
                "crosses": width,
                "attention": 2 * width + 2,
                "to_gates": positions + 1,
            }.get(variant.codes, 0)
            general, seen = (
                self.tower.first.in_features + (wider if variant.codes != "to_gates" else 0),
                self.tower.of_prior.in_features + wider,
            )
            if (general, seen) != (self.tower.first.in_features, self.tower.of_prior.in_features):
                self.tower = GatedTower(
                    general, options["hidden"], prior=seen, gate=options["gate"]
                )
            if not variant.gates:
                for gate in self.tower.gates:
                    nn.init.zeros_(gate.weight).requires_grad_(False)
            if variant.pace != 1:
                # Adam takes steps of one size whatever the slope: what is multiplied moves that
                # much faster
                for gate in self.tower.gates:
                    nn.init.zeros_(gate.weight)
                    gate.register_forward_hook(lambda module, given, out: out * variant.pace)
            if "general" not in variant.gates:
                nn.init.zeros_(self.tower.of_general.weight).requires_grad_(False)
            if variant.whole_input:
                self.input_gate = nn.Sequential(
                    nn.Linear(general + seen, options["gate"]),
                    nn.ReLU(),
                    nn.Linear(options["gate"], general, bias=False),
                )
                nn.init.zeros_(self.input_gate[2].weight)
            if variant.codes == "attention":
                self.focus = nn.Parameter(torch.tensor([1.0, 0.0]))
            if variant.codes == "trust":
                self.trust = nn.Linear(positions + 1, positions)
                nn.init.zeros_(self.trust.weight)
                nn.init.zeros_(self.trust.bias)

        def forward(self, batch: Batch) -> Tensor:
            ids = self._some(self.ids(batch.ids), batch.rng)
            dense, content, known = batch.dense, [], batch.dense[:, :0]
            if self.codes is not None:
                content, dense, known = self._content(batch)
            general = torch.cat([ids[:, self.general_ids :].flatten(1), *content, dense], 1)
            parts = {
                "user": ids[:, 0],
                "item": ids[:, 1],
                "content": torch.cat([*content, dense[:, :0]], 1),
                "activity": batch.user_state[:, self.prior_state],
            }
            prior = torch.cat(
                [
                    part if name in variant.gates else torch.zeros_like(part)
                    for name, part in parts.items()
                ]
                + [known],
                1,
            )
            if variant.whole_input:
                general = (
                    general
                    * 2
                    * torch.sigmoid(self.input_gate(torch.cat([general.detach(), prior], 1)))
                )
            return self.tower(general, prior)

        def _content(self, batch: Batch) -> tuple[list[Tensor], Tensor, Tensor]:
            """Codes as the tower gets them, the dense features beside them, and the weights if only
            gates see them.
            """
            embedded = self._some(self.codes(batch.sid), batch.rng)
            there, known = (batch.sid > 0).float(), batch.dense[:, :0]
            share, dense = batch.weight, batch.dense
            if variant.codes in ("trust", "to_gates"):
                weights, dense = (
                    dense[:, DENSE : DENSE + batch.sid.shape[1] + 1],
                    torch.cat([dense[:, :DENSE], dense[:, DENSE + batch.sid.shape[1] + 1 :]], 1),
                )
                # as wide as before, so that all else is equal
                dense = torch.nn.functional.pad(dense, (0, weights.shape[1]))
                share = (
                    there
                    if variant.codes == "to_gates"
                    else there * 2 * torch.sigmoid(self.trust(weights))
                )
                known = weights if variant.codes == "to_gates" else known
            embedded = embedded * share.unsqueeze(2)
            total = embedded.sum(1)
            if variant.codes == "attention":
                return [embedded.flatten(1), *self._recent(batch, total)], dense, known
            content = {
                "sum": [total],
                "crosses": [embedded.flatten(1), (total.square() - embedded.square().sum(1)) / 2],
            }
            return content.get(variant.codes, [embedded.flatten(1)]), dense, known

        def _recent(self, batch: Batch, candidate: Tensor) -> list[Tensor]:
            """The user's recent items, each by its likeness to the candidate: [B, E] and [B, 1],
            and both again times how they were liked.
            """
            recent = batch.vectors[0].view(len(candidate), RECENT, -1)
            sid, weight, liking, there = (
                recent[..., : batch.sid.shape[1]].long(),
                recent[..., batch.sid.shape[1] : -2],
                recent[..., -2:-1],
                recent[..., -1:],
            )
            items = (
                (self.codes(sid.flatten(0, 1)) * weight.flatten(0, 1).unsqueeze(2))
                .sum(1)
                .view(len(candidate), RECENT, -1)
            )
            alike = there * torch.sigmoid(
                self.focus[0] * (items @ candidate.unsqueeze(2)) + self.focus[1]
            )
            size = there.sum(1) + 2
            return [
                (alike * worth * seen).sum(1) / size
                for worth in (1.0, liking)
                for seen in (items, torch.ones_like(liking))
            ]

    return Varied


def with_recent_codes(recipe_inputs: Callable[..., Inputs]) -> Callable[..., Inputs]:
    """recipe_inputs that also give the codes of the user's RECENT newest items as of the row's
    time, in the place of raw vectors: codes + 1, weights, liking, 1 each.
    """

    def widened(
        frame: TrainingFrame,
        recipe: Recipe,
        encoder: InputEncoder,
        sources: Sources,
        **options: Any,
    ) -> Inputs:
        inputs = recipe_inputs(frame, recipe, encoder, sources, **options)
        row, items, label, size = recent_items(frame)
        sid, weight, _ = sources.sids.gather(items, frame.times[row])
        weight = np.where(sid >= 0, weight if recipe.codes == "weighted" else 1.0, 0.0)
        liking = label - frame.numbers("user_label_mean")[row]
        of_each = np.concatenate(
            [sid + 1, weight, liking[:, None], np.ones((len(row), 1))], axis=1
        ).astype(np.float32)
        place = np.arange(len(row)) - np.repeat(np.cumsum(size) - size, size)
        recent = np.zeros((1 + len(frame), RECENT, of_each.shape[1]), np.float32)
        recent[1 + row, place] = of_each
        return replace(
            inputs,
            vectors={
                "recent": VectorRows(recent.reshape(len(recent), -1), 1 + np.arange(len(frame)))
            },
        )

    return widened


def measure_variant(
    directory: Path, variant: Variant, count: int, days: int, seeds: int
) -> tuple[dict[str, float], list[np.ndarray]]:
    """measure of ranker_windows with the variant in the place of PPNet, in this process only."""
    from adc_features.ranking.legacy import network
    from training import fit as train
    from training import ppnet

    if variant != Variant(variant.recipe):
        network.PPNet = varied(variant)
        ppnet.FittedPPNet.finish = lambda self: None  # what is fused is PPNet as it is
        if variant.codes == "attention":
            train.recipe_inputs = with_recent_codes(train.recipe_inputs)
    return measure(directory, variant.recipe, count, days, seeds)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=[*VARIANTS],
        default=[*VARIANTS],
        help="beside the recipes that they change",
    )
    asked = parser.parse_args()
    windows = windows_of(Run.open(asked.run), count=asked.windows, days=asked.days)
    names = dict.fromkeys([*(VARIANTS[name].recipe for name in asked.variants), *asked.variants])
    measured = {}
    for name in names:
        measured[name] = apart(
            measure_variant, asked.run, VARIANTS[name], asked.windows, asked.days, asked.seeds
        )
        print(
            f"variant={name!r} done={len(measured)} total={len(names)}"
            f" cpu_s={measured[name][0]['cpu_s']:.0f}",
            file=sys.stderr,
        )
    systems, paired = {}, {}
    for recipe in dict.fromkeys(VARIANTS[name].recipe for name in names):
        scores = {name: measured[name][1] for name in names if VARIANTS[name].recipe == recipe}
        facts, differences = judged(windows, scores)
        systems |= {name: {**measured[name][0], **facts[name]} for name in scores}
        paired |= differences
    ratios = {
        f"{name}_cpu_s_over_{VARIANTS[name].recipe}": (
            systems[name]["cpu_s"] / systems[VARIANTS[name].recipe]["cpu_s"]
        )
        for name in asked.variants
    }
    write_report(
        asked.json,
        systems=systems,
        ratios=ratios,
        paired=paired,
        windows=described(windows),
        seeds=asked.seeds,
    )


if __name__ == "__main__":
    main()

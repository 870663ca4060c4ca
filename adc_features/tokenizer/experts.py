"""Shared and specific experts. Reads: standardised item vectors.
Writes: one unit latent a position.

Legend: B rows, P positions, D latent width.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adc_features.codes.spec import SidSpec


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """The "shallow two-layer network" of ADC-SID section 3.2."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class Experts(nn.Module):
    """One expert a position (ADC-SID Eq. 2-6): specific ones read their modality, shared ones the
    projections of all.

    A row without a modality enters the shared experts with that modality's learned missing vector
    (method notes: Items without behaviour).
    """

    def __init__(
        self, spec: SidSpec, widths: Mapping[str, int], *, hidden: int, latent: int, aligned: int
    ) -> None:
        super().__init__()
        self.positions = spec.positions
        self.project = nn.ModuleDict({m: mlp(d, hidden, aligned) for m, d in widths.items()})
        self.missing = nn.ParameterDict({m: nn.Parameter(torch.zeros(aligned)) for m in widths})
        together = aligned * len(widths)
        self.experts = nn.ModuleList(
            mlp(together if p.kind == "shared" else widths[p.modality], hidden, latent)
            for p in spec.positions
        )

    def projections(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """h of every modality, float32 [B, aligned] (Eq. 2); rows without the modality hold nothing
        of meaning.
        """
        return {m: project(vectors[m]) for m, project in self.project.items()}

    def forward(
        self,
        vectors: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        projected: Mapping[str, Tensor],
    ) -> Tensor:
        """Unit latents, float32 [B, P, D] (Eq. 4, 6). Unit length makes the behavioural weights
        identifiable (method notes: Scale of the behavioural weights).
        """
        together = torch.cat(
            [torch.where(present[m][:, None], h, self.missing[m]) for m, h in projected.items()],
            dim=1,
        )
        latents = [
            expert(together if p.kind == "shared" else vectors[p.modality])
            for p, expert in zip(self.positions, self.experts, strict=True)
        ]
        return F.normalize(torch.stack(latents, dim=1), dim=-1)

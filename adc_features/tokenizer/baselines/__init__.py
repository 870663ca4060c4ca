"""The other tokenizers of the field, under the contract that ADC-SID has. Reads: RowUnion,
Generation. Writes: trained networks.

`fit` and `encode`, one level up, are theirs as well: here is what differs, the network, its
training and its positions. Codes weigh 1, but for those of our own method, `posterior`.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from adc_features.codes.generation import Generation
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.errors import ArtifactError, InputError
from adc_features.tokenizer.baselines import (
    diger,
    etegrec,
    kmeans,
    posterior,
    qarm,
    rq_vae,
    unisid,
)
from adc_features.tokenizer.baselines.additive import AdditiveNetwork
from adc_features.tokenizer.baselines.diger import DigerSettings
from adc_features.tokenizer.baselines.etegrec import EtegrecSettings
from adc_features.tokenizer.baselines.kmeans import KMeansSettings
from adc_features.tokenizer.baselines.loop import Curve, Progress
from adc_features.tokenizer.baselines.posterior import PosteriorNetwork, PosteriorSettings
from adc_features.tokenizer.baselines.qarm import QarmNetwork, QarmSettings
from adc_features.tokenizer.baselines.rq_vae import RqVaeSettings
from adc_features.tokenizer.baselines.unisid import HeadNetwork, UniSidSettings
from adc_features.tokenizer.end_to_end import training as end_to_end
from adc_features.tokenizer.end_to_end.network import UnisidNetwork, check_base
from adc_features.tokenizer.end_to_end.settings import UnisidE2eSettings, unisid_e2e
from adc_features.tokenizer.model import AdcModel, Standard
from adc_features.tokenizer.union import RowUnion

Settings = (
    DigerSettings
    | EtegrecSettings
    | KMeansSettings
    | QarmSettings
    | RqVaeSettings
    | UniSidSettings
    | UnisidE2eSettings
    | PosteriorSettings
)

RECIPES: dict[str, Callable[[], Settings]] = {
    recipe.__name__: recipe
    for recipe in (
        rq_vae.rq_vae,
        kmeans.rq_kmeans,
        kmeans.rq_kmeans_balanced,
        kmeans.opq,
        rq_vae.letter,
        rq_vae.das,
        etegrec.etegrec_parallel,
        diger.diger,
        qarm.qarm,
        rq_vae.mm_rq_vae,
        unisid.unisid,
        unisid_e2e,
        posterior.posterior,
        posterior.posterior_experts,
        posterior.posterior_second,
    )
}

NEED_BEHAVIOR = ("letter", "das", "qarm")
"""These cannot be fitted without behaviour."""

CONTENT_ONLY = (*NEED_BEHAVIOR, "unisid", "unisid_e2e")
"""These read content alone when they encode; behaviour only teaches them."""


Network = AdditiveNetwork | HeadNetwork | PosteriorNetwork | QarmNetwork | UnisidNetwork
"""What encodes: `codes(rows)` int64 and bool [B, L] (or `tokens(rows, held_BL)`, where codes have
weights and are held; or `read(raw)`, where raw items are read), `reconstruct(rows)` from the codes
alone, `widths` of the modalities that it reads (none: raw items).
"""


LEARN: Mapping[type, Callable[..., Curve]] = {
    QarmSettings: qarm.train,
    RqVaeSettings: rq_vae.train,
    UniSidSettings: unisid.train,
}
"""How those that learn step by step are trained."""

LEARN_FROM_EVENTS: Mapping[type, Callable[..., Curve]] = {
    DigerSettings: diger.train,
    EtegrecSettings: etegrec.train,
}
"""And those that learn from what users chose one after another."""


class Trained(NamedTuple):
    """A frozen network, its training curve, and what its quality report (`facts`) and the
    generation's settings (`kept`) say beside the usual.
    """

    network: AdcModel | Network
    history: Curve
    facts: Mapping[str, Any] = MappingProxyType({})
    kept: Mapping[str, Any] = MappingProxyType({})


def spec_of(spec: SidSpec, s: Settings) -> SidSpec:
    """The tokenizer's own positions: as many as `spec` has, over the same modalities.

    Raises InputError when a tokenizer of NEED_BEHAVIOR has no behaviour to learn from, or it or
    UniSID no content to code.
    """
    if s.tokenizer in NEED_BEHAVIOR and not (spec.behavior and any(spec.content.values())):
        raise InputError(
            f"{s.tokenizer} codes content and learns from behaviour, the spec has the modalities"
            f" {list(spec.modalities)}; give both"
        )
    if s.tokenizer == "unisid" and not any(spec.content.values()):
        raise InputError(
            f"unisid codes content, the spec has the modalities {list(spec.modalities)}; give a"
            " content modality"
        )
    if s.tokenizer == "posterior_experts":
        return replace(spec, layout="experts")
    if s.tokenizer != "mm_rq_vae":
        return replace(spec, layout="subspaces" if s.tokenizer == "opq" else "levels")
    each, more = divmod(spec.length, len(spec.modalities))
    counts = {m: each + (i < more) for i, m in enumerate(spec.modalities)}
    behavior = counts.pop(BEHAVIOR, 0)
    return replace(spec, shared=0, content=counts, behavior=behavior)


def train(
    union: RowUnion,
    spec: SidSpec,
    s: Settings,
    *,
    seed: int,
    progress: Progress | None,
    events: pa.Table | None = None,
    start: Mapping[str, np.ndarray] | None = None,
    checkpoint: Path | None = None,
) -> Trained:
    """Train on the rows of the union, on the calling thread's settings; one seed, one network.
    spec: from `spec_of`. events: interactions, for those of LEARN_FROM_EVENTS. start: tensors of an
    older generation to go on from (posterior only). checkpoint: a file from which a killed fit goes
    on (unisid_e2e only).
    """
    if isinstance(s, UnisidE2eSettings):
        tuned = end_to_end.train(
            union.tables, spec, s, seed=seed, progress=progress, checkpoint=checkpoint
        )
        return Trained(tuned.network, tuned.history, kept=tuned.facts)
    cutoffs = len(union.tables)
    # layers draw from torch's global generator: leave it as it was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(union.widths(), spec, s, cutoffs=cutoffs)
        assert not isinstance(network, UnisidNetwork), "it has returned above"
        for m in network.widths:
            _set_statistics(network.standard_of(m), union, m)
        history: Curve = []
        facts: dict[str, Any] = {}
        if isinstance(network, AdditiveNetwork) and isinstance(s, KMeansSettings):
            kmeans.train(network, union, spec, s, seed=seed)
        elif isinstance(network, PosteriorNetwork):
            if start is not None:
                network.load_state_dict({k: torch.tensor(array) for k, array in start.items()})
            facts |= posterior.train(network, union, fresh=start is None, seed=seed)
        else:
            behavior = None
            if spec.behavior:
                behavior = Standard(union.widths()[BEHAVIOR], cutoffs)
                _set_statistics(behavior, union, BEHAVIOR)
            learn: Any = LEARN.get(type(s))
            if learn is None:
                learn = partial(LEARN_FROM_EVENTS[type(s)], events=events)
            history = learn(network, union, s, behavior=behavior, seed=seed, progress=progress)
    network.freeze()
    return Trained(network.eval().requires_grad_(False), history, facts)


def settings_of(generation: Generation) -> Settings:
    """The settings of a generation that a tokenizer here wrote. Raises ArtifactError when none
    did.
    """
    name = generation.tokenizer
    if name not in RECIPES:
        raise ArtifactError(
            f"generation {generation.id!r} was written by tokenizer {name!r}, this library has"
            f" {['adc', *RECIPES]}; open it with a newer one"
        )
    kind, saved = type(RECIPES[name]()), generation.settings.get(name)
    if saved is None or set(saved) - {f.name for f in fields(kind)}:
        raise ArtifactError(
            f"generation {generation.id!r} says that {name!r} wrote it, but its settings are"
            f" {list(generation.settings)}; fit it again"
        )
    return kind(**saved)


def load(generation: Generation) -> Network:
    """The frozen network of a generation, ready to encode. Raises ArtifactError when no tokenizer
    here wrote it.
    """
    settings = settings_of(generation)
    if isinstance(settings, UnisidE2eSettings):
        return _opened(generation, settings)
    widths = {
        key.split(".")[-2]: array.shape[1]
        for key, array in generation.tensors.items()
        if key.endswith(".center")
    }
    # no random numbers are drawn for parameters that are about to be replaced
    with torch.device("meta"):
        network = _network(
            widths, generation.spec, settings, cutoffs=len(generation.settings["cutoffs"])
        )
    network.load_state_dict(
        {key: torch.tensor(array) for key, array in generation.tensors.items()}, assign=True
    )
    network.eval().requires_grad_(False).freeze()
    return network


def _opened(generation: Generation, s: UnisidE2eSettings) -> UnisidNetwork:
    """The tuned layers of a generation on the base model that it was tuned on."""
    with torch.random.fork_rng(devices=[]):
        network = UnisidNetwork(generation.spec, s)
    check_base(network, generation.settings["unisid_e2e_fit"]["base_hash"])
    network.load_state_dict(
        {key: torch.tensor(array).float() for key, array in generation.tensors.items()}
    )
    return network.eval().requires_grad_(False)


def _network(widths: Mapping[str, int], spec: SidSpec, s: Settings, *, cutoffs: int) -> Network:
    # in the order of the spec: tensors come back from disk in the order of their names
    read = {
        m: widths[m] for m in spec.modalities if not (m == BEHAVIOR and s.tokenizer in CONTENT_ONLY)
    }
    if isinstance(s, KMeansSettings):
        return kmeans.network(read, spec, cutoffs=cutoffs)
    if isinstance(s, UnisidE2eSettings):
        return UnisidNetwork(spec, s)
    if isinstance(s, PosteriorSettings):
        return PosteriorNetwork(read, spec, s, cutoffs=cutoffs)
    if isinstance(s, UniSidSettings):
        return HeadNetwork(read, spec, s, cutoffs=cutoffs)
    if isinstance(s, QarmSettings):
        return QarmNetwork(read, spec, cutoffs=cutoffs)
    return rq_vae.network(read, spec, s, cutoffs=cutoffs)


def _set_statistics(standard: Standard, union: RowUnion, modality: str) -> None:
    center, spread = union.statistics(modality)
    standard.center.copy_(center)
    standard.spread.copy_(spread)

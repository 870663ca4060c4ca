"""MMQ as a recipe of the ADC-SID network, which grew out of it.
Reads: nothing. Writes: AdcSettings.
"""

from adc_features.tokenizer.model import AdcSettings


def mmq() -> AdcSettings:
    """MMQ's first stage (arXiv 2508.15281): shared and specific experts, cosine codebooks, one
    fused decoder; no behaviour in the loss.

    Published: 2 + 2 + 2 experts over text and image, reconstruction 12, each modality read back
    from its own experts 10, orthogonality of expert weights 0.005, then a second stage that tunes
    the codes on a ranker's loss. Here: the positions of the spec, behaviour as one more modality
    with its own experts, so that the inputs equal ADC-SID's; orthogonality between the latents of
    an item's experts instead of between weight matrices (experts of different modalities have
    weights of different shapes); codebooks learn by the VQ loss, on which the paper is silent; no
    second stage: these codes must not depend on one ranker. No alignment and no reliability gate,
    so behavioural codes weigh 1.
    """
    return AdcSettings(
        reconstruction_weight=12.0,
        auxiliary_weight=10.0,
        orthogonality_weight=0.005,
        alignment_weight=0.0,
        balance_weight=0.0,
        gate_scale="equal",
        sparsity="off",
    )

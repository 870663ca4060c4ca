"""The commands of retrieval by semantic IDs. Each is one call into `training.retrieval`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli.console import JsonOption, progress, report
from adc_features.cli.runs import DeviceOption
from training.cli.lines import retrieval_lines

retrieve = typer.Typer(no_args_is_help=True, help="Retrieve by semantic IDs, leave-one-out.")
RetrieveOption = Annotated[
    Path,
    typer.Option("--out", metavar="DIR", help="Directory of the codes and trained retrievers."),
]


# as long as its options
@retrieve.command("train")
def retrieve_train(
    out: RetrieveOption,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DIR", help="Items and their text; needed the first time."),
    ] = None,
    sequences: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=(
                "Parquet with a list column item_ids, a row a user, oldest first; default: DIR's"
                " sequences_s3rec.parquet."
            ),
        ),
    ] = None,
    tokenizer: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "A tokenizer of `adc fit`, or sasrec for the softmax over items without codes;"
                " repeatable. Default: adc, rq_vae, sasrec."
            )
        ),
    ] = None,
    encoder: Annotated[
        str,
        typer.Option(
            help=(
                "Encoder of the behaviour that tokenizers read, as for `adc embed behavior`; in"
                " names unless it is the default, as TOKENIZER+ENCODER."
            )
        ),
    ] = "sasrec_content",
    items: Annotated[
        bool,
        typer.Option("--items", help="Give each item a row of its own beside its codes: a hybrid."),
    ] = False,
    weighted: Annotated[
        bool, typer.Option("--weighted", help="The tokenizer's learned weights as loss weights.")
    ] = False,
    loss: Annotated[
        str,
        typer.Option(
            help="catalogue: of the item among all items; positions: of each code on its own."
        ),
    ] = "catalogue",
    codebook_size: Annotated[
        int, typer.Option(min=2, help="K, codes per position; fewer for a small catalogue.")
    ] = 256,
    longer: Annotated[
        int,
        typer.Option(
            min=1,
            help=(
                "Times 2 shared positions, 4 of each content modality and 6 of behaviour; in names"
                " unless it is the default, as TOKENIZER_x1."
            ),
        ),
    ] = 2,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training part.")
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            help="Seed of behaviour vectors, tokenizer and generator; repeatable. Default: 0."
        ),
    ] = None,
    device: DeviceOption = None,
    json: JsonOption = None,
) -> None:
    """Fit tokenizers on the training part of the sequences and train a generator on the codes of
    each.
    """
    from adc_features.generator.generator import settings_of
    from training.retrieval.retrievers import retriever_of, train
    from training.retrieval.source import open_source

    settings = settings_of(loss=loss, epochs=epochs)
    asked = [
        retriever_of(
            name,
            encoder=encoder,
            items=items,
            weighted=weighted,
            codebook_size=codebook_size,
            longer=longer,
        )
        for name in tokenizer or ("adc", "rq_vae", "sasrec")
    ]
    with progress() as notify:
        source = open_source(out, data, sequences, progress=notify)
        options: Any = {"settings": settings, "progress": notify, "device": device or "cpu"}
        trained = [train(source, out, one, seed=s, **options) for one in asked for s in seed or [0]]
    report(
        {
            "trained": [
                {k: m[k] for k in ("name", "seed", "parameters", "cpu_seconds")}
                | {"loss": m["curve"][-1]}
                for m in trained
            ]
        },
        json,
    )


@retrieve.command("evaluate")
def retrieve_evaluate(
    out: RetrieveOption,
    final: Annotated[
        bool,
        typer.Option(
            "--final",
            help=(
                "Score the test items, once, instead of the validation items; logged in"
                " events.jsonl."
            ),
        ),
    ] = False,
    json: JsonOption = None,
) -> None:
    """Rank the whole catalogue for every user by every trained retriever; Recall and NDCG,
    collisions corrected.
    """
    from training.retrieval.evaluation import evaluate as evaluate_retrievers
    from training.retrieval.source import open_source

    with progress() as notify:
        source = open_source(out, progress=notify)
        result = evaluate_retrievers(
            source, out, part="test" if final else "validation", progress=notify
        )
    report({"command": " ".join(["adc", *sys.argv[1:]]), **result}, json, text=retrieval_lines)

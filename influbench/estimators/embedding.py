"""Sentence embedding: does the candidate mean something like the references, to a small encoder?

    score(z) = mean (or max) over references r of cos(e(z), e(r)),   e = MiniLM over both texts

The student plays no part: what this gains over ``bm25`` is meaning, what ``repsim`` gains over it
is the student.

Source: Reimers and Gurevych, Sentence-BERT, arXiv 1908.10084; all-MiniLM-L6-v2. Texts are cut at
256 tokens.
Cost: M passes of the encoder to prepare, 1 per candidate (22M parameters).
"""

from dataclasses import dataclass
from typing import Literal

from influbench.estimator import Context, Examples, Facts, Scorer, Scores


@dataclass(frozen=True)
class Embedding:
    """Cosine of sentence embeddings."""

    model: str = "minilm-l6-v2"
    """An embedded name, a folder or a hub repository of an encoder."""
    aggregate: Literal["mean", "max"] = "mean"

    facts = Facts("rank", "Sentence-BERT, arXiv 1908.10084", passes=("M", "1 encoder"), stderr=True)

    def prepare(self, ctx: Context) -> Scorer:
        """Loads the encoder and embeds the references."""
        from influbench.derivatives.similarity import cosine_scores
        from influbench.student.representations import sentence_encoder

        encode = sentence_encoder(self.model, "auto")
        references = encode(ctx.reference)

        def score(examples: Examples) -> Scores:
            return cosine_scores(encode(examples), references, self.aggregate)

        return score

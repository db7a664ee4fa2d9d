"""BM25: does the candidate use the references' words?

    score(z) = mean over references r of  Σ over distinct words t of z
               idf(t) · tf(t, r) / (tf(t, r) + k₁ (1 - b + b |r| / mean |r|)),
               idf(t) = ln(1 + (M - df(t) + ½) / (df(t) + ½))
               divided by the number of distinct words of z

The references are the collection and the candidate is the query: document frequencies and lengths
must not depend on which other candidates happen to be scored with it. Dividing by the words asked
for takes away the advantage of a long candidate (``per_word = False`` keeps it). Words are
lower-cased runs of letters and digits, without English stop words; all turns count alike.

Source: Robertson et al., Okapi at TREC-3, in Lucene's form (``bm25s``, arXiv 2407.03618), which
leaves out the constant factor k₁ + 1. A strong baseline: Akyürek et al., arXiv 2205.11482.
Cost: no passes at all.
"""

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from influbench.errors import UserError
from influbench.estimator import Context, Examples, Facts, Scorer, Scores


@dataclass(frozen=True)
class Bm25:
    """Okapi BM25 of the candidate's words in the references."""

    k1: float = 1.5
    b: float = 0.75
    per_word: bool = True

    facts = Facts("rank", "BM25 (bm25s)", stderr=True)

    def prepare(self, ctx: Context) -> Scorer:
        """Indexes the references."""
        with _no_jax():
            bm25s = ctx.package("bm25s", "retrieval")
        # It asks for every message of its own; where anything has set up logging they all appear.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        from influbench.derivatives.similarity import mean_over_references

        def words(examples: Examples) -> list[list[str]]:
            texts = [e.text for e in examples]
            return bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)

        collection = words(ctx.reference)
        if not any(collection):
            raise UserError(
                "estimator 'bm25': the references hold no words but English stop words: "
                "expected text to match"
            )
        index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene", dtype="float64")
        index.index(collection, show_progress=False)

        def scores_of(query: list[str]) -> np.ndarray:
            known = sorted(set(query) & index.vocab_dict.keys())
            if not known:
                return np.zeros(len(collection))
            total = np.asarray(index.get_scores(known), dtype=np.float64)
            return total / len(set(query)) if self.per_word else total

        def score(examples: Examples) -> Scores:
            return mean_over_references(np.stack([scores_of(q) for q in words(examples)]))

        return score


@contextmanager
def _no_jax() -> Generator[None]:
    """Hides JAX: ``bm25s`` runs a kernel of it when imported, which takes 75 % of a GPU."""
    modules: dict[str, Any] = sys.modules
    theirs = modules.get("jax", modules)
    modules["jax"] = None  # an import of it fails
    try:
        yield
    finally:
        del modules["jax"]
        if theirs is not modules:
            modules["jax"] = theirs

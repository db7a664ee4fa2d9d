"""For-Value: influence at the output embedding alone, from one forward pass.

    score(z) = Σ_t Σ_s ⟨h_t, h_s⟩ ⟨α_t, α_s⟩ / n_t n_s,   mean over references of s

h is the last hidden state where a response token is predicted, α = p - onehot the error of that
prediction, times the model's factor on logits if it has one (Cohere, Granite); t runs over the n_t
response tokens of the candidate, s over the n_s of a reference.
This is the inner product of the losses' gradients by the matrix that turns hidden states into
logits, as far as that matrix is used there (a tied embedding's other use is left out), so
no backward pass is needed. The references are summed up once, G = mean of Σ_s α_s h_sᵀ / n_s, one
matrix of the output embedding's size, and a candidate's score is Σ_t α_tᵀ G h_t / n_t: no matrix
of a candidate's own, and no product of token pairs.

Source: For-Value, arXiv 2508.10180. Deviations: means over tokens in place of their sums, so that
long responses do not win by length; a soft cap of logits (Gemma 2) is taken as it comes, its slope
is left out.
Cost: M forward passes to prepare, 1 per candidate, and once more the output embedding's product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from influbench.estimator import Context, Examples, Facts, Scorer, Scores

if TYPE_CHECKING:
    import torch

    from influbench.student import LanguageStudent
    from influbench.student.batch import TokenBatch

TOKENS = 256
"""Response tokens whose logits exist at one time."""


@dataclass(frozen=True)
class ForValue:
    """Products of hidden states and prediction errors over pairs of tokens."""

    facts = Facts("signed", "For-Value, arXiv 2508.10180", {"language_model"}, ("M", "1"))

    def prepare(self, ctx: Context) -> Scorer:
        """Sums up the references."""
        import torch

        student = ctx.language_student()
        shape = student.vocabulary, student.model.config.get_text_config().hidden_size
        total = torch.zeros(shape, device=student.model.device)
        with torch.no_grad():
            for batch in student.batches(ctx.reference):
                for error, hidden, row, share in _tokens(student, batch):
                    weight = share[row] / len(ctx.reference)
                    total.addmm_(error.T, hidden * weight[:, None])
        head: Any = student.model.get_output_embeddings()
        head = head.weight
        trained = sum(p.numel() for p in student.model.parameters() if p.requires_grad)
        facts = {"parameter_share": head.numel() / trained if head.requires_grad else 0.0}

        def score(examples: Examples) -> Scores:
            values = np.empty(len(examples))
            with torch.no_grad():
                for batch in student.batches(examples):
                    sums = torch.zeros(len(batch.rows), dtype=torch.float64, device=batch.device)
                    for error, hidden, row, own in _tokens(student, batch):
                        products = ((error @ total) * hidden).double().sum(1)
                        sums.index_add_(0, row, products * own[row])
                    values[list(batch.positions)] = sums.cpu().numpy()
            return Scores(value=values, diagnostics=facts)

        return score


def _tokens(
    student: LanguageStudent, batch: TokenBatch
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Error [token, vocabulary], hidden state, row and 1/tokens by row, some tokens at a time."""
    import torch

    row, time, targets = batch.targets
    share = 1.0 / torch.bincount(row, minlength=len(batch.rows))
    with student.precision():
        hidden = student.hidden(batch.tokens)[row, time]
    for part in torch.arange(len(row), device=row.device).split(TOKENS):
        with student.precision():
            error = student.head(hidden[part]).float().softmax(-1)
        error[torch.arange(len(part), device=row.device), targets[part]] -= 1
        for factor in student.logit_factors:
            error *= factor
        yield error, hidden[part].float(), row[part], share

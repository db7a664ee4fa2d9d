"""Rows of tokens that no text stands behind, as a batch of a language student."""

from influbench.student.batch import laid_out


def batch_of(student, rows):
    """All of them in one batch, in the order given."""
    (batch,) = laid_out(
        [None] * len(rows),  # pyright: ignore[reportArgumentType]
        rows,
        budget=10**9,
        pad=student.tokenizer.pad_token_id,
        pad_to=student.pad_to,
        device=student.model.device,
    )
    return batch.take([batch.positions.index(i) for i in range(len(rows))])

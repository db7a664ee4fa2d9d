"""What the training data of a student look like: lengths and root verbs (figures 6, 11 and 12)."""

from __future__ import annotations

from collections.abc import Sequence

from influbench import models
from influbench.config import Config
from influbench.data import root_verbs
from influbench.data.records import Candidate, Example, ModelRef, Outcome
from influbench.store import Stage, Work
from influbench.store.session import Session

PARTS = ("instruction", "response")
VERB = "root_verb"
VERBS = "root_verbs"
"""Records of the entry, where the tagger was installed when it was made."""


def lengths(_: Config, examples: Sequence[Example], student: ModelRef, *, work: Work) -> None:
    """Writes ``lengths``: outcomes ``instruction_tokens`` and ``response_tokens`` of each example.

    Counted with the student's tokenizer, of the texts alone: without a template or an end of turn.
    Where the tagger is installed ``root_verbs`` too, since loading it takes a second.
    """
    tokenizer = models.load_tokenizer(student)
    found: list[Outcome] = []
    for part in PARTS:
        texts = [getattr(example, part) for example in examples]
        ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        found += [
            Outcome(metric=f"{part}_tokens", item=example.id, value=float(len(own)))
            for example, own in zip(examples, ids, strict=True)
        ]
    work.write("lengths", found)
    if root_verbs.available():
        work.write(VERBS, verbs(examples))


def verbs(examples: Sequence[Example]) -> list[Outcome]:
    """An outcome ``root_verb`` of each instruction; its category is the verb and its noun."""
    return [
        Outcome(metric=VERB, item=e.id, value=1.0, category=root_verbs.root_verb(e.instruction))
        for e in examples
    ]


LENGTHS = Stage("lengths", 1, lengths, opens=lambda _: False)


def texts(
    session: Session, rows: Sequence[Candidate], student: ModelRef, label: str
) -> list[Outcome]:
    """Lengths of the rows that a student learnt, and root verbs where the tagger is installed.

    Args:
        session: runs the stage.
        rows: that it learnt.
        student: whose tokenizer counts.
        label: the arm.
    """
    examples = [row.example() for row in rows]
    entry = session.run(LENGTHS, Config(), examples, student, label=label)
    found = entry.records("lengths", Outcome)
    if (entry.path / f"{VERBS}.jsonl").is_file():
        return [*found, *entry.records(VERBS, Outcome)]
    return [*found, *verbs(examples)] if root_verbs.available() else found

"""Candidates' texts for the page, from the store of the run that scored them, or from a file.

Results hold ids and scores, not texts. A candidate's id (``round1-candidates-00003-2``) stands in
every run of a grid, so in a store an id alone says nothing: its texts are taken only where a kept
entry of scores has the very numbers of the result and names the digest of what it scored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from influbench.data.examples import load_examples
from influbench.data.records import Candidate, Example, Score
from influbench.errors import UserError
from influbench.files import digest, read_jsonl
from influbench.judging import rubric
from influbench.judging.archive import Archive

Words = tuple[str, str]
"""A judge's name and what it wrote."""


class Texts:
    """Where texts may be found: a store, a file of candidates, both or neither."""

    def __init__(self, store: Path | None = None, candidates: Path | None = None) -> None:
        """Opens the sources.

        Raises:
            UserError: ``candidates`` is no file of instruction-response pairs.
        """
        self.store = store if store is not None and store.is_dir() else None
        self.file = None if candidates is None else load_examples(candidates)

    def of(self, scores: Mapping[str, Sequence[Score]]) -> list[Candidate] | list[Example] | None:
        """The texts of what was scored, in the order of the scores; None where there are none.

        Args:
            scores: by estimator, of one run.

        Raises:
            UserError: there is a file of candidates, and none of the ids is in it.
        """
        ids = [score.id for score in next(iter(scores.values()))]
        found = self._kept(scores)
        if found is not None:
            kept = {candidate.id: candidate for candidate in found}
            return [kept[name] for name in ids]
        if self.file is None:
            return None
        given = {example.id: example for example in self.file}
        if not given.keys() & set(ids):
            raise UserError(
                f"--candidates: expected the pairs that were scored, such as '{ids[0]}', got ids "
                f"such as '{next(iter(given))}': give the file that the scores are about"
            )
        return [given.get(name, Example(id=name, instruction="", response="")) for name in ids]

    def said(self, examples: Sequence[Example]) -> dict[str, list[Words]]:
        """What judges wrote when they were asked to grade these, by id."""
        found: dict[str, list[Words]] = {}
        for example in examples:
            asked = digest(json.dumps(rubric.grading(rubric.QUALITY, example)))
            if words := self._judgements.get(asked):
                found[example.id] = words
        return found

    @cached_property
    def _judgements(self) -> dict[str, list[Words]]:
        found: dict[str, list[Words]] = {}
        path = None if self.store is None else self.store / "judgements.jsonl"
        if path is not None and path.is_file():
            for item in Archive(path).all():
                found.setdefault(item.prompt_hash, []).append((item.judge, item.text))
        return found

    def _kept(self, scores: Mapping[str, Sequence[Score]]) -> list[Candidate] | None:
        for name, values in scores.items():
            wanted = {score.id: score.value for score in values}
            for inputs, kept in self._scored.get(name, ()):
                if kept == wanted and inputs in self._candidates:
                    return self._candidates[inputs]
        return None

    @cached_property
    def _scored(self) -> dict[str, list[tuple[str, dict[str, float]]]]:
        """By estimator: the digest of what was scored, and the scores."""
        found: dict[str, list[tuple[str, dict[str, float]]]] = {}
        for folder in self._entries("score"):
            try:
                manifest = json.loads((folder / "manifest.json").read_bytes())
                scores = read_jsonl(folder / "scores.jsonl", Score)
                told = manifest["label"], str(manifest["inputs"][0])
            except (UserError, ValueError, KeyError, IndexError, TypeError):
                continue  # of another version, or damaged: ``influbench store verify`` says so
            found.setdefault(told[0], []).append((told[1], {s.id: s.value for s in scores}))
        return found

    @cached_property
    def _candidates(self) -> dict[str, list[Candidate]]:
        """By the digest that a stage knows them by."""
        found: dict[str, list[Candidate]] = {}
        for folder in self._entries("generate"):
            try:
                candidates = read_jsonl(folder / "candidates.jsonl", Candidate)
            except UserError:
                continue
            told = digest([candidate.example() for candidate in candidates])
            found[f"records:{told}"] = candidates
        return found

    def _entries(self, stage: str) -> list[Path]:
        if self.store is None:
            return []
        return [path.parent for path in sorted(self.store.glob(f"{stage}-*/manifest.json"))]

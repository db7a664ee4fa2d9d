"""Self-Reward: the student grades the candidates itself, without an outside judge.

    score(z) = Σ_k k · P(k | additive rubric, z),   k = 1 … 5, by the student's own next-token
    probabilities

Source: Yuan et al., Self-Rewarding Language Models, arXiv 2401.10020, a baseline of
Montessori-Instruct (its "Self-Reward", not the starred form, which asks GPT-4o: that is ``judge``
here). Deviations: the model that judges is the student, the only model that an estimator is given;
the rubric is additive as theirs, in our own words; an expectation over the grades replaces the mean
of sampled verdicts.
Cost: nothing to prepare, 1 forward pass per candidate. A small student's grades carry little but
bias.
"""

from dataclasses import dataclass

import numpy as np

from influbench.data.records import Example
from influbench.errors import UserError
from influbench.estimator import Context, Examples, Facts, Scorer


@dataclass(frozen=True)
class SelfReward:
    """The student as its own judge."""

    facts = Facts("rank", "Self-Rewarding LMs, arXiv 2401.10020", {"language_model"}, ("0", "1"))

    def prepare(self, ctx: Context) -> Scorer:
        """Takes the student."""
        import torch

        from influbench import models
        from influbench.judging import rubric

        student = ctx.language_student()
        tokenizer, limit = student.tokenizer, models.context_length(student.model)

        def grade(example: Example) -> float:
            prompt = models.chat_prompt(tokenizer, rubric.grading(rubric.ADDITIVE, example))
            ids = tokenizer(prompt, add_special_tokens=False).input_ids
            if len(ids) > limit:
                raise UserError(
                    f"estimator 'self_reward': example '{example.id}' with the rubric has "
                    f"{len(ids)} tokens, the student's context holds {limit}: shorten or drop it"
                )
            # Of the joint tokenisation: the digit alone may be another token.
            digits = [
                tokenizer(prompt + g, add_special_tokens=False).input_ids[len(ids)]
                for g in rubric.GRADES
            ]
            with torch.no_grad():
                logits = student.model(
                    input_ids=torch.tensor([ids], device=student.model.device),
                    use_cache=False,
                    logits_to_keep=1,
                ).logits[0, -1]
            probabilities = logits.double()[digits].softmax(-1).cpu().numpy()
            return float(probabilities @ np.arange(1, len(digits) + 1))

        def score(examples: Examples) -> np.ndarray:
            return np.array([grade(e) for e in examples])

        return score

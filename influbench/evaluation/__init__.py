"""Scores of a student: AlpacaEval, MT-Bench, head to head, lm-eval; and of a judge."""

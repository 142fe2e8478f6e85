"""Judge scores against labels. To show the result, import `thalweg.evaluate.report`, which plots."""

from thalweg.evaluate.metrics import AttackRow, Curve, Evaluation, Youden, evaluate, make_curve

__all__ = ["AttackRow", "Curve", "Evaluation", "Youden", "evaluate", "make_curve"]

"""Judge scores against labels. `thalweg.evaluate.report` shows the result; it plots, and needs the extra `report`."""

from thalweg.evaluate.metrics import AttackRow, Curve, Evaluation, Youden, evaluate, make_curve

__all__ = ["AttackRow", "Curve", "Evaluation", "Youden", "evaluate", "make_curve"]

"""Quality of the labels."""

from sea_agent.service.schemas.base import Out, TimeOut
from sea_agent.service.schemas.runs import QualificationOut


class RateOut(Out):
    """A share of ``n`` with its 95 % Wilson interval; null where ``n`` is 0."""

    n: int
    share: float | None
    low: float | None
    high: float | None


class AgreementOut(Out):
    """Quality of the labels of a run. A figure that cannot be computed is null.

    ``alpha`` is Krippendorff's, over the ``compared`` duels that have two votes or more; its 95 % bootstrap interval is
    over duels. ``first_shown`` is the share of answers with a winner that chose the response shown first.
    """

    votes: int
    duels: int
    compared: int
    annotators: int
    alpha: float | None
    alpha_low: float | None
    alpha_high: float | None
    self_agreement: RateOut
    gold_accuracy: RateOut
    gold_kappa: float | None
    first_shown: RateOut
    ties: RateOut
    both_bad: RateOut


class AnnotatorOut(Out):
    """One annotator. ``with_others`` is agreement with the most frequent vote of the others on the same duel;
    ``per_hour`` counts answers by the time between them, without pauses of more than five minutes; ``qualification`` is
    null where the run asks for none."""

    annotator: str
    answers: int
    votes: int
    skips: int
    last_at: TimeOut | None
    per_hour: float | None
    median_s: float | None
    p90_s: float | None
    gold_accuracy: RateOut
    gold_kappa: float | None
    self_agreement: RateOut
    with_others: RateOut
    first_shown: RateOut
    late: RateOut
    qualification: QualificationOut | None = None


class AnnotatorsOut(Out):
    """Everybody who answered or skipped in a run, by name."""

    annotators: list[AnnotatorOut]

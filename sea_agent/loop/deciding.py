"""One duel at a time, for live mode: which two responses to one prompt are compared, and what that would tell.

The rule is ``sea_ee``: two Thompson draws name two candidates. Where a response is shown already, the duel is between
it and what a draw names instead. Where all draws name the same candidate there is nothing to ask.

Nothing else is done with a posterior before answers bear it out. Until then it is put to the test: the duel is between
the responses of the highest and the lowest mean, of whose order it is surest. Good responses are too close for that.

A test is fair where chance alone decides what the user sees first (``bandit/betting.py``). Where nothing is shown yet,
the order is drawn. A stream shows its first sample first, and what is named beside it is named for what is believed of
it; to list the two in a drawn order later would change nothing about what was seen first. But the first two samples
were drawn alike, so that either could as well have been the first: they are the test. The first other that differs,
where these two have the same text, is none: of two responses, the commoner is more often the first of such a pair.

Dimensions: S posterior draws, M candidates with different texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sea_agent.bandit.selection import belief, pair_information, typical_disagreement
from sea_agent.errors import RunFailure
from sea_agent.loop.selector import Look, Selector
from sea_agent.seeding import generator_for
from sea_agent.types import Candidates, Prompt, Response

IGNORANCE = 0.1536
"""What an answer tells where nothing is known, in nats: the mutual information of a label and a difference of rewards
that has the prior variance of 2. Of the scale of ``pair_information``, so that the two can be compared."""


def live_trust(selector: Selector) -> float:
    """How far a posterior is acted on in live mode: 1 while answers bear it out, and 0 otherwise.

    So answers that have nothing to do with the responses leave users with what they would have had without learning,
    but with a small chance (``bandit/betting.py``). A run that asks the oracle acts by degrees (``Selector.trust``) and
    later, because imagined rounds could lead the policy anywhere; here the posterior only chooses among its responses.
    """
    return float(selector.is_borne_out)


TESTS = 0.5
"""Share of the duels beside a response that is shown which stay tests once the posterior is borne out: without any, it
would be acted on for ever, whatever answers say."""


@dataclass(frozen=True)
class Decision:
    """What is asked about one prompt; places are those of the responses that were given.

    What a posterior says is None where there is none, and ``belief`` and ``disagreement`` also without a pair.
    """

    pair: tuple[int, int] | None
    """First and second of the duel, the one that is shown already first; None where there is nothing to ask."""
    as_sampled: bool
    """Whether the pair is the first two responses as they came, whatever is believed of them."""
    best: int
    """The highest posterior mean, once the posterior is acted on; before, what is shown or comes first."""
    information: float
    """Nats that the answer would tell the posterior."""
    belief: float | None
    """Mean over the draws of the probability that the first of the pair is preferred."""
    disagreement: float | None
    """Its deviation over the draws."""
    typical_disagreement: float | None
    """The mean of that deviation over all pairs."""
    regret_first: float | None
    """Posterior mean of the best reward less that of what is shown, or comes first."""
    regret_best: float | None
    """The same of ``best``."""
    regret_pair: float | None
    """The same of the pair, whose reward is the mean of its two."""
    posterior_version: int
    trust: float
    """``live_trust``."""


def decide(
    selector: Selector | None, prompt: Prompt, responses: Sequence[Response], key: str, shown: int | None = None
) -> Decision:
    """Choose a pair among ``responses`` to a prompt; a function of its arguments, whatever was decided before.

    Where a response is shown already and answers have not borne the posterior out, and for a share ``TESTS`` after, the
    pair is it and the first that differs. Where ``selector`` is None, which stands for no posterior, or has learnt
    nothing, or the selection rule of the run looks at no posterior, it is the first two. Of equal texts the first
    counts, or the one that is shown.

    Raises:
        ValueError: when there are no responses, or ``shown`` is not the place of one.
        RunFailure: when the posterior gives rewards that are not finite.
    """
    if not responses:
        raise ValueError("there is no response to decide about")
    if shown is not None and not 0 <= shown < len(responses):
        raise ValueError(f"shown is {shown}, and there are {len(responses)} responses")
    places = _distinct(responses, shown)
    first = 0 if shown is None else shown
    if selector is None:
        return _unknowing(places, first)
    trust, version = live_trust(selector), selector.posterior_version
    at = places.index(first)  # among those that differ
    if len(places) < 2:
        return Decision(None, False, first, 0.0, None, None, None, 0.0, 0.0, None, version, trust)
    look = selector.look(Candidates(prompt, tuple(responses[place] for place in places)), key)
    if look is None:
        return _unknowing(places, first, version, 0.0)
    if not look.rewards_S_M.isfinite().all():
        raise RunFailure("the posterior gave rewards that are not finite: check its settings and features")
    passively = selector.is_blind or _is_passive(look, trust, key, shown)
    pair = _passive(at, len(places)) if passively else _named(look, trust, None if shown is None else at)
    best = at if look.mean_M is None or trust == 0.0 else int(look.mean_M.argmax())
    rewards_S_1_M = look.rewards_S_M[:, None]
    missed_M = (rewards_S_1_M.amax(2, keepdim=True) - rewards_S_1_M).mean(0)[0].tolist()
    mean = deviation = regret_pair = None
    information = 0.0
    if pair is not None:
        mean, deviation = (part.item() for part in belief(rewards_S_1_M, torch.tensor([pair])))
        information = max(0.0, pair_information(rewards_S_1_M[..., list(pair)]).item())
        regret_pair = (missed_M[pair[0]] + missed_M[pair[1]]) / 2
    return Decision(
        pair=None if pair is None else (places[pair[0]], places[pair[1]]),
        as_sampled=passively and pair is not None and (places[pair[0]], places[pair[1]]) == (0, 1),
        best=places[best],
        information=information,
        belief=mean,
        disagreement=deviation,
        typical_disagreement=typical_disagreement(rewards_S_1_M, torch.ones(1, len(places), dtype=torch.bool)).item(),
        regret_first=missed_M[at],
        regret_best=missed_M[best],
        regret_pair=regret_pair,
        posterior_version=version,
        trust=trust,
    )


def _distinct(responses: Sequence[Response], shown: int | None) -> list[int]:
    """The places of the responses with different texts, in sampling order; what is shown stands for its text."""
    found: dict[str, int] = {}
    for place, response in enumerate(responses):
        found.setdefault(response.text, place)
    if shown is not None:
        found[responses[shown].text] = shown
    return sorted(found.values())


def _unknowing(places: Sequence[int], first: int, version: int = 0, trust: float = 0.0) -> Decision:
    """Without a posterior."""
    pair = _passive(places.index(first), len(places)) if len(places) > 1 else None
    return Decision(
        pair=None if pair is None else (places[pair[0]], places[pair[1]]),
        as_sampled=pair is not None and (places[pair[0]], places[pair[1]]) == (0, 1),
        best=first,
        information=0.0 if pair is None else IGNORANCE,
        belief=None,
        disagreement=None,
        typical_disagreement=None,
        regret_first=None,
        regret_best=None,
        regret_pair=None,
        posterior_version=version,
        trust=trust,
    )


def _passive(first: int, count: int) -> tuple[int, int]:
    """``first`` and the first other of ``count`` candidates."""
    return first, next(place for place in range(count) if place != first)


def _is_passive(look: Look, trust: float, key: str, shown: int | None) -> bool:
    """Whether the pair is taken whatever is believed of it: there is no opinion, or it is a test of what is believed
    beside a response that is shown."""
    if trust == 0.0:
        return shown is not None or look.mean_M is None or bool(look.mean_M.argmax() == look.mean_M.argmin())
    return shown is not None and bool(generator_for("test", key).random() < TESTS)


def _named(look: Look, trust: float, shown: int | None) -> tuple[int, int] | None:
    """The pair that the posterior names."""
    if trust > 0.0:
        return _thompson(look, shown)
    assert look.mean_M is not None  # without an opinion the pair is taken passively
    return int(look.mean_M.argmax()), int(look.mean_M.argmin())


def _thompson(look: Look, shown: int | None) -> tuple[int, int] | None:
    """What is shown, or the best of draw 0, and the best of the first draw that names another; None without such."""
    named = look.rewards_S_M.argmax(1).tolist()
    first = named[0] if shown is None else shown
    second = next((place for place in named if place != first), None)
    return None if second is None else (first, second)

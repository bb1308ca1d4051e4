"""One set of weights of transformers that many responses are drawn from at once, a token each a step."""

from collections.abc import Iterable, Sequence

import torch

from actors.hf_sampler import ELSEWHERE, ROUNDING, TRIALS, HfSampler, alone
from actors.live import LiveRequest
from actors.live_batch import Row, RowBatch
from sea_agent.config import PolicyConfig
from sea_agent.errors import UserError, first_line
from sea_agent.pretrained import ran_out_of_memory
from sea_agent.weights import checksum, saved_buffers

_FAULTS = (ValueError, TypeError, AttributeError, IndexError, KeyError, RuntimeError)
_STEPS = 4  # of a trial


class LivePolicy(HfSampler):
    """A sampler whose responses can begin and end at any step. Between steps weights may be loaded."""

    def __init__(self, policy: PolicyConfig, *, device: str) -> None:
        """Load the policy, and find by trial how far its rows can be computed together.

        Raises:
            UserError: it cannot be loaded, or a trial gives other log-probabilities than a pass without a cache.
        """
        super().__init__(policy, device=device)
        self.tokenizer, self.context, self.end_ids = self._tokenizer, self._context, self._end_ids
        self.vocabulary: int = self._model.get_input_embeddings().num_embeddings
        self._batches: list[RowBatch] = []
        self._joins, self._alone = True, self._group_of is alone
        self._find_mode(policy)

    @property
    def rows(self) -> list[Row]:
        """The rows that are being drawn."""
        return [row for batch in self._batches for row in batch.rows if not row.is_over]

    def begin(self, rows: Sequence[Row]) -> None:
        """Draw the first token of rows, from contexts that are computed here. Later steps draw the others."""
        groups: dict[object, list[Row]] = {}
        for row in rows:
            groups.setdefault(id(row) if self._alone else len(row.context), []).append(row)
        for group in groups.values():
            self._batches.append(RowBatch.begin(self._model, group, self._device))

    def step(self) -> list[Row]:
        """Draw the next token of all rows that began earlier, and return them."""
        self._tidy()
        for batch in self._batches:
            batch.step()
        return self.rows

    def drop(self, rows: Iterable[Row]) -> None:
        """Compute these rows no more."""
        for row in rows:
            row.is_over = True
        self._tidy()

    def own_weights(self) -> dict[str, torch.Tensor]:
        """The weights held, under the names that a learner publishes: tied ones once, and buffers that are saved."""
        return dict(self._model.named_parameters()) | dict(saved_buffers(self._model))

    def own_checksum(self) -> str:
        """``sea_agent.weights.checksum`` of ``own_weights``."""
        return checksum(self.own_weights())

    def _tidy(self) -> None:
        """Let rows that are over leave, and the others join."""
        alive = []
        for batch in self._batches:
            rows = [row for row in batch.rows if not row.is_over]
            if rows and len(rows) < len(batch.rows) and self._joins and batch.is_joinable:
                batch.keep(rows)
            if rows:
                alive.append(batch)
        joining = [batch for batch in alive if self._joins and batch.is_joinable]
        if len(joining) > 1:
            joining[0].join(joining[1:])
            alive = [batch for batch in alive if batch not in joining[1:]]
        self._batches = alive

    def _find_mode(self, policy: PolicyConfig) -> None:
        if self._context < max(TRIALS) + _STEPS or self.vocabulary <= max(TRIALS):
            return
        problem = ""
        for joins, is_alone in ((True, self._alone), (False, self._alone), (False, True)):
            self._joins, self._alone = joins, is_alone
            try:
                error = self._trial_error()
            except _FAULTS as fault:
                if ran_out_of_memory(fault):
                    raise
                problem = first_line(fault)
            else:
                if error <= ROUNDING[policy.dtype]:
                    return
                problem = f"with its cache it is off by {error:.2g} nats a token"
            finally:
                self._batches = []
        raise UserError(
            f"policy.path={policy.path}: transformers cannot draw step by step from {type(self._model).__name__} "
            f"({problem}). {ELSEWHERE}"
        )

    def _trial_error(self) -> float:
        """The largest difference, in nats, of what is drawn while rows join and leave to a pass without a cache."""
        rows = [
            Row(LiveRequest(str(place), tuple(range(1, length + 1)), _STEPS, 1.0, place))
            for place, length in enumerate(TRIALS)
        ]
        early, late = rows[::2], rows[1::2]
        self.begin(early)
        self.step()
        self.begin(late)
        self.step()
        self.drop(early[:1])
        self.step()
        scored = [self.logprobs([(row.request.prompt_ids, row.tokens)])[0] for row in rows]
        return max(
            abs(ours - theirs)
            for row, others in zip(rows, scored, strict=True)
            for ours, theirs in zip(row.logprobs, others, strict=True)
        )

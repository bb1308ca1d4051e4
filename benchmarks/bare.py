"""A loop of online DPO as a researcher would write it in one file: what benchmarks hold the framework beside.

It has no ids, no ledger, no checksum, no keyed randomness, and samples from the very model that it trains.
"""

from typing import Any

import torch
from torch.nn.functional import logsigmoid, pad

from sea_agent.config import RunConfig
from sea_agent.pretrained import load_policy, load_tokenizer
from sea_agent.types import Prompt, Response

Pair = tuple[Prompt, Response, Response]
"""A prompt with the chosen and the rejected response."""


class BarePolicy:
    """A policy, its reference and its optimizer."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.tokenizer = load_tokenizer(config.policy.path)
        self.model = load_policy(config.policy.path, config.policy.dtype, "cpu")
        self.reference = load_policy(config.policy.path, config.policy.dtype, "cpu").requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.learner.learning_rate, weight_decay=0.0)

    @torch.inference_mode()
    def sample(self, prompts: list[Prompt]) -> list[list[Response]]:
        """Distinct responses to each prompt by plain ``generate``."""
        count, settings = self.config.sampler.candidates, self.config.sampler
        width = max(len(prompt.token_ids) for prompt in prompts)
        ids = torch.tensor(
            [[self.tokenizer.pad_token_id] * (width - len(p.token_ids)) + list(p.token_ids) for p in prompts]
        ).repeat_interleave(count, 0)
        outputs = self.model.generate(
            input_ids=ids,
            attention_mask=(ids != self.tokenizer.pad_token_id).long(),
            do_sample=True,
            temperature=settings.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=settings.max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
        )[:, width:].tolist()
        groups: list[list[Response]] = []
        for row, prompt in enumerate(prompts):
            found: dict[str, Response] = {}
            for tokens in outputs[row * count : (row + 1) * count]:
                end = tokens.index(self.tokenizer.eos_token_id) + 1 if self.tokenizer.eos_token_id in tokens else None
                text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
                found.setdefault(text, Response("", prompt.id, text, tuple(tokens[:end]), (), 0))
            groups.append(list(found.values()))
        return groups

    def learn(self, pairs: list[Pair]) -> None:
        """One DPO step."""
        rows = [(p, chosen) for p, chosen, _ in pairs] + [(p, rejected) for p, _, rejected in pairs]
        width = max(len(p.token_ids) + len(r.token_ids) for p, r in rows)
        ids = torch.stack(
            [pad(torch.tensor(s), (0, width - len(s))) for s in ([*p.token_ids, *r.token_ids] for p, r in rows)]
        )
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for row, (p, r) in enumerate(rows):
            mask[row, len(p.token_ids) : len(p.token_ids) + len(r.token_ids)] = True

        def score(model: Any) -> torch.Tensor:
            logprobs = model(input_ids=ids, use_cache=False).logits[:, :-1].log_softmax(-1)
            return (logprobs.gather(2, ids[:, 1:, None])[..., 0] * mask[:, 1:]).sum(1)

        policy = score(self.model)
        with torch.no_grad():
            reference = score(self.reference)
        gain = (policy - reference).view(2, -1)
        loss = -logsigmoid(self.config.learner.beta * (gain[0] - gain[1])).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.learner.max_grad_norm)
        self.optimizer.step()

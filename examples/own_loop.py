"""Online alignment in a loop of one's own: sampler, features, posterior, rule and learner; no agent, no runtime."""

import torch

from actors.hf_sampler import HfSampler
from actors.sampling import SampleRequest
from learner.learner import PreferenceLearner
from sea_agent.bandit import Ensemble, pad_candidates, select_pairs
from sea_agent.config import LearnerConfig, PolicyConfig, PromptsConfig
from sea_agent.data.prompts import PromptSource
from sea_agent.features import PolicyFeatures
from sea_agent.pretrained import load_tokenizer
from sea_agent.seeding import generator_for, seed_for
from sea_agent.types import Candidates, LabelSource, Preference
from sea_agent.worlds import resolve, scorer

ROUNDS, PROMPTS, SAMPLES, TOKENS = 10, 16, 6, 14
policy, reward = PolicyConfig(path=resolve("world://lexicon/policy")), scorer("lexicon", "reward")
where, tokenizer = PromptsConfig(path=resolve("world://lexicon/prompts.jsonl")), load_tokenizer(policy.path)
source = PromptSource(where, tokenizer, context_length=64, max_new_tokens=TOKENS, seed=0)
sampler, features = HfSampler(policy, device="cpu"), PolicyFeatures(policy)
learner = PreferenceLearner(policy, LearnerConfig(beta=0.3, learning_rate=2e-3), total_steps=ROUNDS)
posterior, means = Ensemble(features.dimension), []
for number in range(ROUNDS):
    prompts = source.next(PROMPTS)
    keys = [(prompt, (number, prompt.id, sample)) for prompt in prompts for sample in range(SAMPLES)]
    responses = sampler.sample([SampleRequest(str(key), p, seed_for(*key), 0.7, TOKENS) for p, key in keys])
    groups = [Candidates.distinct(prompt, [r for r in responses if r.prompt_id == prompt.id]) for prompt in prompts]
    groups = [group for group in groups if len(group.responses) > 1]  # a duel needs two different responses
    rows, counts = [(g.prompt, r) for g in groups for r in g.responses], [len(g.responses) for g in groups]
    rewards_N = torch.tensor([reward(prompt.text, response.text) for prompt, response in rows])
    features_P_M_D, valid_P_M = pad_candidates(features.features(rows).split(counts))
    pairs_P_2 = select_pairs("sea_ee", posterior.draw(features_P_M_D), valid_P_M, generator_for("rule", number))
    rewards_P_2 = pad_candidates(rewards_N.split(counts))[0].gather(1, pairs_P_2)
    pairs_P_2 = pairs_P_2.gather(1, rewards_P_2.argsort(1, descending=True))  # the oracle puts the better one first
    first_P_D, second_P_D = features_P_M_D[torch.arange(len(groups)), pairs_P_2.T]
    posterior.add(first_P_D, second_P_D, torch.ones(len(groups)))
    posterior.update()
    sides = [(g.prompt, g.responses[a], g.responses[b]) for g, (a, b) in zip(groups, pairs_P_2.tolist(), strict=True)]
    learner.step([Preference(str(place), *side, LabelSource.ORACLE) for place, side in enumerate(sides)])
    sampler.load_weights(learner.weights())
    means.append(float(rewards_N.mean()))
    print(f"round {number}: mean reward of the responses {means[-1]:.2f}")
assert sum(means[-3:]) / 3 > means[0] + 0.3

"""What publishing new weights costs on a CPU, beside copying them out of the learner and into the sampler.

    python -m benchmarks.publishing [--repeats 9]

A random Llama of a quarter of a billion weights, 1 GB in float32, on one core. Publishing and copying take turns; the
ratio is that of CPU seconds within a turn.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from actors.hf_sampler import HfSampler
from learner.learner import PreferenceLearner
from sea_agent.config import LearnerConfig, PolicyConfig
from sea_agent.pretrained import use_threads

SHAPE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 14, "num_attention_heads": 16}
WORDS = 16_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    use_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = make_policy(Path(folder))
        learner = PreferenceLearner(path, LearnerConfig(loss="simpo"), total_steps=1)
        sampler = HfSampler(path, device="cpu")
    held = sampler._model.state_dict()

    def publish() -> None:
        update = learner.weights()
        assert update is not None
        assert sampler.load_weights(update) == update.checksum

    def copy() -> None:
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in learner._parameters()}
        for name, tensor in copies.items():
            held[name].copy_(tensor)

    publish()
    copy()
    turns = [(seconds(publish), seconds(copy)) for _ in range(repeats)]
    ratios = sorted(published / copied for published, copied in turns)
    gigabytes = sum(tensor.nbytes for tensor in held.values()) / 1e9
    published, copied = (statistics.median(column) for column in zip(*turns, strict=True))
    print(f"{gigabytes:.2f} GB: publishing {published:.2f} CPU s, copying {copied:.2f}")
    print(f"ratio {statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}")


def make_policy(folder: Path) -> PolicyConfig:
    """A random policy on disk."""
    LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, max_position_embeddings=64, **SHAPE)).save_pretrained(folder)
    words = {f"w{number}": number for number in range(WORDS)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words)), eos_token="w0").save_pretrained(folder)
    return PolicyConfig(path=str(folder))


def seconds(function: Callable[[], None]) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    function()
    return time.process_time() - began


if __name__ == "__main__":
    main()

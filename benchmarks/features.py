"""What the text features of a batch take of memory beyond the model, at a large vocabulary.

    python -m benchmarks.features [--vocabulary 150000] [--rows 256] [--tokens 320]

A random policy of one small layer, so that nearly all is the vocabulary's. `rows` responses of half of `tokens` after
prompts of the other half; the peak of the process's memory above what it holds with the model loaded.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sea_agent.config import PolicyConfig
from sea_agent.features.text import TextFeatures
from sea_agent.pretrained import use_threads
from sea_agent.types import Prompt, Response

SHAPE = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def make_policy(folder: Path, vocabulary: int, tokens: int) -> PolicyConfig:
    """Random, with a word for each token."""
    words = {"<end>": 0} | {f"w{index}": index for index in range(1, vocabulary)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words)), eos_token="<end>")
    config = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=tokens, eos_token_id=0, **SHAPE)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return PolicyConfig(path=str(folder))


def memory(name: str) -> int:
    """Bytes that the process holds (``VmRSS``), or held at most since the last reset (``VmHWM``)."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=320)
    arguments = parser.parse_args()
    use_threads(1)
    generator, half = np.random.default_rng(0), arguments.tokens // 2
    with tempfile.TemporaryDirectory() as folder:
        policy = make_policy(Path(folder), arguments.vocabulary, arguments.tokens)
        features = TextFeatures(policy, batch=arguments.rows)

    def pair(number: int) -> tuple[Prompt, Response]:
        ids = tuple(generator.integers(1, arguments.vocabulary, 2 * half).tolist())
        prompt = Prompt(f"p{number}", "", ids[:half])
        return prompt, Response(f"r{number}", prompt.id, "", ids[half:], (0.0,) * half, 0)

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory("VmRSS")
    features.features([pair(number) for number in range(arguments.rows)])
    beyond = memory("VmHWM") - before
    whole = 4 * arguments.rows * arguments.tokens * arguments.vocabulary
    print(f"{beyond / 2**30:.2f} GiB beyond the model; all logits at once would be {whole / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()

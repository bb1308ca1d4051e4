"""CPU seconds of a step of passive online DPO: sea-agent, TRL's ``OnlineDPOTrainer``, and a bare loop, in turns.

    python -m benchmarks.passive [--shapes 0.2M:8x32 ...] [--seconds 120] [--markdown]

Each loop has a process of its own with one thread, the same random Llama, the same prompts and the same scores; two
responses to a prompt, no evaluation, no checkpoint, gradient checkpointing off (TRL's default is on), and a learning
rate at which responses stay as long as they were. One step of each is a block, in an order that turns from block to
block, so the ratios hold when the machine's speed drifts.

Writes ``benchmarks/results/passive.json``: medians, and 95 % intervals of the median ratios over blocks.
"""

import argparse
import json
import os
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.keeping import keep

RESULTS = Path(__file__).parent / "results" / "passive.json"
POLICIES = {
    "0.2M": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4},
    "10M": {"hidden_size": 320, "intermediate_size": 1280, "num_hidden_layers": 5, "num_attention_heads": 8},
}
WORDS = {"0.2M": 1_000, "10M": 4_000}
SHAPES = tuple(f"{policy}:{batch}" for policy in POLICIES for batch in ("8x32", "32x32", "128x32", "32x128"))
SPECIAL = ("<end>", "<pad>", "<unknown>")
PROMPTS, PROMPT_WORDS = 512, 8
WARM_STEPS, LEAST_BLOCKS, MOST_BLOCKS = 2, 5, 60
STEP_SECONDS = 600.0  # the longest that a step is waited for


@dataclass(frozen=True)
class Shape:
    """A policy, and how many pairs of how many tokens a step has."""

    policy: str
    pairs: int
    tokens: int

    @staticmethod
    def of(text: str) -> "Shape":
        """Of ``10M:32x128``. Raises: ValueError for anything else."""
        found = re.fullmatch(r"([\w.]+):(\d+)x(\d+)", text)
        if not found or found[1] not in POLICIES:
            raise ValueError(f"{text}: not like {SHAPES[0]}, with a policy of {', '.join(POLICIES)}")
        return Shape(found[1], int(found[2]), int(found[3]))


def score(text: str) -> float:
    """What is better: the share of words with an even number."""
    words = text.split()
    return sum(word[-1] in "02468" for word in words) / max(1, len(words))


def compare(duels: list[dict[str, Any]]) -> list[float]:
    """The oracle of sea-agent."""
    return [float(score(duel["first"]) > score(duel["second"])) for duel in duels]


# --- the loops: each waits for `go` before every step, and loads only what it needs itself ---------------------------


def ours(folder: Path, shape: Shape, go: Callable[[], None]) -> None:
    """The preset ``passive``."""
    from actors.runtime import InlineRuntime
    from sea_agent.persistence.ledger import Ledger
    from sea_agent.run.assembly import assemble
    from sea_agent.run.preflight import check

    config = passive(folder, shape)
    with Ledger(folder / "ledger.sqlite") as ledger:
        agent = assemble(config, check(config), InlineRuntime(), ledger)
        while True:
            go()
            agent.round()


def bare(folder: Path, shape: Shape, go: Callable[[], None]) -> None:
    """As a researcher would write it in one file."""
    from benchmarks.bare import BarePolicy
    from sea_agent.run.preflight import check

    config = passive(folder, shape)
    policy, prompts = BarePolicy(config), check(config).prompts
    assert prompts is not None
    while True:
        go()
        batch = prompts.next(config.batch_size)
        ordered = [sorted(group[:2], key=lambda response: -score(response.text)) for group in policy.sample(batch)]
        policy.learn([(prompt, chosen, rejected) for prompt, (chosen, rejected) in zip(batch, ordered, strict=True)])


def trl(folder: Path, shape: Shape, go: Callable[[], None]) -> None:
    """TRL's trainer with its transformers back end."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    class Turns(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            go()

    config = passive(folder, shape)
    settings = OnlineDPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=shape.pairs,
        max_steps=1_000_000,
        learning_rate=config.learner.learning_rate,
        lr_scheduler_type="constant",
        beta=config.learner.beta,
        temperature=config.sampler.temperature,
        max_new_tokens=shape.tokens,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = OnlineDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(config.policy.path),
        reward_funcs=lambda completions, **_: [score(text) for text in completions],
        args=settings,
        train_dataset=Dataset.from_json(str(folder / "prompts.jsonl"), cache_dir=str(folder)),
        processing_class=AutoTokenizer.from_pretrained(config.policy.path),
        callbacks=[Turns()],
    )
    go()
    trainer.train()


LOOPS = {"bare": bare, "sea-agent": ours, "TRL": trl}


def passive(folder: Path, shape: Shape) -> Any:
    """The configuration of all loops."""
    from sea_agent.config.files import load_config

    return load_config(
        "passive",
        [
            f"policy.path={folder / 'policy'}",
            f"prompts.path={folder / 'prompts.jsonl'}",
            f"evaluation.prompts_path={folder / 'prompts.jsonl'}",
            "evaluation.judge=null",
            f"batch_size={shape.pairs}",
            "sampler.candidates=2",
            f"sampler.max_new_tokens={shape.tokens}",
            f"sampler.chunk={2 * shape.pairs}",
            "sampler.temperature=1.0",
            "oracle.kind=python",
            f"oracle.target={Path(__file__)}:compare",
            "learner.learning_rate=1.0e-6",
            "budget.oracle_queries=100000000",
            "threads=1",
        ],
    )


def serve(name: str, folder: Path, shape: Shape, parent: Connection) -> None:
    """A loop in its own process, which tells what each step has cost when the next one is asked for."""
    from sea_agent.pretrained import use_threads

    use_threads(1)
    began: float | None = None

    def go() -> None:
        nonlocal began
        if began is not None:
            spent = time.process_time() - began
            parent.send((spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3))
        parent.recv()
        began = time.process_time()

    LOOPS[name](folder, shape, go)


# --- measuring ------------------------------------------------------------------------------------------------------


def make_inputs(folder: Path, shape: Shape) -> None:
    """A random policy and random prompts."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = WORDS[shape.policy]
    ends = {"eos_token_id": 0, "pad_token_id": 1, "bos_token_id": None}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=words, max_position_embeddings=256, **ends, **POLICIES[shape.policy])
    )
    model.save_pretrained(folder / "policy")
    vocabulary = [*SPECIAL, *(f"w{number}" for number in range(len(SPECIAL), words))]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token=SPECIAL[2]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    saved = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[0], pad_token=SPECIAL[1])
    saved.save_pretrained(folder / "policy")
    drawn = np.random.default_rng(0).integers(len(SPECIAL), words, (PROMPTS, PROMPT_WORDS))
    rows = [json.dumps({"prompt": " ".join(f"w{word}" for word in row)}) + "\n" for row in drawn]
    (folder / "prompts.jsonl").write_text("".join(rows), encoding="utf-8")


def measure(shape: Shape, seconds: float) -> dict[str, Any]:
    """Blocks for so many seconds of all loops together."""
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, shape)
        ends, processes = {}, []
        for loop in LOOPS:
            ends[loop], theirs = context.Pipe()
            processes.append(context.Process(target=serve, args=(loop, folder, shape, theirs), daemon=True))
            processes[-1].start()
        try:
            blocks = list(islice(_blocks(ends, seconds), WARM_STEPS, MOST_BLOCKS + WARM_STEPS))
        finally:
            for process in processes:
                process.kill()
                process.join()
    spent = {loop: np.array([block[loop][0] for block in blocks]) for loop in LOOPS}
    return {
        "blocks": len(blocks),
        "ms_per_pair": {loop: float(np.median(each)) * 1e3 / shape.pairs for loop, each in spent.items()},
        "peak_mb": {loop: blocks[-1][loop][1] for loop in LOOPS},
        "to_bare": asdict(ratio(spent["sea-agent"], spent["bare"])),
        "to_trl": asdict(ratio(spent["sea-agent"], spent["TRL"])),
    }


def _blocks(ends: dict[str, Connection], seconds: float) -> Any:
    """What each loop's step cost in CPU seconds, and its peak memory in MB, block by block."""
    names, began, number = list(ends), time.monotonic(), 0
    while number < WARM_STEPS + LEAST_BLOCKS or time.monotonic() - began < seconds:
        block = {}
        for name in names[number % 3 :] + names[: number % 3]:
            ends[name].send(None)
            if not ends[name].poll(STEP_SECONDS):
                raise TimeoutError(f"{name}: a step took more than {STEP_SECONDS:g} s")
            block[name] = ends[name].recv()
        number += 1
        yield block


@dataclass(frozen=True)
class Ratio:
    """The median over blocks, with a 95 % interval by the bootstrap over blocks."""

    median: float
    low: float
    high: float


def ratio(ours: np.ndarray, theirs: np.ndarray) -> Ratio:
    """Of steps in the same blocks."""
    each = ours / theirs
    interval = stats.bootstrap(
        (each,), np.median, rng=np.random.default_rng(0), method="percentile"
    ).confidence_interval
    return Ratio(statistics.median(each), *interval)


def markdown(results: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "| policy, pairs × tokens | blocks | CPU ms a pair: bare, sea-agent, TRL | to bare | to TRL | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in results.items():
        cost = [f"{one['ms_per_pair'][loop]:.3g}" for loop in LOOPS]
        memory = [f"{one['peak_mb'][loop]:.0f}" for loop in LOOPS]
        ratios = [f"{r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in (one["to_bare"], one["to_trl"])]
        shape = name.replace(":", ", ").replace("x", " × ")
        lines.append("| " + " | ".join([shape, str(one["blocks"]), ", ".join(cost), *ratios, ", ".join(memory)]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="POLICY:PAIRSxTOKENS")
    parser.add_argument("--seconds", type=float, default=120.0, help="of each shape, warm-up included")
    parser.add_argument("--markdown", action="store_true", help="print what was measured last")
    given = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if not given.markdown:
        os.environ["OMP_NUM_THREADS"] = "1"
        for name in given.shapes:
            results[name] = measure(Shape.of(name), given.seconds)
            print(markdown({name: results[name]}), flush=True)
            keep(RESULTS, results)
    print(markdown({name: results[name] for name in SHAPES if name in results}))


if __name__ == "__main__":
    main()

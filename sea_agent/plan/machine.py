"""What a run is planned for: GPUs, who answers, and the policy's size."""

from pathlib import Path
from typing import Annotated, ClassVar

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from sea_agent.config.files import valid_keys, validate
from sea_agent.config.section import Section
from sea_agent.errors import UserError


class Gpu(Section):
    """One GPU. Peaks are those of the data sheet."""

    flops: PositiveFloat
    """Dense bfloat16 operations a second."""
    bandwidth: PositiveFloat
    """Bytes of its memory read a second."""
    memory: PositiveFloat
    """Bytes."""


GPUS = {
    "a100-40": Gpu(flops=312e12, bandwidth=1.56e12, memory=40e9),
    "a100-80": Gpu(flops=312e12, bandwidth=2.04e12, memory=80e9),
    "h100": Gpu(flops=989e12, bandwidth=3.35e12, memory=80e9),
    "h200": Gpu(flops=989e12, bandwidth=4.8e12, memory=141e9),
}
"""By NVIDIA's data sheets."""


_Seconds = Annotated[float, Field(gt=0.0, le=1e6)]
_Spread = Annotated[float, Field(ge=0.0, le=3.0)]


class People(Section):
    """Annotators. Each answers one duel after the other; the times are log-normal."""

    annotators: PositiveInt = 10
    """How many work at the same hours."""
    seconds: _Seconds = 30.0
    """Median seconds for an answer."""
    spread: _Spread = 0.6
    """Standard deviation of its logarithm."""
    hours_a_day: Annotated[float, Field(ge=0.1, le=24.0)] = 8.0
    """Hours a day that they work; the run waits for the rest of the day."""
    price: NonNegativeFloat = 0.0
    """$ for an answer."""

    @property
    def at_once(self) -> int:
        """How many answers are worked on side by side."""
        return self.annotators

    @property
    def day_share(self) -> float:
        """The part of a day in which they work."""
        return self.hours_a_day / 24


class Judge(Section):
    """An oracle that answers by itself, such as an LLM behind an API. An answer of ``llm_judge`` is two requests, one
    for each order."""

    parallel: PositiveInt = 8
    """Answers at once."""
    seconds: _Seconds = 4.0
    """Median seconds for an answer."""
    spread: _Spread = 0.3
    """Standard deviation of its logarithm."""
    price: NonNegativeFloat = 0.0
    """$ for an answer."""
    day_share: ClassVar[float] = 1.0

    @property
    def at_once(self) -> int:
        """How many answers are worked on side by side."""
        return self.parallel


class Shape(Section):
    """The policy's size, where its files are not at hand."""

    weights: PositiveFloat
    """Number of weights."""
    layers: PositiveInt
    """Transformer layers."""
    width: PositiveInt
    """Hidden units."""
    vocabulary: PositiveInt
    """Tokens."""


def _by_name(gpu: object) -> object:
    if not isinstance(gpu, str):
        return gpu
    if gpu not in GPUS:
        raise ValueError(f"expected one of {', '.join(GPUS)}, or flops, bandwidth and memory of another")
    return GPUS[gpu]


class Machine(Section):
    """The file of ``--machine``."""

    gpu: Annotated[Gpu | None, BeforeValidator(_by_name)] = None
    """A name from ``GPUS``, or the figures of another. Without it the stages have to come from a recorded run."""
    gpus: NonNegativeInt = 0
    """GPUs on each node."""
    nodes: PositiveInt = 1
    """Nodes."""
    price: NonNegativeFloat = 0.0
    """$ for an hour of one GPU."""
    people: People | None = None
    """Who answers, where it is people."""
    judge: Judge | None = None
    """Who answers, where it is something that takes its time. With neither, answers take what a recorded run took."""
    policy: Shape | None = None
    """Read from ``policy.path`` by default."""
    prompt_tokens: PositiveInt = 512
    """Mean tokens of a prompt."""
    response_tokens: PositiveInt | None = None
    """Mean tokens of a response; ``sampler.max_new_tokens`` by default."""

    @property
    def workers(self) -> People | Judge | None:
        """Who answers, where it is not the recorded oracle."""
        return self.people or self.judge

    @model_validator(mode="after")
    def _one_kind_answers(self) -> "Machine":
        if self.people is not None and self.judge is not None:
            raise ValueError("give people or judge, whoever answers, and not both")
        return self


def load_machine(path: Path) -> Machine:
    """Read the file. Raises: UserError, naming file and key, when it is none."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--machine {path}: cannot be read as UTF-8 text ({error})") from None
    except (yaml.YAMLError, ValueError) as error:  # the latter for a date that is none
        raise UserError(f"--machine {path}: not YAML ({error})") from None
    if not isinstance(tree, dict):
        raise UserError(f"--machine {path}: expected keys such as gpu and gpus; docs/plan.md has an example")
    return validate(
        Machine, tree, f"{path}: not a machine", list(valid_keys(Machine, tree)), "docs/plan.md names all keys"
    )

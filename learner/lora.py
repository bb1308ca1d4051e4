"""Low-rank adapters (peft). The base model is the reference; published weights are merged copies.

The base weights never change: merged weights are computed when read.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from sea_agent.errors import UserError, first_line
from sea_agent.seeding import seed_for

if TYPE_CHECKING:
    from peft import PeftModel

    from sea_agent.config import LoraConfig

Tensor = torch.Tensor
_ADAPTER = "default"


def add_adapters(model: Any, config: "LoraConfig", seed: int) -> "PeftModel":
    """The model with new adapters, which are the identity until trained; all other weights are frozen.

    Raises:
        UserError: ``learner.lora.targets`` names no module of the model.
    """
    import peft  # a second of every start, which runs without adapters do not wait for

    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "lora"))
        try:
            return peft.get_peft_model(model, settings, autocast_adapter_dtype=False).eval()
        except ValueError as error:
            raise UserError(
                f"learner.lora.targets={config.targets!r} does not fit the policy: {first_line(error)}"
            ) from None


def merged_parameters(model: "PeftModel", gathered: Callable[..., Any]) -> Iterator[tuple[str, Tensor]]:
    """The policy's weights under their Hugging Face names, one at a time, with the adapters merged in.

    ``gathered(parameters)`` is the engine's context in which parameters hold their full values.
    """
    base = model.get_base_model()
    for name, parameter in base.named_parameters():
        owner, _, inner = name.partition(".base_layer.")
        if inner == "weight":
            layer = base.get_submodule(owner)
            with gathered(list(layer.parameters())):
                delta = layer.get_delta_weight(_ADAPTER).detach()
                yield f"{owner}.weight", parameter.detach() + delta.to(parameter.dtype)
        elif not any(part.startswith("lora_") for part in name.split(".")):
            with gathered([parameter]):
                yield f"{owner}.{inner}" if inner else name, parameter.detach()

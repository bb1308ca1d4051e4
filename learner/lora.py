"""Low-rank adapters (peft). The base model is the reference; published weights are merged copies.

The base weights never change: merged weights are computed when read.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from sea_agent.errors import UserError, first_line
from sea_agent.pretrained import skeleton
from sea_agent.seeding import seed_for

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    from sea_agent.config import LoraConfig, PolicyConfig

Tensor = torch.Tensor
_ADAPTER = "default"
# Layers that multiply by their weight as a plain layer does, in a forward pass of their own.
_PLAIN = ("FalconLinear",)


def add_adapters(model: Any, config: "LoraConfig", seed: int) -> "PeftModel":
    """The model with new adapters, which are the identity until trained; all other weights are frozen.

    Raises:
        UserError: ``learner.lora.targets`` names no module of the model, or one whose adapter cannot be merged into
            the model's weights.
    """
    import peft  # a second of every start, which runs without adapters do not wait for

    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft warns of ties, which are refused below, and of settings that it corrects itself.
        warnings.filterwarnings("ignore", module="peft")
        torch.manual_seed(seed_for(seed, "lora"))
        try:
            adapted = peft.get_peft_model(model, settings, autocast_adapter_dtype=False).eval()
        except (ValueError, re.error) as error:  # one name is a regular expression
            whole = re.match(r"Target module (\w+)\(", str(error))
            reason = first_line(error)
            if whole:
                reason = f"it names a {whole[1]}, which is no linear layer or embedding. Name the layers inside it."
            raise UserError(f"learner.lora.targets={config.targets!r} does not fit the policy: {reason}") from None
    _refuse_unmergeable(adapted.get_base_model(), config)
    return adapted


def check_adapters(policy: "PolicyConfig", config: "LoraConfig") -> None:
    """Add adapters to the policy's modules without its weights.

    Raises:
        UserError: see ``add_adapters``.
    """
    with torch.device("meta"):
        add_adapters(skeleton(policy.path, policy.dtype), config, seed=0)


def base_name(name: str) -> str:
    """The name in the base model of a tensor of the model with adapters."""
    return name.replace(".base_layer", "")


def merged_parameters(model: "PeftModel", gathered: Callable[..., Any]) -> Iterator[tuple[str, Tensor]]:
    """The policy's weights under their Hugging Face names, one at a time, with the adapters merged in.

    ``gathered(parameters)`` is the engine's context in which parameters hold their full values.
    """
    base = model.get_base_model()
    adapted = {id(_adapted(layer)): layer for layer in _adapters(base).values()}
    for name, parameter in base.named_parameters():
        if any(part.startswith("lora_") for part in name.split(".")):
            continue
        layer = adapted.get(id(parameter))
        with gathered([parameter] if layer is None else list(layer.parameters())):
            value = parameter.detach()
            if layer is not None:
                value = value + layer.get_delta_weight(_ADAPTER).detach().to(value.dtype)
            yield base_name(name), value


def _adapters(base: Any) -> "dict[str, LoraLayer]":
    """Every adapter by the name of its module; those of several parameters of one module enclose each other."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}


def _adapted(layer: "LoraLayer") -> Tensor:
    """The weight of the base model to which the adapter adds: one parameter of a module of experts, or a layer's."""
    from peft.tuners.lora.layer import ParamWrapper

    return layer.get_param() if isinstance(layer, ParamWrapper) else layer.get_base_layer().weight


def _refuse_unmergeable(base: Any, config: "LoraConfig") -> None:
    """Refuse adapters that a merged copy of the base model's weights cannot express."""
    names: dict[int, list[str]] = {}
    for name, parameter in base.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(base_name(name))
    for module, layer in _adapters(base).items():
        shared = names[id(_adapted(layer))]
        if len(shared) > 1:
            raise UserError(
                f"learner.lora.targets={config.targets!r} adapts {base_name(module)}, and {' and '.join(shared)} are "
                "one tensor in this policy: an adapter on one of them makes them two, which the saved policy could not "
                f"hold. {_leave_out(config)}, or train all weights with learner.lora=null."
            )
        if _is_special(layer.get_base_layer()):
            raise UserError(
                f"learner.lora.targets={config.targets!r} adapts {base_name(module)}, a "
                f"{type(layer.get_base_layer()).__name__}, which does more than multiply by its weight, so an adapter "
                f"beside it cannot be merged into that weight. {_leave_out(config)}."
            )


def _leave_out(config: "LoraConfig") -> str:
    if config.targets == "all-linear":
        return "Give learner.lora.targets a list of the other layers' names, such as [q_proj, v_proj]"
    return "Leave it out of learner.lora.targets"


def _is_special(layer: torch.nn.Module) -> bool:
    """Whether a linear layer or an embedding has a forward pass of its own that peft does not know."""
    for plain in (torch.nn.Linear, torch.nn.Embedding):
        if isinstance(layer, plain) and type(layer).forward is not plain.forward:
            # peft multiplies by this scale too, if it is a tensor.
            is_scaled = isinstance(getattr(layer, "embed_scale", None), Tensor)
            return type(layer).__name__ not in _PLAIN and not is_scaled
    return False

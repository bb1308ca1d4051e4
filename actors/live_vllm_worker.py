"""What a live engine adds to vLLM's worker, in vLLM's own process: weights from files, the checksum of what is held,
and an end when the engine ends.

``actors.vllm_sampler`` explains what the checksum proves.
"""

import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from actors.vllm_sampler import (
    check_ties,
    first_names_of,
    locate,
    read_back,
    repack_heads,
    with_signs_of_zero,
    without_compiler,
)
from sea_agent.pretrained import load_policy, skeleton
from sea_agent.weights import checksum, saved_buffers

without_compiler()


def _end_with_parent() -> None:
    """Left alone by a killed engine, vLLM's process would wait for ever, and hold its memory and GPU."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


threading.Thread(target=_end_with_parent, daemon=True).start()


class WeightKeeper:
    """A ``worker_extension_cls``: its methods become the worker's, and are called by name. They return texts."""

    model_runner: Any
    reload_weights: Any

    def sea_start(self, path: str, dtype: str) -> str:
        """Find the weights of the policy in vLLM's model; the checksum of what is held.

        Raises:
            UserError: they cannot be found in it.
        """
        self._sea_path, self._sea_dtype = path, dtype
        self._sea_skeleton = skeleton(path, dtype)
        shapes = {name: tensor.shape for name, tensor in self._sea_skeleton.state_dict().items()}
        self._sea_places = locate(self.model_runner.get_model(), shapes, first_names_of(self._sea_skeleton))
        return self._sea_checksum(self._sea_initial())

    def sea_hold(self, directory: str | None) -> str:
        """Load the weights of a directory, or the initial ones, in place; the checksum of what is held then.

        Raises:
            RunFailure: tied weights differ.
        """
        tensors = self._sea_initial() if directory is None else load_file(Path(directory) / "model.safetensors")
        self.reload_weights(weights_iterator=list(tensors.items()))
        repack_heads(self.model_runner.get_model())
        return self._sea_checksum(tensors)

    def _sea_checksum(self, sent: dict[str, torch.Tensor]) -> str:
        held = read_back(self.model_runner.get_model(), self._sea_places)
        check_ties(held, self._sea_skeleton)
        return checksum({name: with_signs_of_zero(held[name], tensor) for name, tensor in sent.items()})

    def _sea_initial(self) -> dict[str, torch.Tensor]:
        """The policy as read from disk, under the names that a learner publishes."""
        model = load_policy(self._sea_path, self._sea_dtype, "cpu")
        named = dict(model.named_parameters()) | dict(saved_buffers(model))
        return {name: tensor.detach() for name, tensor in named.items()}

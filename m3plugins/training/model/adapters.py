"""LoRA on the encoder, by peft, and its merging."""

from __future__ import annotations

from torch import Tensor, nn

_NAME = "default"


def add_lora(encoder: nn.Module, *, rank: int, alpha: float, dropout: float) -> None:
    """Freezes the encoder and adds LoRA matrices (arXiv 2106.09685) to all its linear layers, in place."""
    from peft import LoraConfig, inject_adapter_in_model

    encoder.requires_grad_(False)
    targets = [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
    inject_adapter_in_model(config, encoder, adapter_name=_NAME)


def merged_state(encoder: nn.Module) -> dict[str, Tensor]:
    """Returns the encoder's state with each adapter added to its weight; the encoder itself does not change."""
    state = {name.replace(".base_layer.", "."): tensor for name, tensor in encoder.state_dict().items()}
    for name, module in encoder.named_modules():
        if hasattr(module, "lora_A"):
            weight = f"{name}.weight"
            state[weight] = state[weight] + module.get_delta_weight(_NAME)
    return {name: tensor for name, tensor in state.items() if ".lora_" not in name}

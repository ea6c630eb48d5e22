"""Which numbers of ranks can share a checkpoint, read off its config.json."""

from __future__ import annotations

import pytest

from psych_ray.checkpoints.tensor_parallel_sizes import possible_ranks, require_divisible
from psych_ray.errors import CheckpointError

LLAMA = {"model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336}
EXPERTS = LLAMA | {"model_type": "qwen3_moe", "intermediate_size": 6144, "moe_intermediate_size": 768}


@pytest.mark.parametrize(
    ("config", "possible"),
    [
        (LLAMA, [1, 2, 4, 8]),
        (LLAMA | {"num_key_value_heads": None}, [1, 2, 4, 8, 16]),
        (LLAMA | {"num_key_value_heads": 3}, [1]),
        (LLAMA | {"intermediate_size": 14338}, [1, 2]),
        (EXPERTS, [1, 2, 4, 8]),
        (EXPERTS | {"moe_intermediate_size": 24}, [1]),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "intermediate_size": 10240}}, [1, 2, 4]),
        ({"model_type": "mistral3", "text_config": LLAMA | {"model_type": "mistral"}}, [1, 2, 4, 8]),
        ({"model_type": "qwen3_5", "text_config": LLAMA | {"model_type": "qwen3_5_text"}}, []),
        (LLAMA | {"quantization_config": {"quant_method": "awq"}}, []),
        ({"architectures": ["Unheard"]}, []),
    ],
)
def test_possible_ranks(config, possible):
    assert possible_ranks(config, 16) == possible
    for n_ranks in range(1, 17):
        if n_ranks in possible:
            require_divisible(config, n_ranks, "x")
        else:
            with pytest.raises(CheckpointError, match=r"^x: .*scoring\.engine=") as caught:
                require_divisible(config, n_ranks, "x")
            assert "\n" not in str(caught.value)


def test_what_does_not_divide_is_named():
    with pytest.raises(CheckpointError) as caught:
        require_divisible(LLAMA, 3, "some/llama")
    assert str(caught.value) == (
        "some/llama: its 32 attention heads do not divide over 3 ranks; scoring.engine=deepspeed_tp takes 1, 2, 4 or 8 "
        "ranks here, scoring.engine=deepspeed_zero any number"
    )

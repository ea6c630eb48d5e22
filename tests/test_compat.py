"""Each private or undocumented interface of a library is still there, and does what `psych_ray.compat` relies on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pkgutil import iter_modules
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from psych_ray import compat
from psych_ray.compat.deepspeed import disable_shared_memory_all_reduce, has_async_io, is_tensor_parallel
from psych_ray.compat.matplotlib import pdf_fonts_without_layout
from psych_ray.compat.openmp import openmp_spins_briefly
from psych_ray.compat.ray import (
    local_ray_options,
    ray_keeps_signal_handlers,
    ray_on_loopback,
    ray_token,
    ray_with_few_processes,
    was_preempted,
)
from psych_ray.compat.torch import (
    has_onednn_linear,
    is_connection_lost,
    is_out_of_memory,
    onednn_linear,
    parameter_hook,
)
from psych_ray.compat.transformers import (
    causal_model_classes,
    conversion_errors,
    ignore_weights_on_load,
    is_tokenizers_error,
    load_weights_one_by_one,
    render_chat_template,
    restore_embedding_scale,
    sdpa_attention,
    text_decoder,
    weights_ignored_on_load,
)

CONFIG: dict[str, Any] = {
    "vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 4, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def tiny(architecture: str = "Llama") -> transformers.PreTrainedModel:
    config = getattr(transformers, f"{architecture}Config")(**CONFIG)
    return transformers.AutoModelForCausalLM.from_config(config)


def parameter_registration_hook() -> bool:
    seen = []
    with parameter_hook(lambda module, name, weight: seen.append(name)):
        nn.Linear(2, 2)
    nn.Linear(2, 2)
    return seen == ["weight", "bias"]


def linear_pointwise() -> bool:
    rows, weight, bias = torch.randn(3, 4), torch.randn(2, 4), torch.randn(2)
    return torch.allclose(onednn_linear(rows, weight, bias), nn.functional.linear(rows, weight, bias), atol=1e-5)


def host_out_of_memory() -> bool:
    try:
        torch.empty(2**60, dtype=torch.uint8)
    except RuntimeError as error:
        return is_out_of_memory(error)
    return False


def varlen_arguments() -> bool:
    from inspect import signature

    from torch.nn.attention.varlen import varlen_attn

    names = list(signature(varlen_attn).parameters)
    return len(names[:7]) == 7 and {"scale", "window_size"} <= set(names[7:])


def decoder() -> bool:
    found = text_decoder(tiny())
    llama4 = transformers.Llama4ForCausalLM(transformers.Llama4TextConfig(**CONFIG, num_local_experts=2))
    return type(found).__name__ == "LlamaModel" and type(text_decoder(llama4)).__name__ == "Llama4TextModel"


def auto_mappings() -> bool:
    text, vision = transformers.LlamaConfig(**CONFIG), transformers.Qwen2_5_VLConfig()
    names = [[found.__name__ for found in causal_model_classes(config)] for config in (text, vision)]
    none = causal_model_classes(transformers.ViTConfig())
    return names[0] == ["LlamaForCausalLM"] and "Qwen2_5_VLForConditionalGeneration" in names[1] and none == []


def chat_template_renderer() -> bool:
    from tokenizers import Tokenizer, models

    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>")
    source = (
        "{{ bos_token }}{% for m in messages %}{{ m.role, m.content }}{{ x }}{% endfor %}{{ add_generation_prompt }}"
    )
    turns = [{"role": "user", "content": "a\n"}, {"role": "assistant", "content": ""}]
    for prompt in (True, False):
        options = {**tokenizer.special_tokens_map, "x": False}
        expected = tokenizer.apply_chat_template(
            turns, chat_template=source, tokenize=False, add_generation_prompt=prompt, x=False
        )
        if render_chat_template(source, turns, options, generation_prompt=prompt) != expected:
            return False
    return True


def keys_to_ignore() -> bool:
    from transformers import modeling_utils

    model = tiny()
    ignore_weights_on_load(model, {"tower"})
    used = "_keys_to_ignore_on_load_unexpected" in source_of(modeling_utils)
    return used and "tower" in weights_ignored_on_load(model)


def read_ahead_variable() -> bool:
    from transformers import core_model_loading

    return '"HF_DEACTIVATE_ASYNC_LOAD"' in source_of(core_model_loading)


def load_marks() -> bool:
    from transformers import core_model_loading

    return "_is_hf_initialized" in source_of(core_model_loading)


def errors_while_converting() -> bool:
    from transformers.utils import loading_report

    try:
        loading_report.log_state_dict_report(
            model=tiny(),
            pretrained_model_name_or_path="tiny",
            ignore_mismatched_sizes=False,
            loading_info=loading_report.LoadStateDictInfo(
                set(), set(), set(), [], {"weight": "CUDA out of memory"}, set()
            ),
        )
    except RuntimeError as error:
        return conversion_errors(error) == "CUDA out of memory" and is_out_of_memory(error)
    return False


def embedding_scale() -> bool:
    embedding = tiny("Gemma3Text").get_input_embeddings()
    restore_embedding_scale(embedding, torch.float64, torch.device("cpu"))
    return float(embedding.embed_scale) == CONFIG["hidden_size"] ** 0.5


def sdpa() -> bool:
    from transformers.masking_utils import create_causal_mask  # noqa: F401  the caller of what is registered

    states = torch.randn(1, 2, 3, 4)
    module = nn.Module()
    module.is_causal = True
    output, _ = sdpa_attention(module, states, states, states, None, scaling=0.5)
    return output.shape == (1, 3, 2, 4)


def shared_memory_all_reduce() -> bool:
    from deepspeed import ops

    known = "deepspeed_shm_comm" in ops.__compatible_ops__
    disable_shared_memory_all_reduce()
    return known and ops.__compatible_ops__["deepspeed_shm_comm"] is False


def async_io() -> bool:
    return has_async_io() in {True, False}


def tensor_parallel_layer() -> bool:
    from deepspeed.module_inject.layers import LinearLayer, TensorParallel_Layer

    return issubclass(LinearLayer, TensorParallel_Layer) and not is_tensor_parallel(nn.Linear(2, 2))


def zero_partitioning() -> bool:
    """The functions themselves run in `tests/scoring/test_zero.py`, as they need a process group."""
    from deepspeed.runtime.zero import parameter_offload, partition_parameters

    names = ("param.convert_to_zero_parameters", ".ds_tensor", ".ds_id")
    found = all(name in source_of(partition_parameters) for name in names)
    offload = parameter_offload.DeepSpeedZeRoOffload
    return (
        found and isinstance(parameter_offload.FWD_MODULE_STACK, list) and hasattr(offload, "partition_all_parameters")
    )


def zero_files() -> bool:
    from deepspeed.runtime.swap_tensor import partitioned_param_swapper

    return all(part in source_of(partitioned_param_swapper) for part in ("zero_stage_3", "rank"))


def source_of(module: Any) -> str:
    from inspect import getsource

    return getsource(module)


def local_ray() -> bool:
    from pathlib import Path

    import ray

    # They are read from keyword arguments, so the source tells which names it accepts.
    source = Path(ray._private.worker.__file__).read_text()
    private = {name for name in local_ray_options(Path("/x")) if name.startswith("_")}
    return len(private) == 2 and all(f'"{name}"' in source for name in private)


def loopback() -> bool:
    from ray._private import ray_constants, services

    def address() -> str:
        return services.get_node_ip_address()

    name, before = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", address()
    with ray_on_loopback():
        inside = address(), os.environ.get(name)
    restored = ray_constants.ENABLE_RAY_CLUSTER and name not in os.environ and address() == before
    return restored and name == ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR and inside == ("127.0.0.1", "0")


def session_token() -> bool:
    from ray._raylet import AuthenticationMode, AuthenticationTokenLoader, get_authentication_mode

    before = get_authentication_mode()
    with ray_token("secret" * 8):
        inside = get_authentication_mode(), AuthenticationTokenLoader.instance().get_raw_token()
    return inside == (AuthenticationMode.TOKEN, "secret" * 8) and get_authentication_mode() == before


def signal_handlers() -> bool:
    from ray._private import utils

    before, handler = utils.set_sigterm_handler, signal.getsignal(signal.SIGTERM)
    with ray_keeps_signal_handlers():
        utils.set_sigterm_handler(lambda *_: sys.exit(15))
        kept = signal.getsignal(signal.SIGTERM)
    by_ray_init = "utils.set_sigterm_handler(" in source_of(import_module("ray._private.worker"))
    return by_ray_init and kept == signal.getsignal(signal.SIGTERM) == handler and utils.set_sigterm_handler == before


def printed_errors() -> bool:
    return "print_to_stdstream(" in source_of(import_module("ray._private.worker").listen_error_messages)


def health_of_nodes() -> bool:
    """The functions themselves run in `tests/cluster/test_session.py`, as they need a cluster."""
    from ray._private.node import Node
    from ray._raylet import InnerGcsClient, NodeID

    found = hasattr(InnerGcsClient, "check_alive") and hasattr(NodeID, "from_hex")
    return found and hasattr(Node, "dead_processes")


def state_of_nodes() -> bool:
    """The functions themselves run in `tests/cluster/test_real_nodes.py`."""
    from ray._raylet import InnerGcsClient
    from ray.core.generated.gcs_pb2 import GcsNodeInfo

    used = {"node_id", "node_manager_address", "node_manager_port", "resources_total"}
    found = used <= set(GcsNodeInfo.DESCRIPTOR.fields_by_name) and hasattr(GcsNodeInfo, "ALIVE")
    return found and all(hasattr(InnerGcsClient, name) for name in ("get_all_node_info", "get_draining_nodes"))


def preemption() -> bool:
    from ray.exceptions import ActorDiedError, RayActorError

    taken, killed = RayActorError(preempted=True), RayActorError(preempted=False)
    return issubclass(ActorDiedError, RayActorError) and was_preempted(taken) and not was_preempted(killed)


def gpu_variable() -> bool:
    from pathlib import Path

    import ray

    return "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO" in Path(ray._private.utils.__file__).read_text()


LOST_RANK = """
import os, sys, torch
from datetime import timedelta
from torch import distributed
from psych_ray.compat.torch import is_connection_lost
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
rank = int(os.fork() == 0)
distributed.init_process_group(
    "gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2, timeout=timedelta(seconds=20)
)
distributed.barrier()
if rank == 1:
    os._exit(0)
try:
    for _ in range(100):
        distributed.all_reduce(torch.ones(1))
except RuntimeError as error:
    print(is_connection_lost(error), flush=True)
os._exit(0)
"""


def lost_rank() -> bool:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-c", LOST_RANK, f"{directory}/store"]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return found.stdout.strip() == "True" and not is_connection_lost(RuntimeError("shape mismatch"))


def font_tables() -> bool:
    import io

    from fontTools import subset
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    options = subset.Options

    def size() -> int:
        figure, buffer = Figure(), io.BytesIO()
        figure.text(0.5, 0.5, "AVATAR")
        with rc_context({"pdf.fonttype": 42, "font.family": ["DejaVu Sans"]}):
            figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
        return len(buffer.getvalue())

    with pdf_fonts_without_layout():
        smaller = size()
    return smaller < size() and subset.Options is options


def few_processes() -> bool:
    from pathlib import Path

    from ray._private import node, parameter, services, worker

    before = parameter.RayParams, services.start_api_server
    with ray_with_few_processes():
        params = parameter.RayParams()
        none = services.start_api_server(False, False) == (None, None)
    sources = [Path(module.__file__).read_text() for module in (node, worker)]
    return (
        (params.no_monitor, params.include_log_monitor, none) == (True, False, True)
        and before == (parameter.RayParams, services.start_api_server)
        and "ray._private.services.start_api_server(" in sources[0]
        and "ray._private.parameter.RayParams(" in sources[1]
    )


INTERFACES: list[tuple[str, str, Callable[[], bool]]] = [
    ("torch", "nn.modules.module.register_module_parameter_registration_hook", parameter_registration_hook),
    ("transformers", "utils.chat_template_utils.render_jinja_template", chat_template_renderer),
    ("torch", "ops.mkldnn._linear_pointwise", linear_pointwise),
    ("torch", "text of the error of the CPU's allocator", host_out_of_memory),
    ("torch", "text of gloo's error where a rank is gone", lost_rank),
    ("torch", "nn.attention.varlen.varlen_attn with scale and window_size", varlen_arguments),
    ("transformers", "PreTrainedModel.get_decoder", decoder),
    ("transformers", "models.auto.modeling_auto.MODEL_FOR_*_MAPPING", auto_mappings),
    ("transformers", "PreTrainedModel._keys_to_ignore_on_load_unexpected", keys_to_ignore),
    ("transformers", "HF_DEACTIVATE_ASYNC_LOAD", read_ahead_variable),
    ("transformers", "Parameter._is_hf_initialized", load_marks),
    ("transformers", "utils.loading_report.log_state_dict_report", errors_while_converting),
    ("transformers", "scalar_embed_scale and embed_scale of Gemma 3", embedding_scale),
    ("transformers", "integrations.sdpa_attention and masking_utils.sdpa_mask", sdpa),
    ("deepspeed", "ops.__compatible_ops__", shared_memory_all_reduce),
    ("deepspeed", "ops.op_builder.AsyncIOBuilder", async_io),
    ("deepspeed", "module_inject.layers.TensorParallel_Layer", tensor_parallel_layer),
    ("deepspeed", "zero.Init's ds_tensor, ds_id, convert_to_zero_parameters, and FWD_MODULE_STACK", zero_partitioning),
    ("deepspeed", "directories of runtime.swap_tensor", zero_files),
    ("ray", "_temp_dir and _system_config of ray.init", local_ray),
    ("ray", "_private.ray_constants.ENABLE_RAY_CLUSTER", loopback),
    ("ray", "_private.parameter.RayParams and _private.services.start_api_server", few_processes),
    ("matplotlib", "fontTools.subset.Options in backends._backend_pdf_ps", font_tables),
    ("ray", "_raylet.AuthenticationTokenLoader and Config", session_token),
    ("ray", "_private.utils.set_sigterm_handler", signal_handlers),
    ("ray", "_private.worker.print_to_stdstream", printed_errors),
    ("ray", "_raylet.GcsClient.check_alive and Node.dead_processes", health_of_nodes),
    ("ray", "_raylet.GcsClient.get_all_node_info and get_draining_nodes", state_of_nodes),
    ("ray", "RayActorError.preempted", preemption),
    ("ray", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", gpu_variable),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("library", "interface", "works"), INTERFACES, ids=lambda value: getattr(value, "__name__", "")
)
def test_the_interface_is_as_expected(library, interface, works):
    if works is linear_pointwise and not has_onednn_linear():
        pytest.skip("this build of PyTorch has no oneDNN for this CPU")
    said = ""
    try:
        as_expected = works()
    except Exception as error:  # noqa: BLE001  whatever the library raises, the test says which interface it is
        as_expected, said = False, f" ({type(error).__name__}: {error})".splitlines()[0]
    if not as_expected:
        pytest.fail(
            f"{library} {version(library)} has changed: {interface}{said}; see psych_ray/compat/{library}.py",
            pytrace=False,
        )


def test_importing_it_imports_no_library():
    heavy = ("torch", "transformers", "deepspeed", "peft", "ray", "wandb", "matplotlib")
    modules = ", ".join(f"psych_ray.compat.{module.name}" for module in iter_modules(compat.__path__))
    code = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("before", [None, "0"])
def test_the_environment_is_restored_after_an_exception(monkeypatch, before):
    name = "HF_DEACTIVATE_ASYNC_LOAD"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    with pytest.raises(KeyError, match="1"), load_weights_one_by_one(), load_weights_one_by_one():
        raise KeyError(os.environ[name])
    assert os.environ.get(name) == before


def test_a_parameter_hook_is_removed_after_an_exception():
    seen = []
    with pytest.raises(KeyError), parameter_hook(lambda module, name, weight: seen.append(name)):
        raise KeyError
    nn.Linear(2, 2)
    assert seen == []


def test_tokenizers_raises_what_has_no_type_of_its_own():
    from tokenizers import Tokenizer

    with pytest.raises(Exception, match="expected") as caught:
        Tokenizer.from_str('{"version": null}')
    assert is_tokenizers_error(caught.value)
    assert not is_tokenizers_error(ValueError())
    assert not is_tokenizers_error(KeyboardInterrupt())


@pytest.mark.parametrize("chosen", [None, "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_threads_of_openmp_spin_as_the_user_chose(monkeypatch, chosen):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv(chosen, "0")
    assert openmp_spins_briefly() == ({} if chosen else {"GOMP_SPINCOUNT": "1000"})

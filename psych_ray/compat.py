"""Private and undocumented interfaces of libraries, each with its reason and the version it was seen in.

Everything that may change with a release of a library without notice is here, and nowhere else. Each library is
imported inside the functions that use it: importing this module imports none of them. `tests/test_compat.py` has a
test for each interface that names it in one line when it is gone.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    import wandb
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

# --- torch ---

ParameterHook = Callable[..., Any]
"""Called with module, name and parameter; what it returns, unless None, is registered instead."""

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "cannot allocate memory", "defaultcpuallocator", "alloc_failed")


_CONNECTION_LOST = ("connection closed by peer", "connection reset", "timed out", "connection refused", "broken pipe")


@contextmanager
def parameter_hook(hook: ParameterHook) -> Iterator[None]:
    """Within the context, `hook` sees every parameter that is registered with any module.

    The only point at which weights can be sharded one by one while transformers loads them. Documented as
    experimental (torch 2.13).
    """
    from torch.nn.modules.module import register_module_parameter_registration_hook

    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def has_onednn_linear() -> bool:
    """Whether this build of PyTorch has oneDNN's linear layer for this CPU."""
    import torch

    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` by oneDNN, to which PyTorch gives float32 only inside Inductor (torch 2.13)."""
    import torch

    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device or the host ran out of memory.

    Only CUDA's allocator has a type for it (`torch.OutOfMemoryError`, a RuntimeError); the CPU's, cuBLAS, NCCL and
    memory maps raise RuntimeError or OSError and differ by their text (torch 2.13).
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if not isinstance(error, RuntimeError | OSError):
        return False
    text = f"{type(error).__name__} {error} {conversion_errors(error)}".lower()
    return "outofmemoryerror" in text or any(said in text for said in _OUT_OF_MEMORY)


def is_connection_lost(error: BaseException) -> bool:
    """Whether an exception of a collective says that another rank is gone or did not answer in time.

    NCCL and the store raise subclasses of `torch.distributed.DistError`, gloo a RuntimeError that differs from others
    only in its text (torch 2.13).
    """
    if not isinstance(error, RuntimeError):
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error).lower()
    return "DistError" in names or ("gloo" in text and any(said in text for said in _CONNECTION_LOST))


# --- transformers ---


def text_decoder(model: PreTrainedModel) -> Any:
    """Decoder of a model: the part that turns token ids into hidden states.

    `get_decoder` returns the model itself for some classes, among them the text classes of Llama 3.2 Vision and
    Llama 4; the decoder is then its `model` (transformers 5.23).
    """
    decoder: Any = model.get_decoder()
    return getattr(model, "model", decoder) if decoder is model else decoder


def causal_model_classes(config: PretrainedConfig) -> list[type[PreTrainedModel]]:
    """Classes that predict the next token for a configuration, text-only ones first; empty where there are none.

    The mappings behind the auto classes, which give a class without an instance (transformers 5.23).
    """
    from transformers.models.auto import modeling_auto

    for mapping in (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING,
    ):
        found: Any = mapping.get(type(config), None)
        if found:
            return list(found) if isinstance(found, tuple | list) else [found]
    return []


def render_chat_template(
    source: str, turns: list[dict[str, str]], options: Mapping[str, Any], *, generation_prompt: bool
) -> str:
    """Render a chat template without a tokenizer; `options` are its other variables, special tokens among them.

    What `apply_chat_template` calls. It needs no torch, so a process for it alone is small (transformers 5.23).
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered: Any = render_jinja_template(
        [turns], chat_template=source, add_generation_prompt=generation_prompt, **options
    )
    text: str = rendered[0][0]
    return text


def weights_ignored_on_load(model: PreTrainedModel) -> set[str]:
    """Patterns of names of stored weights that a model does not use and does not report (transformers 5.23)."""
    return set(model._keys_to_ignore_on_load_unexpected or ())


def ignore_weights_on_load(model: PreTrainedModel, patterns: set[str]) -> None:
    """Add to `weights_ignored_on_load`."""
    model._keys_to_ignore_on_load_unexpected = weights_ignored_on_load(model) | patterns


@contextmanager
def load_weights_one_by_one() -> Iterator[None]:
    """Within the context, transformers does not read weights ahead, which would hold all of them in memory.

    An environment variable that its documentation does not list (transformers 5.23).
    """
    with _environment({"HF_DEACTIVATE_ASYNC_LOAD": "1"}):
        yield


def is_tokenizers_error(error: BaseException) -> bool:
    """Whether an exception is one of the tokenizers library, which has no type of its own for them.

    It raises `Exception` itself for a file that it cannot read, and where it panics, pyo3's PanicException, which is no
    Exception and can be imported from nowhere (tokenizers 0.22).
    """
    return type(error) is Exception or type(error).__name__ == "PanicException"


def copy_load_marks(source: nn.Parameter, target: nn.Parameter) -> None:
    """Mark a parameter as loaded where `source` is: an unmarked one is initialized anew (transformers 5.23)."""
    vars(target).update(vars(source))


def conversion_errors(error: BaseException) -> str:
    """What went wrong while transformers converted stored weights, empty if nothing did.

    It collects these errors, out of memory among them, prints a report, and raises a RuntimeError that says only that
    there were some; they are in the frame that raises it (transformers 5.23, `log_state_dict_report`).
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    found = getattr(trace.tb_frame.f_locals.get("loading_info"), "conversion_errors", None) if trace else None
    return " ".join(map(str, found.values())) if found else ""


def restore_embedding_scale(module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Set the scale of an embedding, if the module is one that has it, to its exact value in `dtype`.

    Gemma's is a buffer, rounded to the dtype that the model was built in; the exact number is an attribute
    (transformers 5.23).
    """
    import torch

    scale = getattr(module, "scalar_embed_scale", None)
    if scale is not None:
        module.embed_scale = torch.nn.Buffer(torch.tensor(scale, dtype=dtype, device=device), persistent=False)


def sdpa_attention(*args: Any, **kwargs: Any) -> Any:
    """The attention that transformers registers as "sdpa" (transformers 5.23)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(*args, **kwargs)


def sdpa_mask(*args: Any, **kwargs: Any) -> Any:
    """The mask that belongs to `sdpa_attention` (transformers 5.23)."""
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(*args, **kwargs)


def silence_bitsandbytes() -> None:
    """Drop its warning, for every layer and pass, that inputs are cast."""
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


# --- DeepSpeed ---


def disable_shared_memory_all_reduce() -> None:
    """Keep DeepSpeed from compiling an all-reduce for CPUs on first use, which takes a compiler (deepspeed 0.19.8)."""
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


def has_async_io() -> bool:
    """Whether DeepSpeed's file access is built or can be (deepspeed 0.19.8)."""
    from deepspeed.ops.op_builder import AsyncIOBuilder

    return bool(AsyncIOBuilder().is_compatible(verbose=False))


def is_tensor_parallel(module: nn.Module) -> bool:
    """Whether AutoTP made a module, whose weights are then views of whole ones (deepspeed 0.19.8)."""
    from deepspeed.module_inject.layers import TensorParallel_Layer

    return isinstance(module, TensorParallel_Layer)


def zero_partition(config: dict[str, Any]) -> tuple[Callable[[nn.Parameter], None], torch.device]:
    """Function that replaces a weight by this rank's partition of it, and the device on which it expects weights.

    `zero.Init` partitions whole modules when they are built; the function for one parameter is an attribute of those
    that it has partitioned (deepspeed 0.19.8).
    """
    import torch
    from deepspeed import zero

    seed: Any = torch.nn.Parameter(torch.zeros(1, dtype=torch.float32), requires_grad=False)
    zero.Init(module=torch.nn.ParameterList([seed]), config_dict_or_path=config)

    def partition(weight: nn.Parameter) -> None:
        seed.convert_to_zero_parameters([weight])

    return partition, seed.device


def is_partitioned(weight: nn.Parameter) -> bool:
    """Whether ZeRO has partitioned a weight (deepspeed 0.19.8)."""
    return hasattr(weight, "ds_id")


def partition_of(weight: nn.Parameter) -> Tensor:
    """This rank's partition of a weight [elements] (deepspeed 0.19.8)."""
    partition: Any = weight
    found: Tensor = partition.ds_tensor
    return found


def release_zero_engine(engine: Any) -> None:
    """Free the weights of an engine that `deepspeed.initialize` made without an optimizer.

    `destroy` leaves the partitions, and a global list of modules keeps every model alive (deepspeed 0.19.8).
    """
    from deepspeed.runtime.zero import parameter_offload

    whole = engine.module
    engine.optimizer.partition_all_parameters()
    engine.destroy()
    own = set(whole.modules())
    stack = parameter_offload.FWD_MODULE_STACK
    stack[:] = [module for module in stack if module not in own]
    for parameter in whole.parameters():
        parameter.ds_tensor = None


def zero_partition_directories(nvme: Path, rank: int) -> list[Path]:
    """Where ZeRO stores the partitions of a rank, which it does not delete (deepspeed 0.19.8)."""
    return list(nvme.glob(f"zero_stage_3/*/rank{rank}"))


# --- wandb ---
# Seen in 0.31.0. tests/test_compat_wandb.py fails where one of these is gone.

WANDB_PRIVATE_SETTINGS: Mapping[str, Any] = {"x_disable_stats": True, "x_save_requirements": False}
"""Settings that begin with x_ are internal. Load and packages of the driver's machine did not make the scores."""


def wandb_settings(values: Mapping[str, Any]) -> wandb.Settings:
    """Those of the settings that this version of wandb has, and that the environment does not set.

    In wandb, settings of the program have precedence over those of the environment, and a setting that it does not
    have is an error. Not documented: that `Settings` is a pydantic model, and the variables WANDB_NAME of the setting
    `name` and WANDB__NAME of `x_name`. `stop_fn` is a setting that the environment cannot set.
    """
    import wandb

    def variable(name: str) -> str:
        return f"WANDB__{name[2:].upper()}" if name.startswith("x_") else f"WANDB_{name.upper()}"

    fields = wandb.Settings.model_fields
    return wandb.Settings(
        **{name: value for name, value in values.items() if name in fields and variable(name) not in os.environ}
    )


def restart_wandb_service() -> None:
    """End the process in which wandb keeps its runs; the next `wandb.init` starts another. Does not raise.

    `teardown` is documented as the end of a session, not as a restart. It is the only interface that releases the id
    of a run whose `init` failed, and that keeps wandb from raising at exit when the process has died.
    """
    import wandb

    with suppress(Exception, SystemExit):
        wandb.teardown()


def wandb_offline_directory(run: wandb.Run) -> Path:
    """The directory of all offline runs, which `wandb sync` takes. The layout above `run.dir` is not documented."""
    return Path(run.dir).parents[1]


# --- Ray ---


def local_ray_options(directory: Path) -> dict[str, Any]:
    """Arguments of `ray.init` for a local session whose files are in `directory` (Ray 2.60).

    `_temp_dir` begins with an underscore; without it Ray writes to /tmp/ray and leaves it there. Ray makes it and all
    below it writable for everyone, so it is a directory in `directory`, whose mode stays. Its name is short as those of
    sockets are limited. The address is given because RAY_ADDRESS otherwise replaces it. A raylet that does not answer
    counts as dead after 4 requests of 10 s, a second apart; by default that takes more than a minute.
    """
    health = {"health_check_period_ms": 1000, "health_check_timeout_ms": 10_000, "health_check_failure_threshold": 4}
    return {"address": "local", "_temp_dir": str(directory / "r"), "_system_config": health}


@contextmanager
def ray_on_loopback() -> Iterator[None]:
    """Within the context, a Ray that this process starts binds its ports to 127.0.0.1, not to all addresses (Ray 2.60).

    That is how Ray runs on Windows and macOS, where an environment variable switches it off; elsewhere the variable
    switches it on. It is read when Ray is imported, so the constant is set for this process, and the variable for
    those that it starts. `_node_ip_address="127.0.0.1"` has no such effect: Ray replaces it by the network's address.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    with _environment({ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}):
        ray_constants.ENABLE_RAY_CLUSTER = False
        try:
            yield
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def ray_token(token: str) -> Iterator[None]:
    """Within the context, a Ray that this process starts, or connects to, is used with this secret (Ray 2.60).

    It travels in the environment, which only processes of the same user can read; without one, Ray writes a token to
    ~/.ray/auth_token, which all users can read. Ray keeps what it has read of both, so it is told to read them again.
    """
    raylet: Any = import_module("ray._raylet")

    def read_again() -> None:
        raylet.Config.initialize("")  # before the token: without one, the process ends while the mode asks for it
        raylet.AuthenticationTokenLoader.instance().reset_cache()

    try:
        with _environment({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_AUTH_TOKEN_PATH": None}):
            read_again()
            yield
    finally:
        read_again()


@contextmanager
def _environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables, or unset those with None, and restore them at the end."""
    before = {name: os.environ.get(name) for name in values}
    _set_environment(values)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def ray_keeps_signal_handlers() -> Iterator[None]:
    """Within the context, `ray.init` does not replace the handler of SIGTERM by one that exits with 15 (Ray 2.60)."""
    from ray._private import utils

    before = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before


def silence_ray_errors() -> None:
    """Keep Ray from printing what the cluster reports, tens of lines of C++ logs among it (Ray 2.60).

    A thread of the driver prints it, whatever `log_to_driver` and `logging_level` say.
    """
    from ray._private import worker

    worker.print_to_stdstream = lambda *args, **kwargs: None


def dead_ray_processes() -> list[str]:
    """Those of raylet and gcs that this process has started and that ended (Ray 2.60)."""
    from ray._private import worker

    node: Any = worker._global_node
    names = {"gcs_server": "gcs", "raylet": "raylet"}
    return [] if node is None else [names[kind] for kind, _ in node.dead_processes() if kind in names]


def ray_node_is_alive() -> Callable[[float], bool | None]:
    """Function that asks whether the node that this process is connected to is alive, with a time-out in seconds.

    None where the gcs does not answer in time. The client is one of its own, as those behind Ray's public functions
    wait for as long as they like (Ray 2.60).
    """
    import ray

    raylet: Any = import_module("ray._raylet")
    context = ray.get_runtime_context()
    client = raylet.GcsClient(address=context.gcs_address)
    node_id = raylet.NodeID.from_hex(context.get_node_id())  # of this type: it is not checked, and C++ reads it

    def ask(timeout_s: float) -> bool | None:
        try:
            return bool(client.check_alive([node_id], timeout=timeout_s)[0])
        except ray.exceptions.RayError:
            return None

    return ask


def keep_gpus_visible_to_ray_workers() -> None:
    """Keep Ray from hiding the GPUs from, and limiting the threads of, actors that reserve none (Ray 2.60).

    An environment variable that its documentation names as a coming default; to be set before `ray.init`.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def was_preempted(error: BaseException) -> bool:
    """Whether Ray says that an actor died because its node was preempted (Ray 2.60)."""
    return bool(getattr(error, "preempted", False))

"""Any ids of the hub: what its model cards say, what follows from them, and ids that it does not give.

The hub is a server on this machine that answers with metadata as the hub's; its client and everything else is real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import constants

from psych_ray.checkpoints.find import Found, find_all, find_checkpoints
from psych_ray.checkpoints.hub import Hub
from psych_ray.checkpoints.model_cards import ModelCardFacts, facts_of_snapshot
from psych_ray.checkpoints.proposals import propose
from psych_ray.checkpoints.shape import shape_of
from psych_ray.config import CheckpointCard, CheckpointsConfig, CheckpointSource, Stage
from psych_ray.errors import CheckpointError, UnreachableError

SHA = "0123456789abcdef0123456789abcdef01234567"
TAGGED = "89abcdef0123456789abcdef0123456789abcdef"
MODELS: dict[str, dict[str, Any]] = {
    "lab/Foo-Base": {"config": {"model_type": "foonet2"}, "safetensors": 1_230_000_000},
    "lab/Foo-SFT": {"cardData": {"base_model": "lab/Foo-Base"}, "tags": ["conversational"]},
    "lab/Foo-DPO": {
        "tags": ["conversational", "base_model:lab/Foo-SFT", "base_model:finetune:lab/Foo-SFT"],
        "safetensors": 1_230_000_000,
    },
    "lab/wisdom": {"cardData": {"base_model": ["Qwen/Qwen2.5-7B-Instruct"]}, "tags": ["conversational"]},
    "lab/blend": {"cardData": {"base_model": ["lab/Foo-SFT", "Qwen/Qwen3-8B"], "base_model_relation": "merge"}},
    "lab/small": {
        "cardData": {"base_model": "lab/Foo-SFT", "base_model_relation": "quantized"},
        "config": {"quantization_config": {"quant_method": "awq"}},
    },
    "lab/lora": {
        "cardData": {"base_model": "lab/Foo-Base"},
        "siblings": ["adapter_config.json", "adapter_model.safetensors"],
    },
    "lab/odd": {"cardData": {"base_model": {"a": 1}}, "tags": [1, None], "config": []},
    "lab/gated": {"gated": "manual"},
    "meta-llama/Llama-3.2-1B": {"gated": "manual"},
    "Qwen/Qwen3-0.6B": {"safetensors": 751_632_384},
}  # fmt: skip


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as finding checkpoints needs."""

    asked: list[str]
    down: bool

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
        if self.down:
            self._answer(503, {})
        elif path.endswith("/auth-check"):
            self._answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        elif not path.startswith("/api/models/"):
            self._answer(404, {}, {"X-Error-Code": "EntryNotFound"})
        elif name not in MODELS:
            self._answer(404, {}, {"X-Error-Code": "RepoNotFound"})
        elif revision not in {"", "v2"}:
            self._answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
        else:
            self._answer(200, _info(name, TAGGED if revision else SHA))

    do_HEAD = do_GET

    def _answer(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _info(name: str, sha: str) -> dict[str, Any]:
    given = dict(MODELS[name])
    total = given.pop("safetensors", None)
    files = given.pop("siblings", ["config.json", "model.safetensors"])
    found = {"id": name, "sha": sha, "siblings": [{"rfilename": file} for file in files], **given}
    return found | ({"safetensors": {"parameters": {"BF16": total}, "total": total}} if total else {})


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[type[_Hub]]:
    import huggingface_hub

    handler = type("Handler", (_Hub,), {"asked": [], "down": False})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    real = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: real(endpoint=endpoint))
    for name in ("snapshot_download", "hf_hub_download"):
        of_hub = getattr(huggingface_hub, name)
        monkeypatch.setattr(
            huggingface_hub, name,
            lambda *a, _of_hub=of_hub, **k: _of_hub(
                *a, **{"endpoint": endpoint, "cache_dir": str(tmp_path / "cache"), **k}
            ),
        )  # fmt: skip
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def found_on(*ids: str, assume: bool = False, **more: Any) -> Found:
    return find_all(CheckpointsConfig(source=CheckpointSource.hub, ids=list(ids), **more), assume=assume)


def card_of(found: Found, number: int = 0) -> tuple[object, ...]:
    card = found.checkpoints[number].card
    return card.family, card.generation, card.size_b, card.stage, card.base


def test_an_id_is_described_by_its_model_card_and_its_bases(hub):
    found = found_on("lab/Foo-DPO", "lab/Foo-Base")
    assert card_of(found) == ("unknown", "unknown", 1.2, Stage.instruct, "lab/Foo-Base")
    assert card_of(found, 1) == ("foonet", "unknown", 1.2, Stage.base, None)
    assert [one.base_slug for one in found.checkpoints] == ["lab--Foo-Base", None]
    (post, base) = found.described
    assert post.is_proposed
    assert post.sources == "stage: its name; base: its model card; size_b: its weights"
    assert base.sources == "stage: its name; family, size_b: its weights"
    assert {path for path in hub.asked if path.startswith("/api")} == {
        f"/api/models/{one}" for one in ("lab/Foo-DPO", "lab/Foo-Base", "lab/Foo-SFT")
    }
    assert len([path for path in hub.asked if path.startswith("/api")]) == 3, "each is asked about once"


def test_an_id_without_words_takes_stage_and_lineage_from_a_listed_base(hub):
    assert card_of(found_on("lab/wisdom")) == ("qwen", "qwen2.5", 7.0, Stage.instruct, "Qwen/Qwen2.5-7B")


def test_a_merge_and_metadata_of_another_form_propose_no_base(hub):
    assert card_of(found_on("lab/blend")) == ("unknown", "unknown", None, None, None)
    assert card_of(found_on("lab/odd")) == ("unknown", "unknown", None, None, None)


def test_a_quantized_copy_has_stage_and_base_of_what_was_quantized(hub):
    assert card_of(found_on("lab/small"))[3:] == (Stage.instruct, "lab/Foo-Base")


def test_an_adapter_is_one_by_its_files(hub):
    (lora,) = found_on("lab/lora").checkpoints
    assert lora.card.adapter
    assert lora.base_of_adapter is not None
    assert (lora.base_of_adapter.card.id, lora.n_parameters) == ("lab/Foo-Base", 1_230_000_000)


def test_what_the_user_says_replaces_proposals_and_the_list(hub):
    cards = [
        CheckpointCard(id="lab/wisdom", stage=Stage.behavioural, generation="ours"),
        CheckpointCard(id="Qwen/Qwen3-0.6B", base="lab/Foo-Base"),
        CheckpointCard(id="lab/Foo-DPO", stage=Stage.base),
    ]
    found = found_on("Qwen/Qwen3-0.6B", "lab/wisdom", cards=cards)
    assert card_of(found) == ("qwen", "qwen3", 0.6, Stage.reasoning, "lab/Foo-Base")
    assert card_of(found, 1) == ("qwen", "ours", 7.0, Stage.behavioural, "Qwen/Qwen2.5-7B")
    assert card_of(found, 2)[3:] == (Stage.base, None), "a base has none, whatever its model card says"
    assert [one.card.id for one in found.described] == ["lab/wisdom", "lab/Foo-DPO"]
    assert "stage, generation" not in found.described[0].sources
    assert "generation, stage: the configuration" in found.described[0].sources


def test_a_revision_is_pinned_and_part_of_the_fingerprint(hub):
    (main,), (tagged,) = found_on("lab/wisdom").checkpoints, found_on("lab/wisdom@v2").checkpoints
    assert (main.card.revision, tagged.card.revision) == (SHA, TAGGED)
    assert main.fingerprint != tagged.fingerprint
    with pytest.raises(CheckpointError, match="two revisions of one id"):
        found_on("lab/wisdom", "lab/wisdom@v2")


def test_ids_that_the_hub_does_not_give_are_told_and_the_others_found(hub):
    found = found_on("lab/none", "lab/gated", "lab/wisdom@v9", "lab/Foo-Base")
    assert [one.card.id for one in found.checkpoints] == ["lab/Foo-Base"]
    assert list(found.missing) == ["lab/none", "lab/gated", "lab/wisdom"]
    for reason, says in zip(
        found.missing.values(), ("no such checkpoint", "request it", "no revision v9"), strict=True
    ):
        assert says in reason
    assert not found.hub_is_away
    with pytest.raises(CheckpointError, match=r"^none of 2 checkpoints can be used; the first: lab/none: .* no such"):
        found_on("lab/none", "lab/gated")
    with pytest.raises(CheckpointError, match=r"^lab/gated: the hub gives it only to those"):
        found_on("lab/gated", assume=True)


def test_a_listed_checkpoint_has_the_hubs_sizes_and_else_the_lists(hub):
    (small,) = find_checkpoints(CheckpointsConfig(source=CheckpointSource.hub, listed=["Qwen/Qwen3-0.6B"]))
    assert small.n_parameters == 751_632_384
    shape = shape_of(small)
    assert (shape.hidden_size, shape.context, shape.n_parameters) == (1024, 40_960, 751_632_384)


def test_a_hub_that_is_busy_is_unreachable_for_a_sweep_and_assumed_for_a_plan(hub):
    hub.down = True
    with pytest.raises(UnreachableError, match=r"^none of 2 checkpoints can be used; the first: Qwen/Qwen3-0.6B"):
        found_on("Qwen/Qwen3-0.6B", "lab/llama-3.1-8B-wisdom")
    found = found_on("Qwen/Qwen3-0.6B", "lab/llama-3.1-8B-wisdom", "lab/wisdom", assume=True)
    assert [one.n_parameters for one in found.checkpoints] == [596_049_920, 8_000_000_000]
    assert all(one.assumed and not one.fingerprint for one in found.checkpoints)
    assert shape_of(found.checkpoints[0]).hidden_size == 1024
    assert list(found.missing) == ["lab/wisdom"], "neither listed, nor a size in its name"


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []

    def no_route(_: object, name: str, **__: object) -> None:
        asked.append(name)
        raise ConnectionError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", no_route)
    found = find_all(CheckpointsConfig(source=CheckpointSource.hub, listed=["*"]), assume=True)
    assert asked == ["meta-llama/Meta-Llama-3-8B"]
    assert (len(found.checkpoints), found.missing, found.hub_is_away) == (103, {}, True)
    centaur = found.checkpoints[-1]
    assert (shape_of(centaur).bits, centaur.base_of_adapter.card.quantization) == (4, "bnb-4bit")
    assert centaur.n_parameters == 103_546_880 + 70_553_706_496


def test_the_cache_of_a_machine_without_network_has_model_cards(hub, tmp_path, monkeypatch):
    snapshot = tmp_path / "cache/models--lab--mine/snapshots" / SHA
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "qwen3"}')
    (snapshot / "README.md").write_text(
        "---\nbase_model: Qwen/Qwen3-8B-Base\nbase_model_relation: finetune\n---\n# Mine\n"
    )
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text(SHA)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = found_on("lab/mine", cards=[CheckpointCard(id="lab/mine", stage=Stage.math)])
    assert card_of(found) == ("qwen", "qwen3", 8.0, Stage.math, "Qwen/Qwen3-8B-Base")
    assert (found.checkpoints[0].fingerprint, found.checkpoints[0].assumed) == (SHA, None)


@pytest.mark.parametrize(
    "readme",
    ["", "# no metadata", "---\nbase_model: [\n---\n", "---\n- a\n---\n", "---\nbase_model: ../other\n---\n", "\0"],
)
def test_a_model_card_of_any_form_is_no_error(tmp_path, readme):
    (tmp_path / "README.md").write_text(readme)
    (tmp_path / "config.json").write_text("[]")
    assert facts_of_snapshot(tmp_path) == ModelCardFacts()


def test_checkpoints_that_are_made_from_one_another_end():
    cards = {"a/x": ModelCardFacts(bases=("a/y",)), "a/y": ModelCardFacts(bases=("a/x",))}
    assert propose("a/x", cards["a/x"], [], cards.get).values["base"] == "a/y", "never the checkpoint itself"
    endless = propose("a/0", ModelCardFacts(bases=("a/1",)), [], lambda name: ModelCardFacts(bases=(f"{name}1",)))
    assert endless.values["base"].startswith("a/1")


def test_an_answer_is_kept(hub):
    session = Hub()
    session.ask_about([CheckpointCard(id=one) for one in ("lab/wisdom", "lab/none", "lab/blend")])
    before = list(hub.asked)
    assert session.info("lab/wisdom", None).sha == SHA
    with pytest.raises(Exception, match="404"):
        session.info("lab/none", None)
    assert hub.asked == before

"""The shipped list: whole, equal to the study's facts, and with sizes that transformers agrees with."""

from __future__ import annotations

import pytest
import yaml

from psych_ray.checkpoints.listed import _data, listed_card, listed_ids, listed_sizes
from psych_ray.checkpoints.model_config import sizes_of
from psych_ray.checkpoints.names import facts_of_name
from psych_ray.checkpoints.proposals import propose
from psych_ray.checkpoints.shape import CheckpointShape
from psych_ray.config import Stage

IDS = listed_ids(["*"])


def test_the_list_is_whole():
    cards = [listed_card(one) for one in IDS]
    assert len(set(IDS)) == len(IDS) == 103
    assert all(card.base is None or card.base in IDS for card in cards)
    assert {card.stage for card in cards} == set(Stage)
    assert {entry.get("shape") for entry in _data()["checkpoints"].values()} - {None} == set(_data()["shapes"])
    assert listed_card("lab/other") is listed_sizes("lab/other") is None


def test_the_list_is_that_of_the_facts(shared):
    facts = yaml.safe_load((shared / "facts/checkpoints.yaml").read_text())["checkpoints"]
    assert [fact["id"] for fact in facts] == IDS
    for fact in facts:
        card = listed_card(fact["id"])
        stage = fact["stage"].replace("-", "_")
        assert (card.family, card.generation, card.size_b) == (fact["family"], fact["generation"], fact["size_b"])
        assert (card.stage, card.base) == (stage, fact["base"])
        assert (card.quantization, card.adapter) == (fact.get("quantization"), fact.get("adapter", False))


def test_parameters_are_about_those_of_the_name():
    for one in IDS:
        card, sizes = listed_card(one), listed_sizes(one)
        if card.adapter:
            assert sizes.n_parameters < 1e9
            continue
        shape = CheckpointShape.of_config(sizes.config, n_parameters=sizes.n_parameters)
        assert shape.context
        assert shape.intermediate_size > shape.hidden_size
        vision_tower = 0.89 if card.stage == Stage.vision and card.family == "llama" else 1.0
        assert 0.85 < sizes.n_parameters / (1e9 * card.size_b * vision_tower) < 1.3, one


@pytest.mark.parametrize("name", sorted(_data()["shapes"]))
def test_transformers_builds_as_many_parameters_from_a_shape(name):
    import torch
    import transformers

    shape = dict(_data()["shapes"][name])
    parameters = shape.pop("parameters")
    config = {key: value for key, value in shape.items() if key not in {"source", "estimated"}}
    # the text sides of these are models of their own only inside the vision model
    kind = {"qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}.get(config["model_type"], config["model_type"])
    period = {"mllama_text_model": 5, "qwen3_5_text": 4}.get(kind, 1)
    layers = config["num_hidden_layers"]

    def count(n_layers: int) -> int:
        own = config | {"num_hidden_layers": n_layers, "pad_token_id": 0}
        if "cross_attention_layers" in own:
            own["cross_attention_layers"] = [layer for layer in own["cross_attention_layers"] if layer < n_layers]
        own.pop("model_type")
        made = transformers.AutoConfig.for_model(kind, **own)
        with torch.device("meta"):
            if kind == "mllama_text_model":
                model = transformers.MllamaForCausalLM(made)
            else:
                model = transformers.AutoModelForCausalLM.from_config(made)
        return sum(one.numel() for one in model.parameters())

    assert layers % period == 0
    assert parameters == count(period) + (layers // period - 1) * (count(2 * period) - count(period))
    assert sizes_of(config, "num_attention_heads")[0] % config["num_key_value_heads"] == 0


def test_names_say_what_the_list_says():
    """The rules for names, against 103 checkpoints that people described: never a wrong value, at times none."""
    stages = {one: facts_of_name(one).stage or (Stage.base if facts_of_name(one).is_plain else None) for one in IDS}
    for one in IDS:
        card, name = listed_card(one), facts_of_name(one)
        assert (name.family, name.size_b) == (card.family, card.size_b), one
        assert name.generation in {card.generation, None}, one
        assert stages[one] in {card.stage, None}, one
    assert [one for one in IDS if stages[one] is None] == ["unsloth/Meta-Llama-3.1-70B-bnb-4bit"]
    assert all("Distill" in one for one in IDS if facts_of_name(one).generation is None)


def test_bases_by_name_are_those_of_the_list_where_there_is_one():
    found = {one: propose(one, None, IDS, lambda _: None).values.get("base") for one in IDS}
    right = [one for one in IDS if found[one] == listed_card(one).base]
    wrong = [one for one in IDS if found[one] not in {listed_card(one).base, None}]
    assert len(right) == 87
    assert all("Centaur" in one or "bnb" in one for one in wrong)  # whose base the study has in 4 bits

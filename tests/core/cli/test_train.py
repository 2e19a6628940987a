"""`m3 train`: what it makes, what it refuses, how it goes on."""

from __future__ import annotations

import inspect
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path

import pytest

from m3plugins import M3Encoder
from m3plugins.cli.app import run
from m3plugins.cli.train import _examples, train
from m3plugins.training import PerHead, SelfDistillationArguments
from m3plugins.training.checkpoint.folders import newest
from tests.tiny import SENTENCES


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"query": text[-12:], "pos": [text], "neg": [text[::-1]]} for text in SENTENCES]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path / "data.jsonl"


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    folder = tmp_path / "collection"
    (folder / "qrels").mkdir(parents=True)
    for name, length in (("corpus", None), ("queries", 12)):
        lines = [json.dumps({"_id": str(i), "text": text[:length]}) for i, text in enumerate(SENTENCES)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for split in ("train", "dev"):
        (folder / "qrels" / f"{split}.tsv").write_text("".join(f"{i}\t{i}\t1\n" for i in range(len(SENTENCES))))
    return folder


@pytest.fixture
def call(checkpoint: Path, tmp_path: Path):
    """The arguments of a short run on some data."""

    def arguments(*paths: Path, **options: object) -> list[str]:
        defaults = {"model": checkpoint, "output": tmp_path / "tuned", "max-steps": 2, "batch-size": 4, "negatives": 1}
        settings = {**defaults, "chunk-tokens": 4096, "learning-rate": 1e-3, **options}
        given = [part for name, value in settings.items() if value is not None for part in (f"--{name}", str(value))]
        return ["train", *map(str, paths), *given]

    return arguments


def test_the_output_is_a_model_that_differs_from_the_first(
    data: Path, call, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(call(data)) == 0
    out, err = capsys.readouterr()
    assert "step 2/2: loss" in err and "loss_dense" in err and "sparse_entropy" in err
    assert f"m3 evaluate FOLDER --model {tmp_path / 'tuned'}" in out
    tuned, base = M3Encoder.from_pretrained(tmp_path / "tuned"), M3Encoder.from_pretrained(checkpoint)
    assert len(tuned.encode_queries(SENTENCES)) == len(SENTENCES)
    assert tuned.fingerprint != base.fingerprint
    assert newest(tmp_path / "tuned" / "checkpoints") == tmp_path / "tuned" / "checkpoints" / "checkpoint-2"


def test_json_is_one_object_on_stdout(
    data: Path, collection: Path, call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*call(data, dev=collection, **{"eval-steps": 1, "patience": 5}), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["output"] == str(tmp_path / "tuned") and found["steps"] == 2
    assert {"loss", "loss_dense", "loss_sparse", "loss_multi_vector", "loss_ensemble"} <= found["losses"].keys()
    assert found["dev"]["best_step"] in (1, 2)
    assert 0 <= found["dev"]["before"]["eval_all_ndcg@10"] <= 1
    assert found["dev"]["before"].keys() == found["dev"]["after"].keys()


def test_the_result_is_the_checkpoint_that_is_best_on_the_development_set(
    data: Path, collection: Path, call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*call(data, dev=collection, **{"eval-steps": 1, "learning-rate": 0.1}), "--json"]) == 0
    step = json.loads(capsys.readouterr().out)["dev"]["best_step"]
    best = M3Encoder.from_pretrained(tmp_path / "tuned" / "checkpoints" / f"checkpoint-{step}")
    assert M3Encoder.from_pretrained(tmp_path / "tuned").fingerprint == best.fingerprint


@pytest.mark.parametrize("mode", ["lora", "frozen"])
def test_other_ways_to_train_the_encoder_save_the_same_kind_of_folder(
    collection: Path, call, tmp_path: Path, mode: str
) -> None:
    assert run(call(collection, **{"train-encoder": mode}, heads="sparse,multi_vector", teacher="frozen")) == 0
    assert len(M3Encoder.from_pretrained(tmp_path / "tuned").encode_queries(SENTENCES)) == len(SENTENCES)


def test_files_of_one_name_are_sources_of_their_own(data: Path, collection: Path, tmp_path: Path) -> None:
    files = [tmp_path / part / "train.jsonl" for part in ("law", "code")]
    for file in files:
        file.parent.mkdir()
        file.write_text(data.read_text())
    found = _examples([files[0], collection, files[1]], "train")
    assert found.columns.source_names == (*map(str, files), "collection")
    assert len(found) == 3 * len(SENTENCES)


def test_a_run_is_not_written_over_but_resumed(
    data: Path, call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(call(data, **{"log-steps": 1})) == 0
    before = M3Encoder.from_pretrained(tmp_path / "tuned").fingerprint
    capsys.readouterr()
    assert run(call(data)) == 2
    assert "holds a run; go on with it by --resume, or name another --output" in capsys.readouterr().err
    assert M3Encoder.from_pretrained(tmp_path / "tuned").fingerprint == before
    assert run([*call(data, **{"max-steps": 4, "log-steps": 1}), "--resume", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["steps"] == 4
    assert "step 3/4" in err and "step 2/4" not in err


def test_another_folders_files_stay(data: Path, call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "notes.txt").write_text("mine")
    assert run(call(data)) == 2
    assert "is not empty; name another --output" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "tuned").iterdir()] == ["notes.txt"]


def test_a_run_is_not_resumed_with_other_data(
    data: Path, collection: Path, call, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(call(data)) == 0
    assert run([*call(collection), "--resume"]) == 2
    assert "was begun with data" in capsys.readouterr().err


def test_a_wrong_line_is_named(data: Path, call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with data.open("a") as file:
        file.write('\n{"query": "no passage"}\n')
    assert run(call(data)) == 2
    err = capsys.readouterr().err
    assert f"data.jsonl:{len(SENTENCES) + 1}: " in err and "lacks pos" in err and err.count("\n") == 1
    assert not (tmp_path / "tuned").exists()


def test_every_option_is_named_whole_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = subprocess.run(
        [sys.executable, "-m", "m3plugins.cli", "train", "--help"], capture_output=True, text=True, check=True
    ).stdout
    options = {f"--{name.replace('_', '-')}" for name in inspect.signature(train).parameters} - {"--data", "--as-json"}
    assert options <= set(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


def test_the_settings_of_the_shipped_heads_can_be_said(data: Path, call, tmp_path: Path) -> None:
    said = {
        "train-encoder": "frozen",
        "learning-rate": None,
        "head-learning-rate": "sparse=2e-3,multi_vector=2e-4",
        "temperature": "sparse=0.05",
        "sparse-loss-weight": 1,
        "warmup": 0.2,
        "scheduler": "cosine",
        "accumulation": 2,
        "query-prompt": "find: ",
    }
    assert run([*call(data, **said), "--bf16"]) == 0
    checkpoint = tmp_path / "tuned" / "checkpoints" / "checkpoint-2"
    kept = json.loads((checkpoint / "run.json").read_text())["arguments"]
    assert kept["head_learning_rate"] == {"sparse": 2e-3, "multi_vector": 2e-4}
    assert kept["temperature"] == {"dense": 0.02, "sparse": 0.05, "multi_vector": 0.02, "ensemble": 0.02}
    assert kept["loss_weights"] == kept["distillation_weights"] == dict.fromkeys(kept["temperature"], 1.0)
    assert (kept["warmup_steps"], kept["lr_scheduler_type"], kept["gradient_accumulation_steps"]) == (0.2, "cosine", 2)
    assert M3Encoder.from_pretrained(tmp_path / "tuned").prompts.query == "find: "


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"head-learning-rate": "dense=1"},
            "--head-learning-rate must be a number, or numbers by name of sparse, multi",
        ),
        ({"temperature": "warm"}, "--temperature must be a number, or numbers by name of dense, sparse"),
        ({"scheduler": "steep"}, "--scheduler must be one of linear, cosine, constant, "),
        ({"scheduler": "reduce_lr_on_plateau"}, "inverse_sqrt, got 'reduce_lr_on_plateau'"),
        ({"report-to": "paper"}, "--report-to must name installed loggers ("),
        ({"head-learning-rate": "sparse=-1"}, "head_learning_rate of sparse must be a finite number >= 0, got -1"),
        ({"learning-rate": "inf"}, "learning_rate must be a finite number >= 0, got inf"),
        ({"epochs": 1}, "--epochs 1 and --max-steps 2 are two ends; give one"),
        ({"patience": 2}, "--patience 2 needs --dev"),
        ({"heads": "dense,colbert"}, "heads must be one or more of dense, sparse, multi_vector"),
        ({"train-encoder": "half"}, "train_encoder must be one of full, lora, frozen, got 'half'"),
        ({"teacher": "me"}, "--teacher must be one of live, frozen, ema, noisy, stored, got 'me'"),
        ({"teacher": "stored"}, "needs pos_scores and neg_scores in every line"),
        ({"passage-max-length": 9000}, "passage_max_length must be at most 8192"),
        ({"temperature": 0}, "temperature must be positive"),
        ({"dev": "nosuch"}, "a BEIR collection needs nosuch/corpus.jsonl"),
        ({"batch-size": 0}, "Invalid value for '--batch-size'"),
        ({"output": __file__}, "is a file; name another"),
    ],
)
def test_a_wrong_call_exits_2_with_one_line_and_leaves_nothing(
    data: Path, call, tmp_path: Path, options: dict[str, object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(call(data, **options)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("m3: ") and said in err and err.count("\n") == 1
    assert not (tmp_path / "tuned").exists()


def test_a_logger_that_is_not_installed_is_found_out_before_the_run(
    data: Path, call, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    assert run(call(data, **{"report-to": "wandb"})) == 2
    err = capsys.readouterr().err
    assert err.endswith("got wandb; install it, or leave it out\n") and err.count("\n") == 1
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize("scheduler", ["constant_with_warmup", "polynomial", "inverse_sqrt"])
def test_every_schedule_trains(data: Path, call, scheduler: str) -> None:
    assert run(call(data, scheduler=scheduler)) == 0


def test_data_and_models_and_runs_that_are_not_there(data: Path, call, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(call(Path("nosuch.jsonl"))) == 2
    assert "got nosuch.jsonl" in capsys.readouterr().err
    assert run(call(data, model=data.parent)) == 2
    assert "has no config.json" in capsys.readouterr().err
    assert run(call(data, model="typo")) == 2
    assert "no model 'typo'" in capsys.readouterr().err
    assert run([*call(data), "--resume"]) == 2
    assert "there is no run in" in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_go_on_and_does(
    data: Path, call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "m3plugins.cli", *call(data, **{"max-steps": 10**6, "save-steps": 1})]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # jobs in a shell's background ignore it
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    while newest(tmp_path / "tuned" / "checkpoints") is None:
        assert running.poll() is None, running.communicate()
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate()
    assert (running.returncode, out) == (1, "")
    kept = newest(tmp_path / "tuned" / "checkpoints")
    assert kept is not None
    assert err.splitlines()[-1] == f"m3: interrupted; the same call with --resume goes on from {kept}"
    steps = int(kept.name.removeprefix("checkpoint-")) + 1
    assert run([*call(data, **{"max-steps": steps}), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == steps


def test_without_the_extra_it_says_what_to_install(data: Path, call) -> None:
    code = f"import sys; sys.modules['peft'] = None; from m3plugins.cli import main; main({call(data)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'm3: training needs peft: pip install "m3plugins[train]"\n'


def test_the_defaults_are_those_of_python() -> None:
    """Those of the options, and those that a help text tells."""
    same = {"batch_size": "per_device_train_batch_size", "log_steps": "logging_steps", "epochs": "num_train_epochs"}
    same |= {"warmup": "warmup_steps", "accumulation": "gradient_accumulation_steps", "scheduler": "lr_scheduler_type"}
    options = {
        same.get(name, name): option for name, option in inspect.signature(train, eval_str=True).parameters.items()
    }
    ours = {name: option.default for name, option in options.items()}
    theirs = {field.name: field.default for field in fields(SelfDistillationArguments) if field.default is not MISSING}
    ours |= {"heads": tuple(ours["heads"].split(",")), "temperature": float(ours["temperature"])}
    ours["self_distillation"] = not ours.pop("no_self_distillation")
    ours["loss_weights"] = ours["distillation_weights"] = PerHead(sparse=ours.pop("sparse_loss_weight"))
    texts = {name: option.annotation.__metadata__[0].help for name, option in options.items()}
    told = {name: int(found[1]) for name, text in texts.items() if (found := re.search(r"\(default: (\d+)", text))}
    assert told.keys() == {"num_train_epochs", "save_steps", "query_max_length", "passage_max_length"}
    ours |= told
    no_settings = {"data", "output", "model", "split", "resume", "as_json", "teacher", "dev", "dev_split", "patience"}
    differ = {"eval_steps", "gradient_checkpointing"}  # of --dev; None is off
    assert ours.keys() - no_settings <= theirs.keys()
    for name in ours.keys() - no_settings - differ:
        assert ours[name] is None or ours[name] == theirs[name], name  # None leaves it to Python

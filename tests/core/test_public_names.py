"""The names that users type: frozen, so that one cannot vanish unnoticed."""

import importlib
from pathlib import Path

import pytest

import m3plugins

NAMES = {
    "m3plugins": """Document HeadScores Hit HybridIndex HybridRetriever HybridWeights InMemoryHybridIndex M3Encoder
        M3Output ModelMismatchError MultiVectorEmbeddings SparseEmbeddings filters""",
    "m3plugins.encoding": """EmbeddingMemo EncoderOptions HEADS Head M3Encoder M3Output MultiVectorEmbeddings Passages
        SparseEmbeddings SparseVector shared_encoder""",
    "m3plugins.scoring": "HeadScores SIGNALS Signal dense_scores head_scores multi_vector_scores sparse_scores",
    "m3plugins.compression": "BinaryCodec CODECS DEFAULT_CODEC Codec Float16Codec Int8Codec get_codec",
    "m3plugins.fusion": "HybridWeights best_first ranks reciprocal_rank_fusion weighted_sum",
    "m3plugins.indexing": """BrokenDocumentsError Candidate Document FailedDocument Heading HybridIndex
        InMemoryHybridIndex IndexExistsError IndexInfo IndexNotFoundError ModelMismatchError Passages ReembedError
        ReembedReport Reembedding UpsertError UpsertReport filters""",
    "m3plugins.retrieval": "Explanation Hit HybridRetriever LexicalMatch SearchOptions TokenMatch explain filters",
    "m3plugins.serving": "ServiceOptions create_app",
    "m3plugins.loaders": "Page SUFFIXES installed load",
    "m3plugins.reranking": "CrossEncoderReranker M3Reranker Reranker",
    "m3plugins.training": """Batch CheckpointError DatasetError DivergedError Drift Example FrozenEnsemble LiveEnsemble
        LossOptions M3Collator M3Dataset M3Loss M3Model MovingAverage NoisyEnsemble PerHead Probe Representations
        SelfDistillationArguments SelfDistillationTrainer SparseCollapseAlarm StoredScores Teacher TokenBatch
        TokenVectors TokenWeights m3_loss""",
}


@pytest.mark.parametrize("package", NAMES)
def test_all_is_what_it_was(package: str):
    if package == "m3plugins.training":
        pytest.importorskip("accelerate", reason="training needs m3plugins[train]")
    if package == "m3plugins.serving":
        pytest.importorskip("fastapi", reason="the service needs m3plugins[serve]")
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(NAMES[package].split())
    assert all(hasattr(module, name) for name in module.__all__)


def test_types_are_shipped():
    assert (Path(m3plugins.__file__).parent / "py.typed").is_file()


def test_the_core_imports_no_host():
    import subprocess
    import sys

    code = (
        "import m3plugins, sys; print([m for m in ('pymilvus', 'torch', 'transformers', 'typer') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"

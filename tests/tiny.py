"""What tests are made of: a tiny random M3 checkpoint with a multilingual tokenizer, and documents."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

from m3plugins import Document

SENTENCES = [
    "The quick brown fox jumps over the lazy dog near the river bank.",
    "Retrieval finds the passages that answer a question.",
    "Der schnelle braune Fuchs springt über den faulen Hund am Ufer.",
    "Le renard brun saute par-dessus le chien paresseux, près de la rivière.",
    "Быстрая бурая лиса прыгает через ленивую собаку у реки.",
    "敏捷的棕色狐狸跳过了河边的懒狗。",
    "素早い茶色の狐が川辺の怠け者の犬を飛び越える。",
    "빠른 갈색 여우가 강가의 게으른 개를 뛰어넘는다.",
    "الثعلب البني السريع يقفز فوق الكلب الكسول قرب النهر.",
    "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจริมแม่น้ำ",
    "नदी के किनारे तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "Η γρήγορη καφέ αλεπού πηδά πάνω από το τεμπέλικο σκυλί.",
]


def random_documents(count: int, seed: int = 0) -> list[Document]:
    """Texts of several scripts, some empty, some alike, with metadata to filter by."""
    choose = random.Random(seed)
    words = " ".join(SENTENCES).split()
    return [
        Document(
            id=f"doc-{number}",
            text=" ".join(choose.choices(words, k=choose.randint(0, 30))),
            title=choose.choice(["", "Fox", "狐"]),
            metadata={"number": number, "lang": choose.choice(["en", "de", "ja"]), "even": number % 2 == 0},
            parent_id=None if number % 3 else f"parent-{number}",
        )
        for number in range(count)
    ]


def train_tokenizer(vocab_size: int = 600) -> Tokenizer:
    """A Unigram tokenizer of XLM-R's kind, trained on a sentence a script."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 20, trainer)
    pieces = sorted(tokenizer.get_vocab().keys() - set(specials))  # training orders and scores them anew every time
    tokenizer.model = models.Unigram([(piece, -1.0) for piece in [*specials, *pieces]], unk_id=3)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def save_checkpoint(
    folder: Path,
    *,
    hidden_size: int = 32,
    layers: int = 2,
    heads: int = 4,
    intermediate_size: int = 64,
    vocab_size: int | None = None,
    max_length: int = 8192,
) -> Path:
    """A random M3 checkpoint folder as the hub has it: an XLM-R and the two head files."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer()
    config = XLMRobertaConfig(
        vocab_size=vocab_size or tokenizer.get_vocab_size() + 1,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=max_length + 2,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
    )
    XLMRobertaModel(config, add_pooling_layer=True).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    ).save_pretrained(folder)
    torch.save(torch.nn.Linear(hidden_size, hidden_size).state_dict(), folder / "colbert_linear.pt")
    torch.save(torch.nn.Linear(hidden_size, 1).state_dict(), folder / "sparse_linear.pt")
    return folder


def save_cross_encoder(folder: Path, labels: int = 1) -> Path:
    """A random reranker of that many labels."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer()
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size() + 1,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=130,
        type_vocab_size=1,
        pad_token_id=1,
        num_labels=labels,
        initializer_range=0.3,
    )
    XLMRobertaForSequenceClassification(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder

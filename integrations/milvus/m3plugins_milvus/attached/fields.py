"""Which fields of a foreign collection are what, and what of it the collection bears out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pymilvus import DataType

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import Head
from m3plugins.indexing.errors import IndexNotFoundError, ModelMismatchError
from m3plugins_milvus.client import Connection, errors
from m3plugins_milvus.schema import BLOCKS_SUFFIX

VECTORS = frozenset(kind for kind in DataType if "VECTOR" in kind.name)
DYNAMIC = "$meta"


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The names that a collection has for what a document is made of.

    Attributes:
        id: The primary key, a string or an integer.
        text: The text.
        dense: The dense vector, if it is stored.
        sparse: The sparse vector, if it is stored; one of the two must be.
        title: The title, if there is one; it is encoded ahead of the text.
        parent_id: The id of the document that this one is a passage of, if there is one.
        metadata: A JSON field with the metadata; None: all other fields, dynamic ones too, are the metadata.

    Raises:
        ValueError: If there is no vector, or two of them have one name.
    """

    id: str = "id"
    text: str = "text"
    dense: str | None = None
    sparse: str | None = None
    title: str | None = None
    parent_id: str | None = None
    metadata: str | None = None

    def __post_init__(self) -> None:
        if self.dense is None and self.sparse is None:
            msg = "fields must name a dense or a sparse vector, got neither; without one there is nothing to search"
            raise ValueError(msg)
        if len(set(self.named.values())) < len(self.named):
            msg = f"fields must be different ones, got {self.named}"
            raise ValueError(msg)

    @property
    def named(self) -> dict[str, str]:
        """The fields that have a name, by what they are."""
        return {role: name for role, name in asdict(self).items() if name is not None}

    @property
    def heads(self) -> dict[Head, str]:
        """The vectors' fields, by head."""
        heads: dict[Head, str | None] = {"dense": self.dense, "sparse": self.sparse}
        return {head: name for head, name in heads.items() if name is not None}


@dataclass(frozen=True)
class VectorIndex:
    """How a vector field is searched: its name, type of data, type of index, and metric."""

    field: str
    kind: DataType
    index_type: str
    metric: str


@dataclass(frozen=True)
class TableSchema:
    """What a collection is like.

    Attributes:
        fields: Which field is what.
        kinds: The types of all fields that hold data of the user's, by name.
        indexes: How its vectors are searched.
        dynamic: Whether a row may have more fields than these.
        auto_id: Whether Milvus makes the keys.
    """

    fields: Fields
    kinds: Mapping[str, DataType]
    indexes: Mapping[Head, VectorIndex]
    dynamic: bool
    auto_id: bool

    @property
    def scalars(self) -> list[str]:
        """The fields that are metadata, where no JSON field holds these."""
        named = set(self.fields.named.values())
        return [name for name, kind in self.kinds.items() if name not in named and kind not in VECTORS]

    @property
    def metadata(self) -> list[str]:
        """What to read for a document's metadata."""
        if self.fields.metadata:
            return [self.fields.metadata]
        return [*self.scalars, *([DYNAMIC] if self.dynamic else [])]

    @property
    def document(self) -> list[str]:
        """What to read for a document."""
        optional = [name for name in (self.fields.title, self.fields.parent_id) if name]
        return [self.fields.text, *optional, *self.metadata]

    @property
    def foreign(self) -> list[str]:
        """What of a row is no part of a document: it stays as it is when the document is replaced."""
        ours = {*self.fields.named.values(), *self.metadata}
        return [name for name in (*self.kinds, *([DYNAMIC] if self.dynamic else [])) if name not in ours]


def find(connection: Connection, name: str) -> Mapping[str, Any]:
    """What Milvus says of a collection, or of the one that an alias stands for.

    Raises:
        IndexNotFoundError: If there is none.
    """
    client = connection.client
    if connection.exclusive:
        target = connection.resolve(name)
        connection.check(target, target + BLOCKS_SUFFIX)
    with errors(f"look for {name!r}"):
        if client.has_collection(name):
            described: Mapping[str, Any] = client.describe_collection(name)
            return described
        connection.check_all()
        there = ", ".join(sorted(client.list_collections())) or "none"
    msg = f"there is no collection {name!r} at {connection.uri} (there are: {there}); give the name of one"
    raise IndexNotFoundError(msg)


def inspect(connection: Connection, described: Mapping[str, Any], fields: Fields, encoder: M3Encoder) -> TableSchema:
    """Compares a collection with what the caller says of it.

    Raises:
        ValueError: If a field is missing or of a wrong type, or a vector has no index, or a wrong one.
        ModelMismatchError: If the dense vectors are not as wide as the encoder's.
    """
    name = described["collection_name"]
    by_name = {field["name"]: field for field in described["fields"]}
    expected = {
        "id": (DataType.VARCHAR, DataType.INT64),
        "dense": (DataType.FLOAT_VECTOR, DataType.FLOAT16_VECTOR),
        "sparse": (DataType.SPARSE_FLOAT_VECTOR,),
        "metadata": (DataType.JSON,),
    }
    for role, field in fields.named.items():
        kinds = expected.get(role, (DataType.VARCHAR,))
        if field not in by_name:
            msg = f"{role} names the field {field!r}, but {name!r} has {', '.join(by_name)}; name one of these"
            raise ValueError(msg)
        if by_name[field]["type"] not in kinds:
            allowed = " or ".join(kind.name for kind in kinds)
            msg = f"the field {field!r} must be {allowed} to be the {role}, it is {by_name[field]['type'].name}"
            raise ValueError(msg)
    if not by_name[fields.id].get("is_primary"):
        msg = f"id must name the primary key of {name!r}, {fields.id!r} is none; name that"
        raise ValueError(msg)
    if fields.dense and (dim := int(by_name[fields.dense]["params"]["dim"])) != encoder.dim:
        msg = f"{fields.dense!r} holds vectors of width {dim}, the encoder's are {encoder.dim}; use their model"
        raise ModelMismatchError(msg)
    made = {output for function in described.get("functions", ()) for output in function["output_field_names"]}
    return TableSchema(
        fields=fields,
        kinds={name: field["type"] for name, field in by_name.items() if name not in made},
        indexes={head: _index(connection, name, field, by_name[field]["type"]) for head, field in fields.heads.items()},
        dynamic=bool(described.get("enable_dynamic_field")),
        auto_id=bool(described.get("auto_id") or by_name[fields.id].get("auto_id")),
    )


def _index(connection: Connection, name: str, field: str, kind: DataType) -> VectorIndex:
    with errors(f"look for the index of {field!r}"):
        names = connection.client.list_indexes(name, field_name=field)
        index = connection.client.describe_index(name, names[0]) if names else None
    if index is None:
        msg = f"{field!r} of {name!r} has no index, so it cannot be searched; make one (see hybrid_index_params)"
        raise ValueError(msg)
    metric = str(index["metric_type"]).upper()
    metrics = ("IP",) if kind == DataType.SPARSE_FLOAT_VECTOR else ("IP", "COSINE")
    if metric not in metrics:
        msg = (
            f"M3 scores by inner product: the index of {field!r} must have the metric {' or '.join(metrics)}, it has "
            f"{metric}; drop that index and make one of them (see hybrid_index_params)"
        )
        raise ValueError(msg)
    return VectorIndex(field, kind, str(index["index_type"]), metric)

"""An index on a collection that someone else made and filled."""

from m3plugins_milvus.attached.fields import Fields
from m3plugins_milvus.attached.index import AttachedIndex

__all__ = ["AttachedIndex", "Fields"]

"""Reencoding: an archive's decisions with other features, where its texts were kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bandit_router.log.archive import Archive, pack_features, unpack_features
from bandit_router.log.rows import pack
from bandit_router.prompt import Prompt
from bandit_router.values import Array

if TYPE_CHECKING:
    import pyarrow as pa

_AT_ONCE = 256  # prompts
Encode = Callable[[Sequence[Prompt]], Array]


@dataclass(slots=True, kw_only=True)
class Reencoder:
    """Encodes one router's decisions again.

    Attributes
    ----------
    router, version : str
        Whose decisions, and what the features are called.
    dim : int
        How many there are.
    encode : callable
        Returns those of prompts, of shape (n, dim).
    leaves : bool
        What has no text is left with the features that it has, instead of the constant alone.
    encoded, textless : int
        How many decisions got other features, and how many of them only the constant, for want of a text.
    """

    router: str
    version: str
    dim: int
    encode: Encode
    leaves: bool = False
    encoded: int = field(default=0)
    textless: int = field(default=0)

    def rewrite(self, archive: Archive, *, number: int) -> Archive:
        """Write an archive's decisions with these features; return the archive that has them."""
        groups = (self._group(archive, group) for group in archive.groups("decisions"))
        return archive.write("decisions", groups, number=number)

    def _group(self, archive: Archive, group: pa.Table) -> pa.Table:
        import pyarrow as pa

        rows = group.select(["id", "router", "features_version"]).to_pylist()
        old = [i for i, row in enumerate(rows) if self._is_old(row)]
        if not old:
            return group
        found = self._vectors(archive, [rows[i]["id"] for i in old])
        if self.leaves:
            old = [i for i in old if rows[i]["id"] in found]
        constant = np.zeros(self.dim)
        constant[0] = 1.0
        features, versions = (
            unpack_features(group.column("features")),
            [r["features_version"] for r in rows],
        )
        for i in old:
            features[i] = pack(found.get(rows[i]["id"], constant))
            versions[i] = self.version
        self.encoded += len(old)
        self.textless += len(old) - len(found)
        for name, column in (
            ("features", pack_features(features)),
            ("features_version", pa.array(versions)),
        ):
            at = group.schema.get_field_index(name)
            group = group.set_column(at, group.schema.field(at), column)
        return group

    def _is_old(self, row: dict[str, Any]) -> bool:  # Any: texts
        return bool(row["router"] == self.router and row["features_version"] != self.version)

    def _vectors(self, archive: Archive, ids: Sequence[str]) -> dict[str, Array]:
        """The features of those that have a text."""
        texts = {
            row["decision_id"]: row["prompt"]
            for row in archive.between("texts", self.router, ids[0], ids[-1])
            if row["prompt"] is not None
        }
        kept = [of for of in ids if of in texts]
        vectors: dict[str, Array] = {}
        for start in range(0, len(kept), _AT_ONCE):
            some = kept[start : start + _AT_ONCE]
            x = self.encode([Prompt.of(json.loads(texts[of])) for of in some])
            vectors.update(zip(some, x, strict=True))
        return vectors

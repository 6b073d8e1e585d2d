"""What must stay within one split: images of one group, and groups that have an image in common. No Ray."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fpt_ray.datasets.checks.alike import numbered
from fpt_ray.images.columns import as_hex
from fpt_ray.images.table import ImageTable


def units_of(table: ImageTable, findings: pa.Table) -> pa.DictionaryArray:
    """The units of an inspected table: its groups, or where it has none the contents of its files; see ``joined``."""
    own = as_hex(table.hashes()) if table.groups is None else table.groups.cast(pa.string())
    return joined(own, findings["pixels"])


def joined(groups: pa.StringArray, contents: pa.Array | pa.ChunkedArray) -> pa.DictionaryArray:
    """The groups of rows, where those that share a content are one; it is called by the first name of them."""
    coded = groups.dictionary_encode()
    group, content, number = coded.indices.to_numpy(), numbered(contents), len(coded.dictionary)
    size = number + content.max(initial=-1) + 1
    edges = coo_array((np.ones(len(group), bool), (group, number + content)), shape=(size, size))
    _, found = connected_components(edges, directed=False)
    order = pc.sort_indices(coded.dictionary).to_numpy()
    _, firsts, unit = np.unique(found[order], return_index=True, return_inverse=True)
    of_group = np.empty(number, np.int32)
    of_group[order] = unit
    return pa.DictionaryArray.from_arrays(pa.array(of_group[group]), coded.dictionary.take(pa.array(order[firsts])))

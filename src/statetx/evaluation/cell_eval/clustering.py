"""Agreement of clusters of predicted mean profiles with those of real ones.

This is ``clustering_agreement`` of cell-eval, with the graph and the clustering that scanpy makes
there: 15 nearest neighbours of each mean profile, weights of UMAP, Leiden of igraph. The packages
of UMAP and igraph are optional (extra ``clustering``).
"""

from __future__ import annotations

import random
import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
from scipy import sparse

PACKAGES = {"igraph": "igraph", "umap": "umap-learn"}
"""Imported module -> package that contains it."""

NEIGHBOURS = 15
REAL_RESOLUTION = 1.0
PRED_RESOLUTIONS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0)


def why_absent() -> str | None:
    """Return why the metric cannot be computed (missing packages), or None if it can."""
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if not missing:
        return None
    return f"it needs {' and '.join(missing)} (pip install 'statetx[clustering]')"


def clustering_agreement(real: np.ndarray, pred: np.ndarray) -> float:
    """Return the best adjusted mutual information of real clusters with predicted ones.

    The real profiles are clustered at resolution 1, the predicted ones at seven resolutions, and
    the best of these counts. With few perturbations Leiden returns one cluster, and the value is 0
    or 1.

    Parameters
    ----------
    real, pred
        float64 [P, G], mean profiles.

    Returns
    -------
    float
        At least 0; NaN for fewer than 3 perturbations, for which such a graph cannot be made.
    """
    if len(real) < 3:
        return float("nan")
    from sklearn.metrics import adjusted_mutual_info_score

    real_clusters = _clusters(_graph(real), REAL_RESOLUTION)
    graph = _graph(pred)
    pred_clusters = [_clusters(graph, resolution) for resolution in PRED_RESOLUTIONS]
    return max(
        0.0,
        *(float(adjusted_mutual_info_score(real_clusters, clusters)) for clusters in pred_clusters),
    )


def _graph(profiles: np.ndarray) -> Any:
    """Return the neighbour graph of profiles [P, G] with weights of UMAP, as an igraph graph."""
    import igraph

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap.umap_ import fuzzy_simplicial_set
    from sklearn.neighbors import NearestNeighbors

    n = len(profiles)
    k = min(NEIGHBOURS, n - 1)
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(profiles)
    distances, indices = search.kneighbors(profiles)
    # Rounding leaves a distance of 1e-7 between a point and itself. UMAP would take the point for
    # its own nearest neighbour.
    distances[indices == np.arange(n)[:, None]] = 0.0
    weights, *_ = fuzzy_simplicial_set(
        sparse.coo_matrix((n, 1)),
        k,
        None,
        None,
        knn_indices=indices,
        knn_dists=distances,
        set_op_mix_ratio=1.0,
        local_connectivity=1.0,
    )
    # Each edge occurs twice, once per direction, as in the graph that scanpy passes to Leiden.
    table = weights.tocsr()
    rows, columns = table.nonzero()
    graph = igraph.Graph(n=n, edges=list(zip(rows.tolist(), columns.tolist(), strict=True)))
    graph.es["weight"] = np.asarray(table[rows, columns]).ravel()
    return graph


class _Seeded:
    """Random numbers with those methods of Python's ``random`` that igraph calls."""

    def __init__(self) -> None:
        state = np.random.RandomState(0)  # the generator that scanpy seeds
        self._state = state
        self.random, self.gauss = state.random_sample, state.normal

    def getrandbits(self, bits: int) -> int:
        """Return `bits` random bits."""
        return int(self._state.tomaxint()) & ((1 << bits) - 1)

    def randint(self, low: int, high: int) -> int:
        """Return an integer from `low` to `high`, both included."""
        return int(self._state.randint(low, high + 1))


def _clusters(graph: Any, resolution: float) -> list[int]:
    import igraph

    igraph.set_random_number_generator(_Seeded())
    try:
        clusters = graph.community_leiden(
            objective_function="modularity", weights="weight", resolution=resolution, n_iterations=2
        )
    finally:
        igraph.set_random_number_generator(random)
    return list(clusters.membership)

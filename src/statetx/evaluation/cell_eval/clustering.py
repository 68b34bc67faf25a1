"""Do the predictions fall into the same groups of perturbations as the real cells?

cell-eval's ``clustering_agreement``, on the graph and with the clustering that scanpy makes there:
15 nearest neighbours of every mean profile, UMAP's weights, igraph's Leiden. Both packages are
optional (extra ``clustering``).
"""

from __future__ import annotations

import random
import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
from scipy import sparse

PACKAGES = {"igraph": "igraph", "umap": "umap-learn"}
"""Modules that are imported, and the packages that bring them."""

NEIGHBOURS = 15
REAL_RESOLUTION = 1.0
PRED_RESOLUTIONS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0)


def why_absent() -> str | None:
    """Say what the metric lacks here; None: nothing."""
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if not missing:
        return None
    return f"it needs {' and '.join(missing)} (pip install 'statetx[clustering]')"


def clustering_agreement(real: np.ndarray, pred: np.ndarray) -> float:
    """Best adjusted mutual information of the real clusters with predicted ones; at least 0.

    The real profiles are clustered at resolution 1, the predicted ones at seven, and the best of
    them counts. With few perturbations Leiden returns one cluster, and the value is 0 or 1.

    Parameters
    ----------
    real, pred
        float64 [P, G], mean profiles.

    Returns
    -------
    NaN for fewer than 3 perturbations, of which there is no such graph.
    """
    if len(real) < 3:
        return float("nan")
    from sklearn.metrics import adjusted_mutual_info_score

    truth = _clusters(_graph(real), REAL_RESOLUTION)
    graph = _graph(pred)
    found = [_clusters(graph, resolution) for resolution in PRED_RESOLUTIONS]
    return max(0.0, *(float(adjusted_mutual_info_score(truth, own)) for own in found))


def _graph(profiles: np.ndarray) -> Any:
    """Neighbour graph of profiles [P, G] with UMAP's weights: an igraph graph."""
    import igraph

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap.umap_ import fuzzy_simplicial_set
    from sklearn.neighbors import NearestNeighbors

    n = len(profiles)
    k = min(NEIGHBOURS, n - 1)
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(profiles)
    distances, indices = search.kneighbors(profiles)
    # Rounding leaves 1e-7 between a point and itself, which UMAP would take for its nearest neighbour.
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
    # Every edge stands twice, once per direction, as in the graph that scanpy gives to Leiden.
    table = weights.tocsr()
    rows, columns = table.nonzero()
    graph = igraph.Graph(n=n, edges=list(zip(rows.tolist(), columns.tolist(), strict=True)))
    graph.es["weight"] = np.asarray(table[rows, columns]).ravel()
    return graph


class _Seeded:
    """Random numbers for igraph, which asks for the methods of Python's ``random``."""

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
        found = graph.community_leiden(
            objective_function="modularity", weights="weight", resolution=resolution, n_iterations=2
        )
    finally:
        igraph.set_random_number_generator(random)
    return list(found.membership)

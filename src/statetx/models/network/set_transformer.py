"""PertSets, a set transformer that predicts perturbed cells from control cells (State Transition).

    p = pert_encoder(perturbation)            [B, H]     once per set
    c = basal_encoder(control)                [B, S, H]
    h = transformer_backbone(p + c)           [B, S, H]
    cells = relu(project_out(h + c))          [B, S, D]  (without residual: project_out(h))

The cells of a set attend to each other. ReLU keeps predicted log1p expression non-negative. Options
are a batch embedding, tokens that attend with the cells, a residual in the space of the input and a
gene decoder. Parameters have the names of State's checkpoints.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from statetx.core.errors import ModelError
from statetx.models.network.architecture import Architecture, ConfidenceToken, mlp
from statetx.models.network.backbone import Backbone, Shape
from statetx.models.network.decoder import DECODERS
from statetx.models.network.gpt2 import Gpt2Backbone


class Prediction(NamedTuple):
    """The result of a forward pass.

    Attributes
    ----------
    cells
        Predicted cells, [B, S, D_out].
    genes
        Expression from a gene decoder, [B, S, G], or None.
    confidence
        Expected loss of the set times 10, from a confidence token, [B], or None.
    batch_logits
        Logits of the batch, from a batch token, [B, batches], or None.
    """

    cells: Tensor
    genes: Tensor | None = None
    confidence: Tensor | None = None
    batch_logits: Tensor | None = None


class PertSets(nn.Module):
    """The set transformer.

    Parameters
    ----------
    architecture
        Shapes and switches.

    Raises
    ------
    ModelError
        The architecture has a batch encoder or token, but no number of batches.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = a = architecture
        hidden, depth = a.backbone.hidden_size, a.n_encoder_layers

        def made(layers: int, inputs: int, outputs: int) -> nn.Sequential:
            return mlp(layers, inputs, hidden, outputs, a.dropout, a.activation)

        self.pert_encoder = made(depth, a.pert_dim, hidden)
        self.basal_encoder: nn.Module = (
            made(depth, a.input_dim, hidden)
            if a.use_basal_projection
            else nn.Linear(a.input_dim, hidden)
        )
        self.transformer_backbone: nn.Module = (
            Backbone(a.backbone) if isinstance(a.backbone, Shape) else Gpt2Backbone(a.backbone)
        )
        self.project_out = made(a.n_decoder_layers, hidden, a.output_dim)
        if (a.batch_encoder or a.batch_token) and a.batch_dim is None:
            raise ModelError("a batch encoder or token needs batch_dim")
        if a.batch_encoder:
            self.batch_encoder = nn.Embedding(a.batch_dim or 0, hidden)
        if a.batch_token:
            self.batch_token = nn.Parameter(torch.randn(1, 1, hidden))
            self.batch_classifier = made(1, hidden, a.batch_dim or 0)
        if a.confidence_token:
            self.confidence_token = ConfidenceToken(hidden, a.dropout)
        if a.down_then_up:
            narrow = a.output_dim // 8
            self.final_down_then_up = nn.Sequential(
                nn.Linear(a.output_dim, narrow), nn.GELU(), nn.Linear(narrow, a.output_dim)
            )
        if a.decoder is not None:
            self.gene_decoder = DECODERS[a.decoder.kind](a.decoder)

    def encode_perturbation(self, perturbation: Tensor) -> Tensor:
        """Encode ids [B], vectors [B, P] or per-cell vectors [B, S, P] to [B, H] or [B, S, H].

        An id means its one-hot vector. The first layer then only gathers a column of its weights,
        which saves 4 P bytes per cell. Dropout acts once per set.

        Parameters
        ----------
        perturbation
            Integer ids [B], or floating point vectors [B, P] or [B, S, P].

        Raises
        ------
        ModelError
            An id is outside the vocabulary, or vectors have the wrong width.
        """
        size = self.architecture.pert_dim
        if perturbation.is_floating_point():
            if perturbation.shape[-1] != size:
                raise ModelError(
                    f"perturbation vectors have {perturbation.shape[-1]} columns, "
                    f"but the model takes {size}"
                )
            return self.pert_encoder(perturbation)
        if perturbation.ndim != 1:
            raise ModelError(
                f"perturbation ids have shape {tuple(perturbation.shape)}",
                fix="give an id per set, [B], or give vectors as floating point numbers",
            )
        # On a GPU this check would wait for the device at every step. The gather checks ids there.
        outside = (perturbation < 0) | (perturbation >= size)
        if perturbation.device.type == "cpu" and bool(outside.any()):
            raise ModelError(
                f"perturbation id {int(perturbation[outside][0])} is outside the vocabulary "
                f"of {size} labels"
            )
        first: nn.Linear = self.pert_encoder[0]  # type: ignore[assignment]
        encoded = functional.embedding(perturbation, first.weight.mT) + first.bias  # [B, H]
        return self.pert_encoder[1:](encoded)

    def forward(
        self,
        control: Tensor,
        perturbation: Tensor,
        batch: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Prediction:
        """Predict the perturbed cells of each set.

        Parameters
        ----------
        control
            Basal cells [B, S, D].
        perturbation
            Ids [B] (integers), vectors [B, P], or per-cell vectors [B, S, P].
        batch
            Batch of every cell, for models with a batch encoder: ids [B] or [B, S], or one-hot
            [B, S, batches].
        mask
            Which rows are cells, bool [B, S]; None: all. No cell attends to other rows, and the
            predictions for these rows have no meaning.

        Raises
        ------
        ModelError
            A shape is wrong, an id is unknown, or `batch` is given without a batch encoder or
            missing for a batch encoder.
        """
        a = self.architecture
        if control.ndim != 3 or control.shape[-1] != a.input_dim:
            raise ModelError(
                f"basal cells have shape {tuple(control.shape)}, "
                f"but the model takes [sets, cells, {a.input_dim}]"
            )
        n_sets, n_cells, _ = control.shape
        if a.dropout_per_cell and self.training and perturbation.ndim < 3:
            perturbation = (
                functional.one_hot(perturbation, a.pert_dim).to(control.dtype)
                if (perturbation.ndim == 1)
                else perturbation
            )
            perturbation = perturbation[:, None].expand(-1, n_cells, -1)
        encoded = self.encode_perturbation(perturbation)
        if encoded.shape[0] != n_sets:
            raise ModelError(f"{encoded.shape[0]} perturbations are given for {n_sets} sets")
        if encoded.ndim == 2:
            encoded = encoded[:, None, :]  # [B, 1, H]
        basal = self.basal_encoder(control)  # [B, S, H]
        combined = encoded + basal
        ids = self._batches(batch, n_sets, n_cells)
        if ids is not None:
            # Embeddings and tokens are float32 under autocast too: without the cast, all later
            # layers would be float32.
            combined = combined + self.batch_encoder(ids).to(combined.dtype)
        hidden, confidence, batch_logits = self._attend(combined, mask)
        if a.predict_residual and not a.down_then_up:
            hidden = hidden + basal
        cells = self.project_out(hidden)  # [B, S, D_out]
        if a.down_then_up:
            cells = self.final_down_then_up(cells + control)
        cells = functional.relu(cells) if a.relu else cells
        return Prediction(cells, self.decode(cells, ids), confidence, batch_logits)

    def _attend(
        self, combined: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return attended cells [B, S, H], confidence [B] and logits of the batch [B, batches]."""
        a, n_sets = self.architecture, combined.shape[0]
        before, after = int(a.batch_token), int(a.confidence_token)
        parts = [combined]
        if before:
            parts.insert(0, self.batch_token.expand(n_sets, 1, -1).to(combined.dtype))
        if after:
            token = self.confidence_token.confidence_token.expand(n_sets, 1, -1)
            parts.append(token.to(combined.dtype))
        if mask is not None and before + after:
            mask = functional.pad(mask, (before, after), value=True)
        attended = self.transformer_backbone(
            torch.cat(parts, 1) if len(parts) > 1 else combined, mask
        )
        confidence = batch_logits = None
        if after:
            confidence = self.confidence_token.confidence_projection(attended[:, -1])[:, 0]
        if before:
            batch_logits = self.batch_classifier(attended[:, 0])
        return attended[:, before : attended.shape[1] - after], confidence, batch_logits

    def _batches(self, batch: Tensor | None, n_sets: int, n_cells: int) -> Tensor | None:
        """Return ids of the cells' batches, int64 [B, S], or None without a batch encoder."""
        a = self.architecture
        if not a.batch_encoder:
            if batch is not None and not a.batch_token:
                raise ModelError("this model has no batch encoder", fix="call it without `batch`")
            return None
        if batch is None:
            raise ModelError("this model has a batch encoder", fix="give the `batch` of every cell")
        ids = batch.argmax(-1) if batch.ndim == 3 else batch.long()
        ids = ids[:, None].expand(n_sets, n_cells) if ids.ndim == 1 else ids
        if ids.shape != (n_sets, n_cells):
            raise ModelError(
                f"batches have shape {tuple(batch.shape)}, but there are {n_sets} sets of "
                f"{n_cells} cells"
            )
        if ids.device.type == "cpu" and bool(((ids < 0) | (ids >= (a.batch_dim or 0))).any()):
            raise ModelError(f"a batch id is outside 0 … {(a.batch_dim or 0) - 1}")
        return ids

    def decode(self, cells: Tensor, batch: Tensor | None = None) -> Tensor | None:
        """Return the expression [B, S, G] that the gene decoder predicts; None without a decoder.

        Parameters
        ----------
        cells
            Predicted cells, [B, S, D_out].
        batch
            Ids of the batches, [B, S], for a decoder that takes the batch too.

        Raises
        ------
        ModelError
            The decoder takes the batch, but `batch` is not given.
        """
        shape = self.architecture.decoder
        if shape is None:
            return None
        if shape.kind == "nb" and shape.latent > self.architecture.output_dim:
            if batch is None:
                raise ModelError("this decoder takes the batch too", fix="give `batch`")
            width = shape.latent - self.architecture.output_dim
            cells = torch.cat([cells, functional.one_hot(batch, width).to(cells.dtype)], dim=-1)
        return self.gene_decoder(cells)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the weights as float32 numpy arrays, copied to the host."""
        return {
            name: np.array(value.detach().float().cpu().numpy())
            for name, value in self.state_dict().items()
        }

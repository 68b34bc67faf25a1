"""PertSets, the State-Transition model: cells of a set attend to each other and become perturbed.

    p = pert_encoder(perturbation)            [B, H]     once per set
    c = basal_encoder(control)                [B, S, H]
    h = transformer_backbone(p + c)           [B, S, H]
    cells = relu(project_out(h + c))          [B, S, D]  (without residual: project_out(h))

ReLU keeps predicted log1p expression non-negative. Options: a batch embedding, tokens that attend with
the cells, a residual in the space of the input, a gene decoder. Names are those of State's checkpoints.
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
    """What a forward pass gives.

    Attributes
    ----------
    cells
        [B, S, D_out]
    genes
        [B, S, G] from a gene decoder, or None.
    confidence
        [B] from a confidence token (what the loss of the set will be, times 10), or None.
    batch_logits
        [B, batches] from a batch token, or None.
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

        An id stands for its one-hot vector: the first layer then is a gather of one of its columns,
        which spares 4 P bytes per cell. Dropout acts once per set.

        Raises
        ------
        ModelError
            An id outside the vocabulary, or vectors of another width.
        """
        size = self.architecture.pert_dim
        if perturbation.is_floating_point():
            if perturbation.shape[-1] != size:
                raise ModelError(
                    f"perturbation vectors have {perturbation.shape[-1]} columns, "
                    f"the model takes {size}"
                )
            return self.pert_encoder(perturbation)
        if perturbation.ndim != 1:
            raise ModelError(
                f"perturbation ids have shape {tuple(perturbation.shape)}",
                fix="give one id per set, [B]; one-hot or feature vectors must be floating point",
            )
        # On a GPU this check would wait for the device at every step; gathering there checks itself.
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
            Which rows are cells, bool [B, S]; the others are seen by none, and what is predicted for
            them means nothing. None: all.

        Raises
        ------
        ModelError
            Wrong shapes, unknown id, a batch for a model without batch encoder, or none for one with.
        """
        a = self.architecture
        if control.ndim != 3 or control.shape[-1] != a.input_dim:
            raise ModelError(
                f"basal cells have shape {tuple(control.shape)}, "
                f"the model takes [sets, cells, {a.input_dim}]"
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
            raise ModelError(f"{encoded.shape[0]} perturbations for {n_sets} sets")
        if encoded.ndim == 2:
            encoded = encoded[:, None, :]  # [B, 1, H]
        basal = self.basal_encoder(control)  # [B, S, H]
        combined = encoded + basal
        ids = self._batches(batch, n_sets, n_cells)
        if ids is not None:
            # Embeddings and tokens are float32 under autocast too, and would make all behind them so.
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
                f"batches have shape {tuple(batch.shape)}, there are {n_sets} sets of {n_cells} cells"
            )
        if ids.device.type == "cpu" and bool(((ids < 0) | (ids >= (a.batch_dim or 0))).any()):
            raise ModelError(f"a batch id is outside 0 … {(a.batch_dim or 0) - 1}")
        return ids

    def decode(self, cells: Tensor, batch: Tensor | None = None) -> Tensor | None:
        """Return the expression [B, S, G] that the gene decoder sees in cells, or None without one.

        Parameters
        ----------
        cells
            [B, S, D_out]
        batch
            Ids [B, S], for a decoder that takes the batch too.
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
        """The weights as float32 numpy arrays, copied to the host."""
        return {
            name: np.array(value.detach().float().cpu().numpy())
            for name, value in self.state_dict().items()
        }

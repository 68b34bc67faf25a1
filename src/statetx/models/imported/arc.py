"""Build a PertSets model from a released State checkpoint.

Shapes of tensors have priority over settings. Anything that neither decides is an error, above all
the attention mode: the versions of two libraries, not the checkpoint, decided which of four modes
it uses.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from statetx.core.errors import ModelError, did_you_mean
from statetx.models.imported.checkpoint_file import described, plain_names, read_checkpoint
from statetx.models.network.architecture import Architecture
from statetx.models.network.backbone import ATTENTION, Shape
from statetx.models.network.decoder import DecoderShape
from statetx.models.network.gpt2 import Gpt2Shape
from statetx.models.network.set_transformer import PertSets

log = logging.getLogger("statetx.models")

BACKBONE = "transformer_backbone."
UNUSED = re.compile(
    r"transformer_backbone\.(base_model\.model\.)?(embed_tokens|wte|wpe)\.weight"
    r"|transformer_backbone\.h\.\d+\.attn\.(bias|masked_bias)"
)
"""Tensors that State does not read, or adds as zeros."""


def load(
    source: str | Path | Mapping[str, Tensor],
    hyper_parameters: Mapping[str, Any] | None = None,
    attention: str | None = None,
) -> PertSets:
    """Build the model of a checkpoint, in evaluation mode.

    Parameters
    ----------
    source
        Lightning checkpoint, or its ``state_dict``.
    hyper_parameters
        Settings. They are required with a ``state_dict``, and replace those of a checkpoint.
    attention
        Name in `ATTENTION`. None: read from the settings. ``bidirectional_attention: True`` means
        ``bidirectional``, ``False`` means ``causal_rope``, ``mask_attn`` means ``alone``.

    Raises
    ------
    ModelError
        The file is unreadable or unsafe, tensors do not fit, or the attention mode is not known.
    """
    with described("state_dict" if isinstance(source, Mapping) else source):
        return _load(source, hyper_parameters, attention)


def _load(
    source: str | Path | Mapping[str, Tensor],
    hyper_parameters: Mapping[str, Any] | None,
    attention: str | None,
) -> PertSets:
    moments: set[int] | None = None
    if isinstance(source, Mapping):
        where, settings = "state_dict", dict(hyper_parameters or {})
        tensors = plain_names(source, where)
    else:
        where = str(source)
        content = read_checkpoint(Path(source))
        tensors = dict(content["state_dict"])
        given = hyper_parameters or content.get("hyper_parameters") or {}
        settings = dict(given) if isinstance(given, Mapping) else {}
        moments = _moments(content)
    if not settings:
        raise ModelError(
            "the checkpoint has no hyper_parameters",
            where=where,
            fix="give hyper_parameters: tensors do not show all settings, such as the residual",
        )
    tensors = _checked(tensors, where)
    had_decoder = any(name.startswith("gene_decoder.") for name in tensors)
    if moments is not None:
        tensors = _without_untrained_decoder(tensors, list(content["state_dict"]), moments, where)
    tensors = _merged(tensors, settings, where)
    architecture = architecture_of(tensors, settings, attention, where, had_decoder)
    with torch.device("meta"):
        model = PertSets(architecture)
    if settings.get("output_space") == "all" and not architecture.down_then_up:
        # Every such checkpoint contains the module, but State uses it with the residual only.
        tensors = {k: v for k, v in tensors.items() if not k.startswith("final_down_then_up.")}
    _fill(model, tensors, where)
    return model.eval()


def _checked(tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the tensors that State reads, after checking that they are finite."""
    kept = {}
    for name, value in tensors.items():
        if UNUSED.fullmatch(name):
            if name.endswith("wpe.weight") and bool(value.count_nonzero()):
                raise ModelError(
                    f"{name} is not zero: models with positions are not supported",
                    where=where,
                    fix="use another checkpoint",
                )
            continue
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{name!r} is {type(value).__name__}, not a tensor",
                where=where,
                fix="give the state_dict of a State model",
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ModelError(
                f"tensor {name!r} contains NaN or infinite values",
                where=where,
                fix="use another checkpoint",
            )
        kept[name] = value
    return kept


def _moments(content: Mapping[str, Any]) -> set[int] | None:
    """Return the numbers of the parameters with optimiser state; None: no state is stored."""
    states = content.get("optimizer_states") or []
    if not states or not states[0].get("state"):
        return None
    return set(states[0]["state"])


def _without_untrained_decoder(
    tensors: dict[str, Tensor], names: list[str], moments: set[int], where: str
) -> dict[str, Tensor]:
    # Parameters have the order of the state_dict. Adam has state only for those with gradients.
    decoder = {i for i, name in enumerate(names) if name.startswith("gene_decoder.")}
    if not decoder or decoder & moments:
        return tensors
    log.warning("%s: the gene decoder is ignored, because it was never trained", where)
    return {k: v for k, v in tensors.items() if not k.startswith("gene_decoder.")}


def _merged(
    tensors: dict[str, Tensor], settings: Mapping[str, Any], where: str
) -> dict[str, Tensor]:
    """Return the tensors with low-rank updates (LoRA) added to their matrices."""
    prefix = f"{BACKBONE}base_model.model."
    if not any(name.startswith(prefix) for name in tensors):
        return tensors
    lora = settings.get("lora") or {}
    alpha = float(lora.get("alpha", lora.get("lora_alpha", 32)))
    out = {}
    for name, value in tensors.items():
        plain = name.replace(prefix, BACKBONE).replace(".base_layer.", ".")
        if ".lora_" in name:
            continue
        down = tensors.get(name.replace(".base_layer.weight", ".lora_A.default.weight"))
        up = tensors.get(name.replace(".base_layer.weight", ".lora_B.default.weight"))
        if ".base_layer." in name and down is not None and up is not None:
            value = value + (alpha / down.shape[0]) * (up @ down)
        out[plain] = value
    log.info("%s: low-rank updates merged, alpha %g", where, alpha)
    return out


def architecture_of(
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    attention: str | None,
    where: str = "state_dict",
    had_decoder: bool | None = None,
) -> Architecture:
    """Return the architecture of tensors; settings add only what tensors do not show.

    `had_decoder` says whether the checkpoint contains a gene decoder, even an ignored one. Without
    a decoder, the output of a model in an embedding is cut off at zero.

    Raises
    ------
    ModelError
        A required tensor is missing, or neither tensors nor settings decide something.
    """
    pert, basal, out = (_linears(tensors, f"{name}.") for name in ENCODERS)
    linear = "basal_encoder.weight" in tensors
    if not pert or not out or not (basal or linear):
        missing = next(
            n for n, f in zip(ENCODERS, (pert, basal or linear, out), strict=True) if not f
        )
        raise ModelError(
            f"the checkpoint does not contain the tensors of {missing}",
            where=where,
            fix="give a checkpoint of a State model",
        )
    if basal and len(basal) != len(pert):
        raise ModelError(
            f"basal_encoder has {len(basal)} layers, but pert_encoder has {len(pert)}",
            where=where,
            fix="copy the checkpoint again: tensors are missing",
        )
    encoder = tensors["basal_encoder.weight"] if linear else basal[0]
    embed_key, space = settings.get("embed_key"), settings.get("output_space", "gene")
    decoder = _decoder(tensors, float((settings.get("decoder_cfg") or {}).get("dropout", 0.1)))
    had_decoder = decoder is not None if had_decoder is None else had_decoder
    residual = bool(settings.get("predict_residual", True))
    batches = tensors.get("batch_encoder.weight")
    classifier = tensors.get("batch_classifier.0.weight")
    batch_dim = next((int(t.shape[0]) for t in (batches, classifier) if t is not None), None)
    return Architecture(
        input_dim=int(encoder.shape[1]),
        output_dim=int(out[-1].shape[0]),
        pert_dim=int(pert[0].shape[1]),
        backbone=_backbone(tensors, settings, attention, where),
        n_encoder_layers=len(pert),
        n_decoder_layers=len(out),
        dropout=float(settings.get("dropout", 0.1)),
        use_basal_projection=not linear,
        predict_residual=residual,
        relu=embed_key in ("X_hvg", None) or not had_decoder,
        activation=str(settings.get("activation", "gelu")).lower(),
        batch_dim=batch_dim,
        batch_encoder=batches is not None,
        batch_token=classifier is not None,
        confidence_token=any(name.startswith("confidence_token.") for name in tensors),
        down_then_up=space == "all"
        and residual
        and any(name.startswith("final_down_then_up.") for name in tensors),
        decoder=decoder,
    )


USUAL = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_theta": 1e4}
"""Settings of the backbone that tensors do not show; known checkpoints do not change them."""
ENCODERS = ("pert_encoder", "basal_encoder", "project_out")


def _linears(tensors: Mapping[str, Tensor], prefix: str) -> list[Tensor]:
    """Return the matrices of an MLP in the order of its layers."""
    matrices = {}
    for name, value in tensors.items():
        number = re.fullmatch(re.escape(prefix) + r"(\d+)\.weight", name)
        if number and value.ndim == 2:
            matrices[int(number[1])] = value
    return [matrices[i] for i in sorted(matrices)]


def _backbone(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any], attention: str | None, where: str
) -> Shape | Gpt2Shape:
    given = settings.get("transformer_backbone_kwargs") or {}
    gpt2 = _layers(tensors, "h", where)
    if gpt2:
        width = int(tensors[f"{BACKBONE}ln_f.weight"].shape[0])
        n_head = int(given.get("n_head", 8))
        if attention not in (None, "causal"):
            raise ModelError(
                f"a GPT-2 backbone does not have attention {attention!r}",
                where=where,
                fix="leave out the attention: these models are causal",
            )
        if width % n_head:
            raise ModelError(
                f"{n_head} heads do not divide the width {width}",
                where=where,
                fix="give transformer_backbone_kwargs.n_head",
            )
        return Gpt2Shape(width, gpt2, n_head)
    for name, usual in USUAL.items():
        if given.get(name, usual) != usual:
            raise ModelError(
                f"{name} is {given[name]!r}, but only {usual!r} is supported",
                where=where,
                fix="use another checkpoint",
            )
    layers = _layers(tensors, "layers", where)
    query = tensors.get(f"{BACKBONE}layers.0.self_attn.q_proj.weight")
    gate = tensors.get(f"{BACKBONE}layers.0.mlp.gate_proj.weight")
    if not layers or query is None or gate is None:
        raise ModelError("the checkpoint does not contain layer 0 of the transformer", where=where)
    width = int(query.shape[0])
    heads: Any = given.get("num_attention_heads")
    if heads is None and given.get("head_dim"):
        heads = width // int(given["head_dim"])
    if not heads or width % int(heads):
        raise ModelError(
            f"the number of attention heads ({heads}) does not divide the width of queries "
            f"({width})",
            where=where,
            fix="give transformer_backbone_kwargs.num_attention_heads",
        )
    return Shape(
        hidden_size=int(query.shape[1]),
        num_hidden_layers=layers,
        num_attention_heads=int(heads),
        head_dim=width // int(heads),
        intermediate_size=int(gate.shape[0]),
        attention=attention_of(given, settings, attention, where),
    )


def _layers(tensors: Mapping[str, Tensor], name: str, where: str) -> int:
    """Return the number of layers of the transformer, after checking that all are present."""
    pattern = re.compile(rf"{BACKBONE}{name}\.(\d{{1,6}})\.")
    numbers = {int(m[1]) for key in tensors if (m := pattern.match(key))}
    if numbers != set(range(len(numbers))):
        missing = min(set(range(len(numbers))) - numbers)
        raise ModelError(
            f"layer {missing} of the transformer is missing", where=where, fix="copy it again"
        )
    return len(numbers)


def attention_of(
    given: Mapping[str, Any], settings: Mapping[str, Any], attention: str | None, where: str
) -> str:
    """Return the given attention mode, or the mode that the settings state.

    Raises
    ------
    ModelError
        Neither states a mode, or the given mode does not exist.
    """
    if attention is not None:
        if attention not in ATTENTION:
            raise ModelError(
                f"unknown attention mode {attention!r}", fix=did_you_mean(attention, ATTENTION)
            )
        return attention
    if settings.get("mask_attn"):
        return "alone"
    flag = given.get("bidirectional_attention")
    if flag is None:
        raise ModelError(
            "the checkpoint does not state its attention mode",
            where=where,
            fix="choose --attention, which the version of transformers decided before October "
            "2025: bidirectional (trained from June 2025 with transformers 4.52, or 5.5 and "
            "newer), causal (with 4.53 to 4.57), or causal_rope (before 4 June 2025, and what "
            "arc-state 0.11 computes for such a checkpoint). --attention auto compares all modes "
            "on control cells",
        )
    return "bidirectional" if flag else "causal_rope"


def _decoder(tensors: Mapping[str, Tensor], dropout: float) -> DecoderShape | None:
    """Return kind and widths of the gene decoder, from its tensors."""
    if "gene_decoder.log_theta" in tensors:
        layers = _linears(tensors, "gene_decoder.encoder.")
        genes = tensors["gene_decoder.log_theta"].shape[0]
        kind = "nb"
    elif "gene_decoder.final_layer.0.weight" in tensors:
        names = sorted(
            (int(m[1]), name)
            for name in tensors
            if (m := re.fullmatch(r"gene_decoder\.blocks\.(\d+)\.0\.weight", name))
        )
        layers = [tensors[name] for _, name in names]
        genes = tensors["gene_decoder.final_layer.0.weight"].shape[0]
        kind = "residual"
    else:
        layers = _linears(tensors, "gene_decoder.decoder.")
        if not layers:
            return None
        *layers, last = layers
        genes, kind = last.shape[0], "plain"
    hidden = tuple(int(matrix.shape[0]) for matrix in layers)
    latent = int(layers[0].shape[1]) if layers else int(genes)
    return DecoderShape(kind, latent, int(genes), hidden, dropout)


def _fill(model: PertSets, tensors: Mapping[str, Tensor], where: str) -> None:
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    missing, unknown = (
        sorted(shapes.keys() - tensors.keys()),
        sorted(tensors.keys() - shapes.keys()),
    )
    wrong = [n for n in shapes if n in tensors and tuple(tensors[n].shape) != shapes[n]]
    if missing or unknown or wrong:
        parts = [
            f"{len(names)} {what}, first {names[0]!r}"
            for what, names in (
                ("missing", missing),
                ("unknown", unknown),
                ("of another shape", wrong),
            )
            if names
        ]
        raise ModelError(
            f"the tensors do not make a model: {'; '.join(parts)}",
            where=where,
            fix="use a complete checkpoint of a State model: incomplete weights would predict "
            "nonsense",
        )
    weights = {name: tensors[name].detach().clone().float() for name in shapes}
    model.load_state_dict(weights, strict=True, assign=True)

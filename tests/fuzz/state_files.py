"""Runs of State: checkpoints, maps of labels, pickles, the run's configuration."""

from __future__ import annotations

import pickle
import random
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import damage
import numpy as np
import samples
import yaml
from engine import Kind, Result, on, valid


def kinds() -> list[Kind]:
    """Return the kinds of files of a State run."""
    binary = damage.one_of(damage.in_bytes)
    return [
        Kind("import-ckpt", samples.state_run, on("checkpoints/best.ckpt", in_checkpoint), read, valid),
        Kind("import-map", samples.state_run, on("pert_onehot_map.pt", in_map), read, valid),
        Kind("import-dims", samples.state_run, on("var_dims.pkl", in_pickle), read, valid),
        Kind("import-config", samples.state_run, on("config.yaml", in_config), read, valid),
        Kind("import-bytes", samples.state_run, lambda h, r: binary(damage.files_below(h, r, "**/*"), r), read, valid),
    ]  # fmt: skip


def read(home: Path) -> Result:
    """Import the run and predict."""
    from statetx.inference.import_run import import_run
    from statetx.models import model_dir

    out = home / "model"
    shutil.rmtree(out, ignore_errors=True)
    import_run(home, out)
    model = model_dir.load(out)
    cells = np.linspace(0, 2, 4 * len(model.genes)).reshape(4, -1)
    found = {name: model.predict(cells, "", name).cells for name in model.perturbations}
    return {"genes": model.genes, "control": model.control, **found}


def in_checkpoint(path: Path, rng: random.Random) -> str:
    """Change a tensor, a setting or the nesting of a checkpoint."""
    import torch

    content = torch.load(path, weights_only=True)
    tensors = content["state_dict"]
    name = rng.choice(list(tensors))
    old = tensors[name]
    how = rng.choice(
        ["gone", "prefix", "shape", "type", "value", "nan", "no tensor", "setting", "top"]
    )
    if how == "gone":
        del tensors[name]
    elif how == "prefix":
        start = rng.choice(["module.", "_orig_mod.", "model.", "x."])
        content["state_dict"] = {start + key: item for key, item in tensors.items()}
    elif how == "shape":
        tensors[name] = rng.choice(
            [old[:-1], old[None], old.reshape(-1), old.repeat(2, *[1] * (old.ndim - 1))]
        )
    elif how == "type":
        kind = rng.choice(
            [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
        )
        tensors[name] = old.to(kind)
    elif how == "value":
        tensors[name] = old * rng.choice([0.0, -1.0, 1e30])
    elif how == "nan":
        tensors[name] = old * float("nan")
    elif how == "no tensor":
        tensors[name] = damage.value(rng)
    elif how == "setting":
        content["hyper_parameters"], how = damage.in_tree(content["hyper_parameters"], rng)
    else:
        key = rng.choice(["state_dict", "hyper_parameters", "optimizer_states"])
        content[key] = rng.choice([damage.value(rng), [{"state": damage.value(rng)}]])
        how = f"{key} = {str(content[key])[:30]}"
    torch.save(content, path)
    return f"{path.name}: {name}: {how}"


def in_map(path: Path, rng: random.Random) -> str:
    """Change labels or vectors of a map, or make it a hostile pickle."""
    import torch

    if rng.random() < 0.3:
        return _hostile(path, rng)
    table = {label: torch.eye(3)[i] for i, label in enumerate(samples.LABELS)}
    label = rng.choice(samples.LABELS)
    how = rng.choice(
        ["gone", "renamed", "number", "shape", "value", "twice", "list", "empty", "other"]
    )
    new: Any = table
    if how == "gone":
        del table[label]
    elif how == "renamed":
        table[damage.words(rng)] = table.pop(label)
    elif how == "number":
        new = {rng.choice([0, 1.5, None, ("a", 1), True]): table.pop(label), **table}
    elif how == "shape":
        table[label] = rng.choice(
            [torch.eye(4)[0], torch.eye(3), torch.tensor(1.0), torch.zeros(0)]
        )
    elif how == "value":
        table[label] = rng.choice(
            [table[label] * 0, table[label] * float("nan"), "text", None, [1, 2]]
        )
    elif how == "twice":
        table[label] = table[samples.LABELS[0]]
    elif how == "list":
        new = list(table.items())
    elif how == "empty":
        new = {}
    else:
        new = damage.value(rng)
    torch.save(new, path)
    return f"{path.name}: {label}: {how}"


def in_pickle(path: Path, rng: random.Random) -> str:
    """Change the plain values of a pickle, or make it a hostile one."""
    if rng.random() < 0.4:
        return _hostile(path, rng)
    tree = {"pert_dim": 3, "gene_names": list(samples.GENES), "array": [0, 1, 2]}
    tree, how = damage.in_tree(tree, rng)
    path.write_bytes(pickle.dumps(tree, protocol=rng.choice((0, 2, 5))))
    return f"{path.name}: {how}"


def _hostile(path: Path, rng: random.Random) -> str:
    """Write a pickle that asks for much memory, time, depth or code."""

    pickles: dict[str, bytes] = {
        "depth": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        "tuples": b"\x80\x02)" + b"\x85" * 200_000 + b".",
        "code": b"cos\nsystem\n(S'true'\ntR.",
        "numpy code": b"cnumpy.testing._private.utils\nrunstring\n(S'1'\n}tR.",
        "bytearray": b"\x80\x02c__builtin__\nbytearray\nJ\x00\x00\x00\x7f\x85R.",
        "string of 4 GB": b"\x80\x04\x8d" + (1 << 32).to_bytes(8, "little") + b"x.",
        "memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "repeat": b"\x80\x02cbuiltins\nlist\ncbuiltins\nint\nJ\xff\xff\xff\x7f\x85R\x85R.",
        "doubled": b"\x80\x02"
        + b"(K\x01K\x01l"
        + b"".join(b"q\x00(h\x00h\x00l" for _ in range(40))
        + b".",
        "int": b"I" + b"9" * 100_000 + b"\n.",
        "long": pickle.dumps(1 << 8_000_000),
        "array": _huge_array(),
        "twice": pickle.dumps(OrderedDict(a=1)) + b"trailing",
    }
    how = rng.choice(sorted(pickles))
    path.write_bytes(pickles[how])
    return f"{path.name}: hostile, {how}"


def _huge_array() -> bytes:
    """Return a pickle of a small array whose shape says that it has 8 TB."""
    kind = type(np.empty(0).__reduce__()[0])
    assert kind is not None
    raw = pickle.dumps(np.zeros(77, dtype="i8"), protocol=2)
    return raw.replace(b"KM\x85", b"\x8a\x05\x00\x00\x00\x00\x01\x85")


def in_config(path: Path, rng: random.Random) -> str:
    """Change the configuration of a run."""
    if rng.random() < 0.3:
        return damage.in_text(path, rng)
    tree, how = damage.in_tree(yaml.safe_load(path.read_text()), rng)
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return f"{path.name}: {how}"

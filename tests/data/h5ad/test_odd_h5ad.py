"""Every h5ad that people have: the same answer as of the plain file, or one error that names the element."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from odd_files import (
    DECLARED,
    READERS,
    TEXT,
    Change,
    G,
    N,
    as_categories,
    as_csc,
    as_enum,
    as_fixed,
    as_h5sparse,
    as_nullable,
    as_old_categories,
    big_endian,
    both,
    by_evaluate,
    by_infer,
    by_inspect,
    by_pack,
    circle,
    damaged,
    deep,
    deleted,
    dense,
    elsewhere,
    encoded,
    error_of,
    external,
    hollow,
    latin,
    latin_category,
    linked,
    long_texts,
    null_x,
    only_raw,
    pointers,
    replaced,
    scalar_x,
    soft_link,
    swollen,
    unknown_filter,
    without,
    write_plain,
    x_of,
)

from statetx.core.errors import DataError
from statetx.data.h5ad.header import column
from statetx.data.h5ad.open_h5ad import DEEPEST, opened, reading, walk
from statetx.data.inspection import inspect as h5ad
from statetx.data.pack.pack import pack
from statetx.data.store.store import open_store
from statetx.reporting.terminal.inspection import print_inspection


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain(tmp_path_factory.mktemp("plain"))


SAME: dict[str, Change] = {
    "nothing": lambda file: None,
    "categorical var index": as_categories("var/_index"),
    "categorical obs index": as_categories("obs/_index", "i2"),
    "nullable obs index": as_nullable("obs/_index"),
    "nullable var index": as_nullable("var/_index"),
    "nullable labels": as_nullable("obs/drug_dose"),
    "nullable line": as_nullable("obs/cell_line"),
    "labels of anndata < 0.8": as_old_categories("obs/drug_dose"),
    "line of anndata < 0.8": as_old_categories("obs/cell_line"),
    "fixed text": as_fixed("obs/drug_dose"),
    "fixed index": as_fixed("obs/_index"),
    "enumeration": as_enum,
    "codes of 8 bytes": replaced("obs/drug_dose/codes", lambda old: old.astype("u8")),
    "codes of another byte order": replaced("obs/drug_dose/codes", lambda old: old.astype(">i4")),
    "no column-order": without("obs", "column-order"),
    "no encoding of obs": without("obs", "encoding-type", "encoding-version"),
    "no encoding of a column": without("obs/drug_dose", "encoding-type", "encoding-version"),
    "no _index attribute": without("obs", "_index"),
    "no attributes of var": without("var", "_index", "column-order", "encoding-type"),
    "_index as bytes": lambda file: file["obs"].attrs.__setitem__("_index", np.bytes_("_index")),
    "columns listed twice": lambda file: file["obs"].attrs.__setitem__(
        "column-order", ["drug_dose", "cell_line", "batch", "drug_dose"]
    ),
    "no shape": without("X", "shape"),
    "no encoding of X": without("X", "encoding-type", "encoding-version"),
    "bare X": without("X", "encoding-type", "encoding-version", "shape"),
    "h5sparse": as_h5sparse,
    "big-endian": big_endian,
    "CSC": as_csc,
    "indices of 8 bytes": replaced("X/indices", lambda old: old.astype("u8")),
    "pointers of 8 bytes": replaced("X/indptr", lambda old: old.astype("u8")),
    "counts of 8 bytes": replaced("X/data", lambda old: old.astype("i8")),
    "counts as float16": replaced("X/data", lambda old: old.astype("f2")),
    "counts as long double": replaced("X/data", lambda old: old.astype(np.longdouble)),
    "soft link inside the file": soft_link,
    "an odd column beside": encoded("obs/odd", "unheard-of", stuff=np.arange(3)),
    "a short column beside": lambda file: file.create_dataset("obs/short", data=np.arange(3)),
    "a column of dates beside": lambda file: file.create_dataset(
        "obs/day", data=np.array(["2020-01-01"] * N, "M8[s]").astype(h5py.opaque_dtype("M8[s]"))
    ),
    "complex numbers beside": lambda file: file.create_dataset("obs/z", data=np.ones(N, "c8")),
    "references beside": lambda file: file.create_dataset(
        "obs/r", data=[file.ref] * N, dtype=h5py.ref_dtype
    ),
    "a listed column that is missing": lambda file: file["obs"].attrs.__setitem__(
        "column-order", ["drug_dose", "cell_line", "batch", "gone"]
    ),
    "a filter that nobody needs": unknown_filter("layers/counts/data"),
    "damage that nobody needs": damaged("layers/counts/indices"),
    "a column whose name is not UTF-8 beside": both(
        without("obs", "column-order"),
        lambda file: file["obs"].__setitem__(b"caf\xe9", np.arange(N)),
    ),
    "a broken link beside": lambda file: file["uns"].__setitem__("l", h5py.SoftLink("/nowhere")),
    "a link to another file beside": lambda file: file["uns"].__setitem__(
        "other", h5py.ExternalLink("other.h5", "/x")
    ),
    "a circle beside": lambda file: file["uns"].__setitem__("self", file["uns"]),
    "no uns and no obsm": lambda file: [file.__delitem__(n) for n in ("uns", "obsm") if n in file],
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_read_as_the_plain_file(case: str, plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain.h5ad"
    path.write_bytes(plain.read_bytes())
    with h5py.File(path, "r+") as file:
        SAME[case](file)
    for name, read in READERS.items():
        assert read(path) == read(plain), name


# What is changed, and what every error says. The file's name is in all of them.
REFUSED: dict[str, tuple[Change, tuple[str, ...]]] = {
    "Latin-1 labels": (latin("obs/drug_dose"), ("obs['drug_dose']", "not UTF-8", r"b'Caf\xe9' in row 7", "Café")),
    "Latin-1 line": (latin("obs/cell_line"), ("obs['cell_line']", "not UTF-8", "row 7")),
    "Latin-1 category": (latin_category, ("obs['drug_dose'] (categories)", r"b'\xb5M' in row 1", "µM")),
    "Latin-1 genes": (latin("var/_index"), ("var['_index']", "not UTF-8", "row 7")),
    "short column": (replaced("obs/cell_line/codes", lambda old: old[:-1]), ("obs['cell_line'] has 59 rows, but there are 60 cells",)),
    "short codes": (replaced("obs/drug_dose/codes", lambda old: old[:-3]), ("obs['drug_dose'] has 57 rows",)),
    "codes beyond": (replaced("obs/drug_dose/codes", lambda old: old + 1), ("obs['drug_dose'] has the code 3 in row 0, but only 3 categories",)),
    "decimal codes": (replaced("obs/drug_dose/codes", lambda old: old.astype("f4")), ("obs['drug_dose'] has codes of type float32",)),
    "two-dimensional codes": (replaced("obs/drug_dose/codes", lambda old: old.reshape(30, 2)), ("obs['drug_dose']", "not a list")),
    "short mask": (encoded("obs/drug_dose", "nullable-string-array", values=["a"] * N, mask=np.zeros(5, bool)), ("obs['drug_dose'] has 60 values, but its mask has 5",)),
    "masked label": (both(as_nullable("obs/drug_dose"), replaced("obs/drug_dose/mask", lambda old: np.arange(N) == 4)), ("obs['drug_dose'] has no label in 1 of 60 cells, first in row 4",)),
    "unheard-of column": (encoded("obs/drug_dose", "unheard-of", stuff=np.arange(N)), ("obs['drug_dose'] is stored as 'unheard-of'",)),
    "complex labels": (lambda f: [f.__delitem__("obs/drug_dose"), f.create_dataset("obs/drug_dose", data=np.ones(N, "c8"))], ("obs['drug_dose'] holds complex numbers",)),
    "records as labels": (lambda f: [f.__delitem__("obs/drug_dose"), f.create_dataset("obs/drug_dose", data=np.zeros(N, "i4,i4"))], ("obs['drug_dose'] holds records",)),
    "references as labels": (lambda f: [f.__delitem__("obs/drug_dose"), f.create_dataset("obs/drug_dose", data=[f.ref] * N, dtype=h5py.ref_dtype)], ("obs['drug_dose'] holds references",)),
    "dates as labels": (lambda f: [f.__delitem__("obs/drug_dose"), f.create_dataset("obs/drug_dose", data=np.zeros(N, "M8[s]").astype(h5py.opaque_dtype("M8[s]")))], ("obs['drug_dose'] holds dates",)),
    "a matrix as labels": (lambda f: [f.__delitem__("obs/drug_dose"), f.create_dataset("obs/drug_dose", data=np.ones((N, 2)))], ("obs['drug_dose']", "not a list")),
    "one label": (lambda f: [f.__delitem__("obs/drug_dose"), f.create_dataset("obs/drug_dose", data="x")], ("obs['drug_dose']", "not a list")),
    "old column without categories": (both(as_old_categories("obs/drug_dose"), deleted("obs/__categories")), ("obs['drug_dose']",)),
    "no index": (deleted("obs/_index"), ("obs", "_index")),
    "_index names nothing": (lambda f: f["var"].attrs.__setitem__("_index", "gone"), ("var has no 'gone'",)),
    "masked gene": (both(as_nullable("var/_index"), replaced("var/_index/mask", lambda old: np.arange(G) == 2)), ("var_names has no name in row 2",)),
    "gene twice": (replaced("var/_index", lambda old: np.r_[old[:1], old[:-1]], dtype=TEXT), ("'g0'", "more than once", "var_names")),
    "records as var": (lambda f: [f.__delitem__("var"), f.create_dataset("var", data=np.zeros(G, [("index", "S4")]))], ("var", "anndata < 0.7")),
    "no layers": (both(deleted("X"), deleted("layers/counts")), ("X is empty",)),
    "layers only": (deleted("X"), ("X is empty; expression is in layers 'counts'", "adata.layers['counts']")),
    "null X": (null_x, ("X is empty; expression is in layers 'counts'",)),
    "raw only": (only_raw, ("X is empty; expression is in raw", "adata.raw.to_adata()")),
    "scalar X": (scalar_x, ("'X' has 0 dimensions",)),
    "complex X": (x_of("c8"), ("'X' holds complex numbers",)),
    "text in X": (lambda f: [f.__delitem__("X"), f.create_dataset("X", data=np.full((N, G), b"a"))], ("'X' holds values of type",)),
    "no format": (both(without("X", "encoding-type"), lambda f: f["X"].attrs.__setitem__("encoding-type", "coo")), ("'X' is stored as 'coo'",)),
    "odd shape": (lambda f: f["X"].attrs.__setitem__("shape", [N]), ("'X' has the shape [60]",)),
    "negative shape": (lambda f: f["X"].attrs.__setitem__("shape", [-1, G]), ("'X' has the shape",)),
    "another shape": (lambda f: f["X"].attrs.__setitem__("shape", [N, G + 1]), ("X is 60 x 31, but there are 60 cells and 30 genes|X is 60 x 31, but the file has 60 cells and 30 genes",)),
    "pointers fall": (pointers(0, 40, 7), ("'X' is damaged", "do not rise")),
    "pointers begin late": (pointers(3), ("'X' is damaged", "do not rise")),
    "decimal indices": (replaced("X/indices", lambda old: old.astype("f4")), ("'X' is damaged: 'indices' holds values of type float32",)),
    "index beyond": (replaced("X/indices", lambda old: old + 1), ("'X' has a column index outside its 30 columns",)),
    "negative index": (replaced("X/indices", lambda old: old - 1), ("'X' has a column index outside its 30 columns",)),
    "fewer values": (replaced("X/data", lambda old: old[:-1]), ("'X' is damaged", "values have")),
    "two-dimensional values": (replaced("X/data", lambda old: old.reshape(-1, 1)), ("'X' is damaged: 'data' is not a list",)),
    "row index beyond": (both(as_csc, replaced("X/indices", lambda old: old + 10)), ("'X' has a row index outside its 60 rows",)),
    "row index far beyond": (both(as_csc, replaced("X/indices", lambda old: old.astype("i8") * 10**12)), ("'X' has a row index outside its 60 rows",)),
    "column pointers fall": (both(as_csc, pointers(0, 40, 7)), ("'X' is damaged", "do not rise")),
    "NaN": (replaced("X/data", lambda old: np.where(np.arange(len(old)) == 5, np.nan, old)), ("NaN or infinite|not finite",)),
    "external X": (external("X"), ("'X' is a link to '/there' in 'other.h5', another file",)),
    "external labels": (external("obs/drug_dose"), ("'obs/drug_dose' is a link to", "another file")),
    "external genes": (external("var"), ("'var' is a link to", "another file")),
    "external values": (external("X/data"), ("'X/data' is a link to", "another file")),
    "virtual X": (elsewhere, ("'X' is stored in other files",)),
    "broken link": (linked("obs/drug_dose", "/nowhere"), ("'obs/drug_dose' is a broken link to '/nowhere'",)),
    "circle of links": (circle, ("'X' is a broken link to '/Y'",)),
    "missing filter": (unknown_filter("X/data"), ("X/data", "filter that is not installed", "pip install hdf5plugin")),
    "filter of labels": (unknown_filter("obs/drug_dose/codes"), ("obs/drug_dose/codes", "filter that is not installed")),
    "damaged values": (damaged("X/data"), ("'X'|X/data", "truncated or damaged")),
    "damaged codes": (damaged("obs/drug_dose/codes"), ("obs['drug_dose']", "truncated or damaged")),
    "swollen codes": (swollen("obs/drug_dose/codes", (1_000_000_000,), "i1"), ("obs['drug_dose'] has 1000000000 rows",)),
    "swollen categories": (swollen("obs/drug_dose/categories", (1_000_000_000,), "S4"), ("obs/drug_dose/categories", "would unpack")),
    "swollen genes": (swollen("var/_index", (1_000_000_000,), "S8"), ("var/_index", "would unpack")),
    "swollen X": (swollen("X", (N, 10**12), "f4"), ("'X' would unpack",)),
    "a billion cells": (hollow, ("would unpack",)),
    "labels like books": (long_texts, ("obs['drug_dose'] holds a text of 100,000 characters",)),
    "normalised": (dense("f4"), ("normalised: the values of every cell sum to 100",)),
}  # fmt: skip


def normalised(file: h5py.File) -> None:
    dense("f4")(file)
    x = file["X"][()]
    file["X"][...] = 100 * x / x.sum(axis=1, keepdims=True)


REFUSED["normalised"] = (normalised, REFUSED["normalised"][1])


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_every_command_that_reads_it(case: str, plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.h5ad"
    path.write_bytes(plain.read_bytes())
    change, said = REFUSED[case]
    with h5py.File(path, "r+") as file:
        change(file)
    errors = {name: error_of(read, path) for name, read in READERS.items()}
    for name, error in errors.items():
        if error is None:
            continue
        text = str(error)
        assert "odd.h5ad" in text, (name, text)
        assert error.fix, name
        for piece in said:
            assert any(one in text for one in piece.split("|")), (name, text)
    # Labels are read by all; genes and expression by those that use them.
    assert all(errors[name] for name in ("inspect", "pack", "evaluate")), errors


# ---------------------------------------------------------------------------------------------
# groups inside each other, what a report says, values


def test_groups_in_each_other_are_walked_to_a_depth(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain.h5ad"
    path.write_bytes(plain.read_bytes())
    with h5py.File(path, "r+") as file:
        deep(file)
    assert by_pack(path) == by_pack(plain)
    with opened(path) as file:
        assert max(name.count("/") for name, _ in walk(file, path)) == DEEPEST


def test_inspect_says_what_it_did_not_read(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.h5ad"
    path.write_bytes(plain.read_bytes())
    with h5py.File(path, "r+") as file:
        SAME["an odd column beside"](file)
        file["obs"].attrs["column-order"] = ["drug_dose", "cell_line", "batch", "odd"]
    report = h5ad.inspect([path], DECLARED)
    assert not report.problems
    assert "unheard-of" in report.files[0].unread["obs['odd']"]
    said = io.StringIO()
    print_inspection(report, file=said)
    text = " ".join(said.getvalue().split())
    assert "obs['odd'] was not read" in text
    assert "Every value was read." not in text
    said = io.StringIO()
    print_inspection(h5ad.inspect([tmp_path / "none.h5ad"], DECLARED), file=said)
    assert "Nothing was read." in said.getvalue()


def test_big_endian_cells_are_packed_as_others(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain.h5ad"
    path.write_bytes(plain.read_bytes())
    with h5py.File(path, "r+") as file:
        big_endian(file)
    packed = []
    for i, source in enumerate((plain, path)):
        pack([source], DECLARED, "d", tmp_path / str(i))
        line = open_store(tmp_path / str(i)).line("L1")
        packed.append((line.barcodes.tolist(), line.counts(np.arange(line.n_cells)).tolist()))
    assert packed[0] == packed[1]


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", ">f8", "<i2", ">i2", "?", "f2", ">f2"])
def test_dense_values_of_every_kind(kind: str, plain: Path, tmp_path: Path) -> None:
    x = []
    for one in ("<f4", kind):
        path = tmp_path / "dense.h5ad"
        path.write_bytes(plain.read_bytes())
        with h5py.File(path, "r+") as file:
            if kind == "?":
                file["X/data"][...] = 1
            dense(one)(file)
        by_inspect(path)
        x.append((by_pack(path), by_evaluate(path)))
    assert x[0] == x[1]


def test_numbers_as_labels_are_the_same_however_stored(plain: Path, tmp_path: Path) -> None:
    values = np.arange(N) % 3
    ways: dict[str, Any] = {
        "int": values,
        "float": values.astype(float),
        "text": values.astype(str),
        "category": pd.Categorical(values),
        "category of decimals": pd.Categorical(values.astype(float)),
        "nullable": pd.array(values, dtype="Int64"),
    }
    found = {}
    for way, held in ways.items():
        made = anndata.read_h5ad(plain)
        made.obs["drug_dose"] = held
        made.write_h5ad(tmp_path / "numbers.h5ad")
        with opened(tmp_path / "numbers.h5ad") as file:
            column_ = column(file, tmp_path / "numbers.h5ad", "drug_dose")
        found[way] = (column_.names, column_.codes.tolist())
    assert set(map(str, found.values())) == {str((["0", "1", "2"], values.tolist()))}


def test_the_same_label_under_two_codes_is_one_label(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.h5ad"
    path.write_bytes(plain.read_bytes())
    with h5py.File(path, "r+") as file:
        names = file["obs/drug_dose/categories"].asstr()[()].tolist()
        del file["obs/drug_dose/categories"]
        twice = np.array([*names, names[0]], dtype=object)
        file.create_dataset("obs/drug_dose/categories", data=twice, dtype=TEXT)
        file["obs/drug_dose/codes"][3] = len(names) if file["obs/drug_dose/codes"][3] == 0 else 0
    with opened(path) as file:
        found = column(file, path, "drug_dose")
    assert found.names == sorted(set(names))


@pytest.mark.parametrize("shape", [(0, G), (N, 0), (0, 0)])
def test_no_cells_or_no_genes(shape: tuple[int, int], plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "none.h5ad"
    anndata.read_h5ad(plain)[: shape[0], : shape[1]].copy().write_h5ad(path)
    for read in (by_inspect, by_pack, by_evaluate):
        assert error_of(read, path) is not None


def test_long_names_are_cut_in_messages(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.h5ad"
    made = anndata.read_h5ad(plain)
    made.obs["drug_dose"] = "L" * 300
    made.write_h5ad(path)
    with pytest.raises(DataError) as caught:
        by_infer(path)
    assert "L" * 50 in str(caught.value)
    assert "L" * 70 not in str(caught.value)


def test_a_fault_of_other_code_is_not_blamed_on_the_file(plain: Path) -> None:
    with pytest.raises(KeyError), opened(plain):
        raise KeyError("not of reading")
    with pytest.raises(DataError, match="doesn't exist"), opened(plain) as file:
        file["gone"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("Unable to allocate 7.00 GiB"), "more memory than is available (Unable to allocate 7"),
        (OSError(5, "Input/output error"), "the disk or the network failed (Input/output error)"),
        (OSError("Can't read data (inflate() failed)"), "truncated or damaged"),
        (OSError("required filter 'blosc' is not registered"), "pip install hdf5plugin"),
        (RecursionError("maximum recursion depth"), "not stored as in an h5ad"),
    ],
)  # fmt: skip
def test_the_reason_is_told(error: Exception, said: str) -> None:
    with pytest.raises(DataError) as caught, reading(Path("a.h5ad"), "obs['x']"):
        raise error
    assert said in str(caught.value)
    assert "cannot read obs['x']" in str(caught.value)
    assert "a.h5ad" in str(caught.value)


def test_a_full_disk_is_not_a_fault_of_the_file() -> None:
    with pytest.raises(OSError, match="No space left"), reading(Path("a.h5ad"), "X"):
        raise OSError(28, "No space left on device")

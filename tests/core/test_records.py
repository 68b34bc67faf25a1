"""Records: checksums, damage, mixtures, and results that move as a whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from statetx.core import checksums, records
from statetx.core.digests import sealed
from statetx.core.errors import ResultsError
from statetx.core.text_files import write_text


def made(path: Path, text: str, inputs: list[Path] = (), **settings: object) -> Path:
    """Write one output of a stage with its record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    records.write_record(
        path.with_name(f"{path.name}.record.json"),
        stage=path.parent.name,
        code="c",
        settings=settings,
        inputs={source: records.known_checksum(source) for source in inputs},
        outputs=[path],
    )
    return path


@pytest.mark.parametrize("n_bytes", [0, 1, 1000, checksums.BLOCK, 2 * checksums.BLOCK + 5])
def test_every_byte_counts(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "file"
    data = bytearray(range(256)) * (n_bytes // 256 + 1)
    path.write_bytes(data[:n_bytes])
    before = checksums.checksum(path)
    seen = {before}
    for at in {0, n_bytes // 2, n_bytes - 1} if n_bytes else ():
        changed = bytearray(data[:n_bytes])
        changed[at] ^= 1
        path.write_bytes(changed)
        seen.add(checksums.checksum(path))
    path.write_bytes(data[: n_bytes + 1])
    seen.add(checksums.checksum(path))
    assert len(seen) == 1 + len({0, n_bytes // 2, n_bytes - 1} if n_bytes else ()) + 1


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "split" / "plan", "role: test")
    assert records.verify(path) == path
    path.write_text("role: tesT")
    with pytest.raises(
        ResultsError, match="is not the file that its stage wrote: its bytes differ"
    ):
        records.verify(path)
    path.write_text("role: test, and more")
    with pytest.raises(ResultsError, match="it has 20 bytes, 10 were written"):
        records.verify(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ResultsError, match="the file that a stage wrote"):
        records.verify(path)


def test_nothing_is_renamed_into_place_while_an_input_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path / "pack" / "cells", "0123")
    path.write_text("0124")
    with pytest.raises(ResultsError, match="its bytes differ"):
        records.verify(path, background=True)  # small, so compared at once
    monkeypatch.setattr(checksums, "AT_ONCE", 0)
    records.verify(path, background=True)
    with pytest.raises(ResultsError, match="its bytes differ"):
        write_text(tmp_path / "scores", "made of it")
    assert not (tmp_path / "scores").exists()
    write_text(tmp_path / "scores", "made of other cells")


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "pack" / "cells", "0123")
    beside = records.record_path(path)
    text = beside.read_text()
    for damaged in (
        text[:-30],
        text.replace('"code": "c"', '"code": "d"'),
        "[]",
        "{}",
        "[" * 99999,
    ):
        beside.write_text(damaged)
        with pytest.raises(ResultsError, match="the record is damaged"):
            records.verify(path)


def test_a_record_of_another_format_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "pack" / "cells", "0123")
    beside = records.record_path(path)
    body = {k: v for k, v in json.loads(beside.read_text()).items() if k != "digest"}
    beside.write_text(json.dumps(sealed({**body, "format": 99})))
    with pytest.raises(ResultsError, match="format 99"):
        records.read_record(beside)


def test_results_move_as_a_whole(tmp_path: Path) -> None:
    cells = made(tmp_path / "a" / "pack" / "cells", "0123")
    scores = made(tmp_path / "a" / "evaluate" / "scores", "1", [cells])
    records.refuse_mixture([scores, cells])
    shutil.move(tmp_path / "a", tmp_path / "b")
    records.refuse_mixture([tmp_path / "b" / "evaluate" / "scores"])
    records.verify(tmp_path / "b" / "evaluate" / "scores")


def test_what_was_made_from_something_else_is_refused_at_any_distance(tmp_path: Path) -> None:
    cells = made(tmp_path / "pack" / "cells", "0123")
    model = made(tmp_path / "train" / "model", "w", [cells])
    predicted = made(tmp_path / "predict" / "cells", "p", [model])
    scores = made(tmp_path / "evaluate" / "scores", "s", [predicted])
    records.refuse_mixture([scores])
    made(tmp_path / "pack" / "cells", "0124")
    with pytest.raises(ResultsError, match="was made from a different cells than") as caught:
        records.refuse_mixture([scores])
    assert str(model) in str(caught.value)
    assert "snakemake" in str(caught.value)


def test_results_of_other_settings_do_not_mix(tmp_path: Path) -> None:
    one = made(tmp_path / "evaluate" / "one", "1", profile="full")
    made_alike = made(tmp_path / "evaluate" / "alike", "2", profile="full")
    other = made(tmp_path / "evaluate" / "other", "3", profile="minimal")
    records.refuse_mixture([one, made_alike])
    with pytest.raises(ResultsError, match="made with different settings"):
        records.refuse_mixture([one, made_alike, other])


def test_what_has_no_record_is_refused_among_inputs(tmp_path: Path) -> None:
    path = made(tmp_path / "evaluate" / "scores", "1")
    records.record_path(path).unlink()
    records.verify(path)  # read alone, nothing is known of it
    with pytest.raises(ResultsError, match="has no record"):
        records.refuse_mixture([path])


def test_companions_and_directories(tmp_path: Path) -> None:
    store = tmp_path / "pack"
    store.mkdir()
    for name in ("manifest.json", "conditions.parquet", "sources.json"):
        (store / name).write_text(name)
    records.write_record(
        store / "manifest.json.record.json",
        stage="pack",
        code="c",
        settings={},
        inputs={},
        outputs=[store / name for name in ("manifest.json", "conditions.parquet", "sources.json")],
    )
    (store / "conditions.parquet").write_text("Conditions.parquet")
    with pytest.raises(ResultsError, match="its bytes differ"):
        records.verify(store / "conditions.parquet")
    model = tmp_path / "model"
    model.mkdir()
    (model / "best.safetensors").write_text("w")
    records.write_record(
        model / "record.json", stage="train", code="c", settings={}, inputs={}, outputs=[model]
    )
    before = records.known_checksum(model)
    (model / "best.safetensors").write_text("v")
    with pytest.raises(ResultsError, match="its bytes differ"):
        records.verify(model / "best.safetensors")
    assert records.known_checksum(model) == before, "as recorded"

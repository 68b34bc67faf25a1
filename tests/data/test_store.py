"""The packed store."""
from pathlib import Path
from statetx.data.store import open_store
from statetx.data.plan import read_plan

def test_opens(tiny_store: Path, tiny_plan: Path) -> None:
    store = open_store(tiny_store)
    assert store.lines == ["L01", "L02", "L03", "L04"]
    assert read_plan(tiny_plan).conditions("test") == [("L01", "Drug01_0.5"), ("L01", "Drug01_5")]
    line = store.line("L01")
    rows = line.rows("Drug01_5")
    assert line.expression(rows).shape == (len(rows), 60)

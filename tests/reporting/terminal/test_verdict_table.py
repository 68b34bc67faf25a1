"""The verdict in a terminal and in a log."""

from __future__ import annotations

import io

import report_samples as samples

from statetx.reporting.terminal.verdict_table import print_verdict


def printed(tmp_path, content, encoding="utf-8") -> str:
    path = samples.write(tmp_path / "verdict.json", content)
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    print_verdict(path, out)
    return raw.getvalue().decode(encoding)


def test_a_log_gets_plain_text_with_every_number_on_one_line(tmp_path):
    text = printed(tmp_path, samples.verdict())
    assert "\x1b" not in text
    line = next(
        line for line in text.splitlines() if line.lstrip().startswith("Pearson of deltas\xa0")
    )
    for part in ("0.000", "0.412", "0.523", "0.551 [0.502, 0.600] *", "0.812", "+0.10", "▲ BETTER"):
        assert part in line
    assert "pertsets is BETTER than the best baseline (perturbation_mean)" in text
    assert "(no range)" in text
    assert "bootstrap over drugs" in text


def test_no_interval_is_said(tmp_path):
    text = printed(tmp_path, samples.verdict(unit=None))
    assert "no intervals: 2 drugs in 1 cell line are too few to resample" in text


def test_an_old_encoding_gets_ascii(tmp_path):
    text = printed(tmp_path, samples.verdict(), "ascii")
    assert "-0.06" in text
    assert "+ BETTER" in text


def test_square_brackets_in_names_are_no_markup(tmp_path):
    content = samples.verdict()
    content["metrics"][0]["label"] = "[bold]Pearson[/bold]"
    content["flags"] = [{"name": "m", "seed": 0, "message": "[('Drug', 0.5, 'uM')] unseen"}]
    text = printed(tmp_path, content)
    assert "[bold]Pearson[/bold]" in text
    assert "[('Drug', 0.5, 'uM')] unseen" in text


def test_several_models_have_columns_of_their_own(tmp_path):
    content = samples.verdict()
    content["rows"].append({**content["rows"][-2], "seed": 1})
    content["comparisons"] += [
        {**c, "seed": 1, "scaled": -3.0, "call": "WORSE"} for c in content["comparisons"]
    ]
    text = printed(tmp_path, content)
    assert "seed 0" in text
    assert "−3.00 ▼" in text


def test_a_terminal_gets_colours_and_keeps_to_its_width(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    path = samples.write(tmp_path / "verdict.json", samples.verdict())
    out = io.StringIO()
    out.isatty = lambda: True
    print_verdict(path, out)
    import re

    assert "\x1b[" in out.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert max(map(len, plain.splitlines())) <= 110
    assert "0.551" in plain

"""The picture of a training shows what was measured, and nothing that was not."""

import numpy as np
import pandas as pd

from statetx.reporting.page.training_curves import PANELS, draw
from statetx.training.loop.callbacks import COLUMNS


def metrics(**columns):
    steps = np.arange(1, 21)
    table = pd.DataFrame(
        {"step": steps, "train_loss": 10.0 / steps, "gradient_norm": 1.0, "lr": 1e-3}
    )
    return table.assign(**columns).reindex(columns=list(COLUMNS)).to_csv(index=False)


def test_every_measurement_has_a_panel():
    drawn = {name for _, names, _ in PANELS for name in names}
    assert drawn == set(COLUMNS) - {"step", "seconds"}


def test_what_was_not_measured_is_not_drawn():
    text = draw(metrics())
    assert "gradient norm" in text
    for title in ("Pearson", "decoder", "collapse", "learning rate"):
        assert title not in text
    measured = np.where(np.arange(1, 21) % 5 == 0, 0.5, np.nan)
    text = draw(metrics(val_loss=measured, val_pearson_delta=measured, lr=np.linspace(0, 1, 20)))
    for title in ("validation", "Pearson of deltas", "learning rate"):
        assert title in text


def test_the_kept_step_is_marked():
    assert "kept as best" in draw(metrics(), 12)
    assert "kept as best" not in draw(metrics())


def test_equal_tables_give_equal_pictures():
    assert draw(metrics(), 3) == draw(metrics(), 3)

import sys; sys.path.insert(0,'/work/main/tests/training')
from small_model import small
import test_monitors as t
from conftest import train
import pytest
def test_a(train,monkeypatch):
    t._script(monkeypatch, val_loss=[0.5,0.6,0.7,.8])
    train(small(max_steps=100,patience=2), keep=["best","step=8"])
def test_b(train,monkeypatch):
    t._script(monkeypatch, val_discrimination=[float("nan")] * 3)
    print(t._chosen(train(small(monitor="val_discrimination")))["best"])

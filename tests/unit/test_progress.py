"""What a training shows, on a terminal and in a log."""

from __future__ import annotations

import pytest

from mobilenetv2.training.progress import PlainListener, RichListener, TrainingListener


@pytest.mark.parametrize("kind", [PlainListener, RichListener])
def test_lines_that_stay_are_on_stderr(kind: type[TrainingListener], capsys: pytest.CaptureFixture[str]) -> None:
    with kind() as listener:
        with listener.checking(2) as tick:
            tick()
            tick()
        listener.epoch_begins(0, 2, done=1, steps=4)
        listener.step(0.5, 12.0)
        listener.measuring()
        record = {"epoch": 1, "loss": 0.5, "learning_rate": 0.1, "seconds": 3.0, "val_top1": 0.75}
        listener.epoch_ends(record, is_best=True)
        listener.say("[not markup] done")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "epoch 1: loss 0.5000  top1 0.7500  (3 s)  best so far" in shown.err
    assert "[not markup] done" in shown.err


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainListener, "every_s", 0.0)
    listener = PlainListener()
    listener.epoch_begins(2, 5, done=10, steps=40)
    listener.step(1.25, 33.3)
    assert capsys.readouterr().err == "epoch 3/5  step 11/40  loss 1.2500  33.3 images/s\n"

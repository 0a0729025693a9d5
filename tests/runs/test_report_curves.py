"""Which scalars stand in one plot."""

from __future__ import annotations

import math

from gaekit.runs.report.curves import panels_of
from gaekit.store.curves import Curves


def test_scalars_of_one_quantity_stand_in_one_plot() -> None:
    names = (
        "loss/l1", "loss/gone", "weighted/l1", "weighted/alignment", "train/lr/autoencoder", "probe/seconds",
        "probe/loss/raw", "probe/loss/ema", "probe/loss/noise", "probe/loss/ema/t0.25", "probe/loss/ema/t0.75",
        "probe/loss/l1/ema", "probe/loss/l1/ema/noised", "probe/reconstruction/psnr/ema",
        "probe/reconstruction/psnr/ema/noised", "probe/samples/fid",
    )  # fmt: skip
    found = Curves({name: [(1, 1.0), (2, math.nan)] for name in names} | {"loss/gone": [(1, math.nan)]})
    panels = panels_of(found, {"by": "lowest probe/loss/ema", "best": {"step": 2, "value": 1.0}})
    assert [panel.title for panel in panels if panel.best == 2] == ["probe/loss"]
    assert [(panel.title, list(panel.curves)) for panel in panels if not panel.aside] == [
        ("loss/l1", ["training", "held-out, averaged weights", "held-out, averaged weights, under noise"]),
        ("probe/loss", ["raw weights", "averaged weights", "no better than noise"]),
        ("probe/loss/ema by time", ["t = 0.25", "t = 0.75"]),
        ("probe/reconstruction/psnr", ["averaged weights", "averaged weights, under noise"]),
        ("probe/samples/fid", ["probe/samples/fid"]),
        ("Terms as they are weighed", ["l1", "alignment"]),
    ]
    assert [panel.title for panel in panels if panel.aside] == ["probe/seconds", "train/lr/autoencoder"]

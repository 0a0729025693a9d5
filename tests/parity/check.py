"""Reproduce every output of reference fixtures: `python tests/parity/check.py FILE...`

For each file the component is rebuilt from `state.*` and `config` by the path of `gaekit import`, and every `out.*` is
recomputed from `in.*`. A line each: name, max|ours - out|, tolerance. Exit code 1 if one is beyond its tolerance or is
not known; none is skipped.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, `parity` is not on the path

import torch
from parity import ddt, dit, lightning_dit, sit, tokenizers, training
from parity.fixture import Fixture, Recompute, UnknownOutput, read_fixture
from torch import Tensor

from gaekit.errors import GaekitError

TOLERANCE = 2e-5
KINDS: dict[str, Callable[[Fixture], Recompute]] = {
    "gae_tokenizer": tokenizers.prepare_gae,
    "semantic_teacher": tokenizers.prepare_semantic,
    "ldm_vae": tokenizers.prepare_ldm_vae,
    "diffusers_vae": tokenizers.prepare_ldm_vae,
    "AutoencoderKLFlux2": partial(tokenizers.prepare_diffusers, "flux2-vae"),
    "AutoencoderDC": partial(tokenizers.prepare_diffusers, "dc-ae"),
    "AutoencoderRAE": partial(tokenizers.prepare_diffusers, "rae"),
    "repa_e_vae": tokenizers.prepare_repa_e,
    "lightning_dit": lightning_dit.prepare,
    "dit": dit.prepare,
    "sit": sit.prepare,
    "ddt": ddt.prepare,
    "autoencoder_losses": training.prepare_losses,
    "adm_center_crop": training.prepare_crop,
}


@dataclass(frozen=True)
class Verdict:
    """One output: how far ours is from it, what is allowed, and why there is no number where there is none."""

    name: str
    difference: float | None
    tolerance: float
    fault: str = ""

    @property
    def good(self) -> bool:
        return self.difference is not None and self.difference <= self.tolerance

    def __str__(self) -> str:
        shown = f"{self.difference:.3e}" if self.difference is not None else "-"
        end = "ok" if self.good else f"FAIL {self.fault}".rstrip()
        return f"  {self.name:32} {shown:>10}  {self.tolerance:.3e}  {end}"


def check(path: Path) -> Iterator[Verdict]:
    """The verdict on every output of a file. A fault of one does not end the others."""
    fixture = read_fixture(path)
    if not fixture.outputs:
        yield Verdict("(no output)", None, 0.0, "the file holds no out.*")
        return
    try:
        if fixture.kind not in KINDS:
            raise UnknownOutput(f"kind '{fixture.kind}' is not known; known: {', '.join(KINDS)}")
        recompute = KINDS[fixture.kind](fixture)
    except (GaekitError, UnknownOutput, KeyError) as error:
        fault = f"cannot be rebuilt: {type(error).__name__}: {error}"
        yield from (Verdict(name, None, _tolerance(out), fault) for name, out in fixture.outputs.items())
        return
    for name, out in sorted(fixture.outputs.items()):
        yield _judge(recompute, name, out)


def _judge(recompute: Recompute, name: str, out: Tensor) -> Verdict:
    tolerance = _tolerance(out)
    try:
        ours = recompute(name)
    except (GaekitError, UnknownOutput, KeyError) as error:
        return Verdict(name, None, tolerance, f"{type(error).__name__}: {error}")
    except Exception:  # a fault of gaekit's: shown whole, and counted like any other
        traceback.print_exc()
        return Verdict(name, None, tolerance, "raised; see the traceback")
    if ours.shape != out.shape:
        return Verdict(name, None, tolerance, f"of shape {tuple(ours.shape)}, not {tuple(out.shape)}")
    if not bool(torch.isfinite(ours).all()):
        return Verdict(name, None, tolerance, "not finite")
    return Verdict(name, float((ours.double() - out.double()).abs().max()), tolerance)


def _tolerance(out: Tensor) -> float:
    return TOLERANCE * (1 + float(out.double().abs().max()))


def main(arguments: Sequence[str]) -> int:
    """Check the files and print a line an output; 0 if all are within tolerance, 1 if not, 2 without files."""
    if not arguments:
        print("usage: python tests/parity/check.py FILE...", file=sys.stderr)
        return 2
    total = bad = 0
    for argument in arguments:
        print(f"{argument}:")
        for verdict in check(Path(argument)):
            print(verdict, flush=True)
            total, bad = total + 1, bad + (not verdict.good)
    print(f"{total} outputs, {bad} beyond tolerance" if bad else f"{total} outputs, all within tolerance")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

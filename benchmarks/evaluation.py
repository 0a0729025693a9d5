"""What an evaluation costs: the network of FID, moments of its features, and the distance between two of them.

    python benchmarks/evaluation.py [--device cuda] [--rounds 5] [--json FILE]

The extractor alone (torch-fidelity's Inception, untrained: its arithmetic is that of the trained one) in images a
second; moments of 2,048 features by blocks, against batch by batch; the Fréchet distance, against torch-fidelity's;
what is sent to another rank of each image, against its pixels.
"""

from __future__ import annotations

import torch
from paired import Row, alone, arguments, limits, paired, report
from torch import Tensor
from torch_fidelity.metric_fid import fid_statistics_to_metric

from gaekit.api.metrics import Moments, frechet_distance
from gaekit_metrics.inception import Inception

WIDTH, BATCH = 2048, 64


def plain_moments(batches: list[Tensor]) -> Tensor:
    """Mean and scatter of rows, a batch at a time, on the CPU."""
    mean, scatter, count = torch.zeros(WIDTH).double(), torch.zeros(WIDTH, WIDTH).double(), 0
    for batch in batches:
        rows = batch.double().cpu()
        own, total = rows.mean(0), count + len(rows)
        centred, shift = rows - own, own - mean
        scatter += centred.T @ centred + torch.outer(shift, shift) * (count * len(rows) / total)
        mean, count = mean + shift * (len(rows) / total), total
    return scatter


def by_blocks(batches: list[Tensor]) -> Tensor:
    """The same by gaekit's blocks."""
    moments = Moments(WIDTH)
    for batch in batches:
        moments.add(batch)
    return moments.covariance


def main() -> None:
    """Measure and print."""
    given = arguments(__doc__)
    device, rows = torch.device(given.device), list[Row]()
    extractor = Inception("random", 0, "benchmark")
    pixels = torch.randint(256, (BATCH, 3, 256, 256), dtype=torch.uint8, device=device)
    found = alone(f"Inception of {BATCH} images of 256 px", lambda: extractor(pixels), device, 3)
    rows.append(Row(found.name, found.seconds, note=f"{BATCH / found.seconds:.4g} images/s"))
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
    batches = [(torch.randn(BATCH, WIDTH, generator=generator) @ mix).to(device) for _ in range(64)]
    name = f"moments of {BATCH * len(batches)} rows of {WIDTH}, against batch by batch"
    rows.append(paired(name, lambda: by_blocks(batches), lambda: plain_moments(batches), device, given.rounds))
    real, fake = Moments(WIDTH), Moments(WIDTH)
    for batch in batches:
        real.add(batch)
        fake.add(batch * 1.1 + 0.01)
    one, other = ({"mu": m.mean.numpy(), "sigma": m.covariance.numpy()} for m in (real, fake))
    ours = frechet_distance(real.mean, real.covariance, fake.mean, fake.covariance)
    theirs = float(fid_statistics_to_metric(one, other, False)["frechet_inception_distance"])
    cpu = torch.device("cpu")
    rows.append(
        paired(
            f"Fréchet distance of {WIDTH} features, against torch-fidelity's",
            lambda: frechet_distance(real.mean, real.covariance, fake.mean, fake.covariance),
            lambda: fid_statistics_to_metric(one, other, False),
            cpu, given.rounds, f"relative difference {abs(ours - theirs) / theirs:.1e}",
        )
    )  # fmt: skip
    sent, whole = extractor(pixels).joined()[0].nbytes, pixels[0].nbytes
    rows.append(Row("bytes of an image's features, against its pixels at 256 px", 0.0, note=f"{sent} and {whole}"))
    report("evaluation", [*limits(device), *rows], device, given.json)


if __name__ == "__main__":
    main()

"""What cards can do at most: the rates of dense matrix products that their makers give, in TFLOP/s."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peak:
    """A card's rate in one precision, and how it is called where a share of it is told."""

    tflops: float
    of: str


# Substrings of torch.cuda.get_device_name, the longer before what they contain -> bf16, tf32, float32; None: the card
# has none of its own, or it is not known. From NVIDIA's data sheets of each card, halved where they count structured
# sparsity; for GeForce and RTX cards from the white papers of Ampere GA102, Ada and Blackwell, with accumulation in
# float32. H200 NVL has the chip and the rates of H100 NVL.
PRECISIONS = ("bf16", "tf32", "float32")
RATES: dict[str, tuple[float | None, float | None, float]] = {
    "B200": (2250.0, 1125.0, 75.0),
    "H200 NVL": (835.5, 417.5, 60.0),
    "H200": (989.5, 494.7, 67.0),
    "H100 NVL": (835.5, 417.5, 60.0),
    "H100 PCIe": (756.0, 378.0, 51.0),
    "H100": (989.5, 494.7, 67.0),
    "A100": (312.0, 156.0, 19.5),
    "A30": (165.0, 82.0, 10.3),
    "A40": (149.7, 74.8, 37.4),
    "A10": (125.0, 62.5, 31.2),
    "L40S": (362.0, 183.0, 91.6),
    "L40": (181.0, 90.5, 90.5),
    "L4": (121.0, 60.0, 30.3),
    "RTX A6000": (154.8, 77.4, 38.7),
    "RTX 5090": (209.5, 104.8, 104.8),
    "RTX 4090": (165.2, 82.6, 82.6),
    "RTX 3090 Ti": (80.0, 40.0, 40.0),
    "RTX 3090": (71.0, 35.6, 35.6),
    "V100-PCIE": (None, None, 14.0),
    "V100": (None, None, 15.7),
    "Tesla T4": (None, None, 8.1),
}


LESSER = ("Laptop", "MIG", "Max-Q", " D")
"""What tells of a card with less than the rates of its name."""


def peak_of(device: str, precision: str) -> Peak | None:
    """The rate of a device, by its name, in a resolved precision (bf16, tf32, float32); None where it is not known."""
    if precision not in PRECISIONS or any(f"{device} ".find(f"{word} ") >= 0 for word in LESSER):
        return None
    for name, rates in RATES.items():
        if _names(name, device):
            rate = rates[PRECISIONS.index(precision)]
            return None if rate is None else Peak(rate, f"{rate:g} TFLOP/s of {device}, dense {precision}")
    return None


def _names(name: str, device: str) -> bool:
    """Whether a name stands in a device's as words of their own: an A100 is no A10, a GB200 no B200."""
    before, found, after = device.partition(name)
    return bool(found) and not before[-1:].isalnum() and not after[:1].isalnum()

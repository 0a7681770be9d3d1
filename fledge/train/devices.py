"""Devices to plan for as rows: what each computes, holds and sends. Nothing here imports torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """One accelerator. `flops` is the dense bf16 peak in FLOP/s, `memory` in bytes, the rest in bytes a second: `bandwidth` of its memory,
    `link` to one of the `node` devices of its machine and `network` to one of another machine, each in one direction."""

    name: str
    flops: float
    memory: float
    bandwidth: float
    link: float
    network: float
    node: int
    source: str


_IB400, _IB200, _ETHERNET = 50e9, 25e9, 12.5e9  # a device's own 400 or 200 Gb/s of InfiniBand, 100 Gb/s of Ethernet
_PCIE4, _PCIE5 = 32e9, 64e9  # 16 lanes

DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device("a100", 312e12, 80e9, 2.04e12, 300e9, _IB200, 8, "NVIDIA A100 data sheet (SXM, 80 GB); DGX A100's network"),
        Device("a100-40gb", 312e12, 40e9, 1.56e12, 300e9, _IB200, 8, "NVIDIA A100 data sheet (SXM, 40 GB); DGX A100's network"),
        Device("h100", 989e12, 80e9, 3.35e12, 450e9, _IB400, 8, "NVIDIA H100 data sheet (SXM), without sparsity; DGX H100's network"),
        Device("h200", 989e12, 141e9, 4.8e12, 450e9, _IB400, 8, "NVIDIA H200 data sheet (SXM), without sparsity; DGX H200's network"),
        Device("b200", 2250e12, 180e9, 8e12, 900e9, _IB400, 8, "NVIDIA DGX B200 data sheet, without sparsity"),
        Device("l4", 121e12, 24e9, 0.3e12, _PCIE4, _ETHERNET, 8, "NVIDIA L4 data sheet, without sparsity; network assumed"),
        Device("l40s", 362e12, 48e9, 0.864e12, _PCIE4, _ETHERNET, 8, "NVIDIA L40S data sheet, without sparsity; network assumed"),
        Device("rtx3090", 71e12, 24e9, 0.936e12, _PCIE4, _ETHERNET, 2, "NVIDIA GA102 whitepaper, sums in fp32; network assumed"),
        Device("rtx4090", 165e12, 24e9, 1.008e12, _PCIE4, _ETHERNET, 2, "NVIDIA Ada whitepaper 2.1, sums in fp32; network assumed"),
        Device("rtx5090", 209e12, 32e9, 1.792e12, _PCIE5, _ETHERNET, 2, "NVIDIA RTX Blackwell whitepaper, sums in fp32; network assumed"),
        Device("mi300x", 1307e12, 192e9, 5.3e12, 448e9, _IB400, 8, "AMD Instinct MI300X data sheet, without sparsity; network assumed"),
        Device("mi325x", 1307e12, 256e9, 6e12, 448e9, _IB400, 8, "AMD Instinct MI325X data sheet, without sparsity; network assumed"),
    )
}


def known_as(name: str) -> Device | None:
    """The device that a driver calls so, such as `NVIDIA H100 80GB HBM3`; the longest name that fits."""
    told = name.lower().replace(" ", "").replace("geforce", "")
    found = [device for key, device in DEVICES.items() if key.split("-")[0] in told and ("-" not in key or key.split("-")[1] in told)]
    return max(found, key=lambda device: len(device.name), default=None)

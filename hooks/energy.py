"""Joules that a forward pass takes for an image, as the metric `joules_per_image`.

On an NVIDIA GPU by NVML, on a CPU by RAPL (Intel and AMD, through Linux's powercap). Either counts all that the device
does, idling and other programs included: keep the machine free of other work. Set SECONDS and BATCH after the name:
`--hook 'energy SECONDS=10 BATCH=8'`.
"""

import time
from pathlib import Path

SECONDS = 3.0  # of running the model; RAPL's counter moves every millisecond, NVML's every tenth of a second
BATCH = 1  # images in a forward pass
POWERCAP = "/sys/class/powercap"
WARM_UP = 10  # passes before the counter is read


def measure(model, imgsz, device):
    import torch

    read = nvml_counter(device) if str(device).startswith("cuda") else rapl_counter(Path(POWERCAP))
    images = torch.zeros(BATCH, 3, imgsz, imgsz, device=device)
    synchronize = torch.cuda.synchronize if str(device).startswith("cuda") else lambda: None
    for _ in range(WARM_UP):
        model(images)
    synchronize()
    passes, start, before = 0, time.perf_counter(), read()
    while time.perf_counter() - start < SECONDS:
        model(images)
        synchronize()
        passes += 1
    return {"joules_per_image": joules_between(before, read()) / (passes * BATCH)}


def joules_between(before, after):
    """Joules of all counters between two readings of `{name: (joules, joules at which it starts again)}`."""
    return sum((joules - before[name][0]) % period for name, (joules, period) in after.items())


def rapl_counter(powercap):
    """What reads the energy of all CPU packages, and of the memory where that is counted beside them.

    A zone's folder has `name`, `energy_uj` (microjoules) and `max_energy_range_uj`, after which it starts again at 0
    (https://docs.kernel.org/power/powercap/powercap.html). Other zones are parts of a package, or hold it.
    """
    zones = {}
    for folder in sorted(powercap.glob("intel-rapl:*")):
        name = (folder / "name").read_text(encoding="utf-8").strip()
        if name.startswith("package") or name == "dram":
            zones[folder.name] = folder
    if not zones:
        raise RuntimeError(f"no energy counter: no GPU is used, and {powercap} has no RAPL zone of a CPU package")
    unreadable = [folder / "energy_uj" for folder in zones.values() if not is_readable(folder / "energy_uj")]
    if unreadable:
        raise RuntimeError(f"{unreadable[0]} can't be read: sudo chmod a+r {powercap}/intel-rapl:*/energy_uj")

    def joules(folder, file):
        return int((folder / file).read_text(encoding="utf-8")) / 1e6

    return lambda: {n: (joules(f, "energy_uj"), joules(f, "max_energy_range_uj")) for n, f in zones.items()}


def is_readable(path):
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def nvml_counter(device):
    """What reads the energy of a GPU since its driver was loaded (Volta or newer)."""
    try:
        import pynvml
    except ImportError:
        raise RuntimeError("the energy of a GPU needs NVML: pip install nvidia-ml-py") from None
    import torch

    pynvml.nvmlInit()
    uuid = str(torch.cuda.get_device_properties(device).uuid)  # its index is not NVML's
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
    return lambda: {"gpu": (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, float("inf"))}

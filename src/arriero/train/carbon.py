"""The energy that training takes and the CO₂ that it costs (LLaMA, arXiv 2302.13971, section 6).

    Wh = GPU-hours · watts of a GPU · PUE        tCO₂e = MWh · 0.385

PUE is what a data centre draws in all for each watt that reaches its computers. 0.385 kg a kWh is the average of the
United States, by which the paper compares models that were trained in different places. Both are for processors alone:
neither what made the machines, nor their other parts.
"""

import importlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch

from arriero.train.cards import CPU_WATTS_PER_CORE, recognise_card

PUE = 1.1
"""LLaMA's and Llama 2's."""
TONNES_PER_MWH = 0.385
JOULES_PER_MWH = 3.6e9

Source = Literal["nvml", "rapl", "codecarbon", "estimated"]
"""Who says how much energy: the GPU's sensor, the CPU's counters, codecarbon, or the power limit times the time."""


def energy_mwh(gpu_hours: float, watts: float, pue: float = PUE) -> float:
    """MWh for so many hours of a GPU that draws so many watts."""
    return gpu_hours * watts * pue / 1e6


def carbon_tonnes(mwh: float, tonnes_per_mwh: float = TONNES_PER_MWH) -> float:
    """Tonnes of CO₂ equivalent."""
    return mwh * tonnes_per_mwh


class EnergyMeter:
    """The joules that processors took since the meter was made, without the data centre's overhead.

    It takes the best source that is there: the sensors of GPUs that are computed on, else the counters of the CPU,
    else the package codecarbon, else power limits times time. GPUs of other machines count as much as those of this
    one; the CPU's counters see all of this machine, with whatever else runs on it.
    """

    def __init__(
        self, devices: int = 1, *, watts: float | None = None, powercap: Path = Path("/sys/class/powercap")
    ) -> None:
        """Begin to count.

        Args:
            devices: processes that train, each on one device.
            watts: of one device, where nothing measures; by default its power limit, or 12 W for each of its threads.
            powercap: where Linux shows the CPU's counters.
        """
        self.source: Source
        self._read: Callable[[], float]
        if torch.cuda.is_available() and (power := _gpu_power(_gpus_here(devices))) is not None:
            self.source, self._read = "nvml", _Integral(power, devices / _gpus_here(devices))
        elif not torch.cuda.is_available() and (counters := _rapl_counters(powercap)):
            self.source, self._read = "rapl", _Counters(counters)
        elif (tracker := _codecarbon()) is not None:
            self.source, self._read = "codecarbon", tracker
        else:
            drawn = devices * (usual_watts() if watts is None else watts)
            self.source, self._read = "estimated", _Integral(lambda: drawn)

    def joules(self) -> float:
        """So far; read it at least every few minutes: a CPU's counter begins again after some hours' worth."""
        return self._read()


def usual_watts() -> float:
    """The power limit of this process's device: a known GPU's, another's as of an A100, or a CPU's by its threads."""
    if not torch.cuda.is_available():
        return CPU_WATTS_PER_CORE * torch.get_num_threads()
    card = recognise_card(torch.cuda.get_device_name())
    return 400.0 if card is None else card.watts


class _Integral:
    """Joules from watts that are looked at now and then: each stretch at the mean of its ends."""

    def __init__(self, power: Callable[[], float], factor: float = 1.0) -> None:
        self.power, self.factor = power, factor
        self.total, self.then, self.watts = 0.0, time.monotonic(), power()

    def __call__(self) -> float:
        now, watts = time.monotonic(), self.power()
        self.total += self.factor * (now - self.then) * (watts + self.watts) / 2
        self.then, self.watts = now, watts
        return self.total


class _Counters:
    """Joules from counters of microjoules that begin again at zero beyond their range."""

    def __init__(self, zones: Sequence[Path]) -> None:
        self.ranges = {zone: int((zone / "max_energy_range_uj").read_text()) for zone in zones}
        self.last = {zone: _microjoules(zone) for zone in zones}
        self.total = 0

    def __call__(self) -> float:
        for zone, reach in self.ranges.items():
            now = _microjoules(zone)
            grown = now - self.last[zone]
            self.total += grown if grown >= 0 else grown + reach
            self.last[zone] = now
        return self.total / 1e6


def _microjoules(zone: Path) -> int:
    return int((zone / "energy_uj").read_text())


def _rapl_counters(powercap: Path) -> list[Path]:
    """The zones that may be read and together count everything once: packages, and memory where it stands apart.

    Cores and graphics are parts of a package; `psys` contains the packages; `intel-rapl-mmio` shows them again.
    """
    counted = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            _microjoules(zone)
            int((zone / "max_energy_range_uj").read_text())
        except (OSError, ValueError):  # since CVE-2020-8694 only root may read the counters
            continue
        if name == "dram" or name.startswith("package"):
            counted.append(zone)
    return counted if any(not zone.name.count(":") > 1 for zone in counted) else []


def _gpus_here(devices: int) -> int:
    """How many of the GPUs that this process sees are trained on: the first ones, as `parallel.py` deals them out."""
    return min(devices, torch.cuda.device_count())


def _gpu_power(count: int) -> Callable[[], float] | None:
    """Watts of the first `count` GPUs; None where NVML, its Python package, or the sensor isn't there."""
    try:
        nvml = importlib.import_module("pynvml")
    except ModuleNotFoundError:
        return None

    def power() -> float:
        return sum(torch.cuda.power_draw(index) for index in range(count)) / 1e3

    try:
        power()
    except (RuntimeError, nvml.NVMLError):
        return None
    return power


def _codecarbon() -> Callable[[], float] | None:
    """codecarbon's count in its offline form, which asks no server where it is; None where it isn't installed.

    Where it can't measure, it estimates in its turn. The count so far is to be had only by a private attribute.
    """
    try:
        codecarbon = importlib.import_module("codecarbon")
    except ModuleNotFoundError:
        return None
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    tracker = codecarbon.OfflineEmissionsTracker(
        country_iso_code="USA", save_to_file=False, log_level="critical", allow_multiple_runs=True
    )
    tracker.start()

    def joules() -> float:
        tracker.flush()
        return float(tracker._total_energy.kWh) * JOULES_PER_MWH / 1e3

    return joules

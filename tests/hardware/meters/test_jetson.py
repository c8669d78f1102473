"""The power monitors of Jetson boards, in constructed sysfs trees of both layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperpower_runner.errors import MeterError
from hyperpower_runner.hardware.meters.jetson import JetsonMeter


def make_hwmon(root: Path, rails: dict[str, tuple[int, int]], address: str = "1-0040") -> Path:
    """Rails by label: millivolts and milliamperes."""
    folder = root / "ina3221" / address / "hwmon" / "hwmon3"
    folder.mkdir(parents=True)
    for channel, (label, (millivolts, milliamperes)) in enumerate(rails.items(), start=1):
        (folder / f"in{channel}_label").write_text(f"{label}\n")
        (folder / f"in{channel}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{channel}_input").write_text(f"{milliamperes}\n")
    (folder / "in7_label").write_text("sum of shunt voltages\n")
    (folder / "in7_input").write_text("123\n")
    return folder


def make_iio(root: Path, rails: dict[str, int], address: str = "1-0040") -> Path:
    """Rails by label: milliwatts."""
    folder = root / "ina3221x" / address / "iio:device0"
    folder.mkdir(parents=True)
    for channel, (label, milliwatts) in enumerate(rails.items()):
        (folder / f"rail_name_{channel}").write_text(f"{label}\n")
        (folder / f"in_power{channel}_input").write_text(f"{milliwatts}\n")
    return folder


def test_the_total_input_is_read_in_the_layout_of_linux(tmp_path: Path) -> None:
    folder = make_hwmon(tmp_path, {"VDD_CPU_GPU_CV": (5000, 800), "VDD_IN": (5040, 1250), "VDD_SOC": (5000, 300)})
    meter = JetsonMeter(tmp_path)
    meter.preflight()
    meter.attach(1)
    sample = meter.sample()
    assert sample.power_w == pytest.approx(6.3)
    assert (sample.memory_bytes, sample.energy_j) == (None, None)
    assert (meter.platform["meter"], meter.platform["rail"]) == ("jetson", "VDD_IN")
    assert meter.platform["name"]
    assert meter.metrics == {"power_w"}
    (folder / "curr2_input").write_text("2500")
    assert meter.sample().power_w == pytest.approx(12.6)
    meter.close()


def test_the_total_input_is_read_in_the_older_layout_and_on_any_of_several_monitors(tmp_path: Path) -> None:
    make_iio(tmp_path, {"VDD_MUX": 9000, "VDD_5V_IO_SYS": 2000}, "1-0042")
    make_iio(tmp_path, {"VDD_GPU": 1500, "VDD_IN": 7250, "VDD_CPU": 900})
    assert JetsonMeter(tmp_path).sample().power_w == pytest.approx(7.25)


def test_the_nanos_label_is_known(tmp_path: Path) -> None:
    make_iio(tmp_path, {"POM_5V_GPU": 500, "POM_5V_IN": 3100, "POM_5V_CPU": 900}, "6-0040")
    meter = JetsonMeter(tmp_path)
    assert meter.platform["rail"] == "POM_5V_IN"
    assert meter.sample().power_w == pytest.approx(3.1)


def test_a_board_without_a_total_names_its_rails_and_takes_the_one_that_is_named(tmp_path: Path) -> None:
    make_hwmon(tmp_path, {"VDD_GPU_SOC": (19000, 500), "VDD_CPU_CV": (19000, 100), "VIN_SYS_5V0": (5000, 600)})
    with pytest.raises(MeterError, match=r"found VDD_CPU_CV, VDD_GPU_SOC, VIN_SYS_5V0; name the one to measure"):
        JetsonMeter(tmp_path)
    assert JetsonMeter(tmp_path, "VDD_GPU_SOC").sample().power_w == pytest.approx(9.5)
    with pytest.raises(MeterError, match=r'no rail "VDD_GPU"; this board has .*; did you mean "VDD_GPU_SOC"\?'):
        JetsonMeter(tmp_path, "VDD_GPU")


def test_without_a_monitor_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "ina3221").mkdir()
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MeterError, match="no INA3221 power monitor"):
            JetsonMeter(root)


@pytest.mark.parametrize("broken", ["text", "gone"])
def test_a_rail_that_cannot_be_read_is_an_error(tmp_path: Path, broken: str) -> None:
    folder = make_iio(tmp_path, {"VDD_IN": 7250})
    meter = JetsonMeter(tmp_path)
    power = folder / "in_power0_input"
    power.write_text("?") if broken == "text" else power.unlink()
    with pytest.raises(MeterError, match="the rail VDD_IN cannot be read"):
        meter.preflight()

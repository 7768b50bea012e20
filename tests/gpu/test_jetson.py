"""Jetson's sysfs in the layouts of real boards: which rail, which zone, and what an absent sensor is."""

from math import isnan
from pathlib import Path

import pytest

from flightsw.gpu.jetson import JetsonReader

INA_ORIN = "bus/i2c/devices/1-0040"
ORIN_AGX = {
    f"{INA_ORIN}/name": "ina3221\n",
    f"{INA_ORIN}/hwmon/hwmon3/in1_label": "VDD_GPU_SOC\n",
    f"{INA_ORIN}/hwmon/hwmon3/in1_input": "19080\n",
    f"{INA_ORIN}/hwmon/hwmon3/curr1_input": "1640\n",
    f"{INA_ORIN}/hwmon/hwmon3/in2_label": "VDD_CPU_CV\n",
    f"{INA_ORIN}/hwmon/hwmon3/in2_input": "19080\n",
    f"{INA_ORIN}/hwmon/hwmon3/curr2_input": "120\n",
    f"{INA_ORIN}/hwmon/hwmon3/in3_label": "VIN_SYS_5V0\n",
    f"{INA_ORIN}/hwmon/hwmon3/in3_input": "5056\n",
    f"{INA_ORIN}/hwmon/hwmon3/curr3_input": "2000\n",
    f"{INA_ORIN}/hwmon/hwmon3/in7_label": "sum of shunt voltages\n",
    "bus/i2c/devices/1-0041/name": "ina3221\n",
    "bus/i2c/devices/1-0041/hwmon/hwmon4/in1_label": "NC\n",
    "bus/i2c/devices/1-0041/hwmon/hwmon4/in1_input": "5048\n",
    "bus/i2c/devices/1-0041/hwmon/hwmon4/curr1_input": "0\n",
    "bus/i2c/devices/0-0050/name": "24c02\n",
    "class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "class/thermal/thermal_zone0/temp": "48125\n",
    "class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "class/thermal/thermal_zone1/temp": "44562\n",
    "class/devfreq/17000000.ga10b/device/of_node/name": "ga10b\0",
    "class/devfreq/17000000.ga10b/device/load": "734\n",
    "class/devfreq/15480000.nvdec/device/of_node/name": "nvdec\0",
    "class/devfreq/15480000.nvdec/device/load": "11\n",
}
ORIN_NANO = {
    f"{INA_ORIN}/name": "ina3221\n",
    f"{INA_ORIN}/hwmon/hwmon1/in1_label": "VDD_IN\n",
    f"{INA_ORIN}/hwmon/hwmon1/in1_input": "5080\n",
    f"{INA_ORIN}/hwmon/hwmon1/curr1_input": "1500\n",
    f"{INA_ORIN}/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    f"{INA_ORIN}/hwmon/hwmon1/in2_input": "5064\n",
    f"{INA_ORIN}/hwmon/hwmon1/curr2_input": "500\n",
    "class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "class/thermal/thermal_zone1/temp": "51000\n",
    "class/devfreq/17000000.gpu/device/load": "0\n",
}
NANO_JETPACK4 = {
    "bus/i2c/devices/6-0040/name": "ina3221x\n",
    "bus/i2c/devices/6-0040/iio:device0/rail_name_0": "POM_5V_IN\n",
    "bus/i2c/devices/6-0040/iio:device0/in_power0_input": "2900\n",
    "bus/i2c/devices/6-0040/iio:device0/rail_name_1": "POM_5V_GPU\n",
    "bus/i2c/devices/6-0040/iio:device0/in_power1_input": "1250\n",
    "class/thermal/thermal_zone2/type": "GPU-therm\n",
    "class/thermal/thermal_zone2/temp": "33500\n",
    "class/devfreq/57000000.gpu/device/load": "999\n",
}
THOR = {
    "bus/i2c/devices/2-0044/name": "ina238\n",
    "bus/i2c/devices/2-0044/hwmon/hwmon2/power1_input": "36500000\n",
    "class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "class/thermal/thermal_zone1/temp": "39000\n",
}
BOARDS = {
    # board: files, rail, watts, °C, load, unsupported beside energy and ECC
    "AGX Orin": (ORIN_AGX, "VDD_GPU_SOC", 31.2912, 44.562, 0.734, {"memory_degc"}),
    "Orin Nano": (ORIN_NANO, "VDD_CPU_GPU_CV", 2.532, 51.0, 0.0, {"memory_degc"}),
    "Nano, JetPack 4": (NANO_JETPACK4, "POM_5V_GPU", 1.25, 33.5, 0.999, {"memory_degc"}),
    "Thor": (THOR, "VIN", 36.5, 39.0, None, {"memory_degc", "utilisation_fraction"}),
}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


@pytest.mark.parametrize(("files", "rail", "power_w", "die_degc", "load", "missing"), BOARDS.values(), ids=BOARDS)
def test_boards(tmp_path: Path, files, rail, power_w, die_degc, load, missing) -> None:
    reader = JetsonReader(tree(tmp_path, files))
    sample = reader.read(3, now_s=0.0)
    assert reader.present
    assert reader.rail == rail
    assert (sample.sequence, sample.source) == (3, "jetson")
    assert sample.power_w == pytest.approx(power_w)
    assert sample.die_degc == pytest.approx(die_degc)
    assert sample.utilisation_fraction == (None if load is None else pytest.approx(load))
    assert set(sample.unsupported) == missing | {
        "energy_j",
        "ecc_corrected",
        "ecc_uncorrected",
        "throttle_reasons",
        "power_average_w",
        "power_limit_w",
        "power_limit_enforced_w",
        "slowdown_margin_k",
        "xid",
    }
    (reading,) = sample.readings
    assert (reading.kind, reading.value) == ("rail", sample.power_w)


@pytest.mark.parametrize("content", ["-256000\n", "", "n/a\n", "\xff\n", "999999999\n"])
def test_absent_sensor_is_no_temperature(tmp_path: Path, content: str) -> None:
    files = ORIN_AGX | {"class/thermal/thermal_zone1/temp": content}
    sample = JetsonReader(tree(tmp_path, files)).read(0, now_s=0.0)
    assert isnan(sample.die_degc)
    assert sample.power_w == pytest.approx(31.2912)
    assert "die_degc" not in sample.unsupported


def test_sensor_that_falls_silent_is_failed_not_unsupported(tmp_path: Path) -> None:
    reader = JetsonReader(tree(tmp_path, THOR))
    assert reader.read(0, now_s=0.0).power_w == pytest.approx(36.5)
    (tmp_path / "bus/i2c/devices/2-0044/hwmon/hwmon2/power1_input").unlink()
    after = reader.read(1, now_s=1.0)
    assert isnan(after.power_w)
    assert "power_w" not in after.unsupported
    assert reader.fault == ""
    (tmp_path / "class/thermal/thermal_zone1/temp").unlink()
    reader.read(2, now_s=2.0)
    assert reader.fault == "no sensor can be read"


def test_other_machines_are_no_jetson(tmp_path: Path) -> None:
    desktop = {
        "class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
        "class/thermal/thermal_zone0/temp": "45000\n",
        "bus/i2c/devices/0-0050/name": "spd5118\n",
    }
    assert not JetsonReader(tree(tmp_path, desktop)).present
    assert not JetsonReader(tmp_path / "nothing").present

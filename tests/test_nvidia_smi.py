"""What nvidia-smi tells of a GPU that isn't there: a script stands in its place."""

import pytest

from benchmarks.harness import nvidia_smi
from benchmarks.harness.nvidia_smi import FIELDS, NOT_TOLD

SMI = """#!/bin/sh
# Of GPUs: {gpus}. Knows: {known}.
fields=${{1#--query-gpu=}}
case "$3 $4" in
  " ") count={gpus} ;;
  "-i GPU-here") count=1 ;;
  *) echo "No devices were found"; exit 6 ;;
esac
line=
for field in $(echo "$fields" | tr , ' '); do
  case " {known} " in *" $field "*) ;; *) echo "Field \\"$field\\" is not a valid field to query."; exit 2 ;; esac
  case $field in power.draw) value='[N/A]' ;; *) value="$field of $count" ;; esac
  line="$line${{line:+, }}$value"
done
for _ in $(seq $count); do echo "$line"; done
"""


@pytest.mark.parametrize("uuid", ["here", "elsewhere"])
@pytest.mark.parametrize("unknown", [(), ("pstate", "clocks_event_reasons.active")])
@pytest.mark.parametrize("gpus", [1, 2])
def test_nvidia_smi_tells_what_it_knows_of_this_gpu(monkeypatch, tmp_path, uuid, unknown, gpus):
    known = " ".join(field for field in FIELDS if field not in unknown)
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI.format(gpus=gpus, known=known))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = nvidia_smi.fields(uuid)
    lost = set(FIELDS) if (uuid, gpus) == ("elsewhere", 2) else {"power.draw", *unknown}
    assert {field for field, value in found.items() if value == NOT_TOLD} == lost
    assert {value for field, value in found.items() if field not in lost} == {
        f"{field} of 1" for field in FIELDS if field not in lost
    }


def test_without_nvidia_smi_nothing_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_smi.fields("here") == dict.fromkeys(FIELDS, NOT_TOLD)


def test_an_nvidia_smi_that_hangs_is_left_alone(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexec sleep 20\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(nvidia_smi, "TIMEOUT", 0.2)
    assert set(nvidia_smi.fields("here").values()) == {NOT_TOLD}


def test_the_summary_has_the_least_and_the_most():
    states = [
        dict.fromkeys(FIELDS, NOT_TOLD) | {"pstate": p, "clocks.sm": c} for p, c in (("P8", "9 MHz"), ("P0", "10 MHz"))
    ]
    assert nvidia_smi.summary(states).startswith(
        "nvidia-smi, 2 times from before the run to its end: pstate P8, P0; clocks.sm 9 MHz to 10 MHz; not told: name, "
    )
    assert "clocks.sm 9 MHz;" in nvidia_smi.summary(states[:1])

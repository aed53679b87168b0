"""What is said to a cluster in the examples is what the program takes."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mindnlp_ocr.farm.options import parser
from tests.conftest import ROOT


def test_the_job_of_kuberay_starts_a_farm_with_options_that_exist() -> None:
    job: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "kuberay.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    program, command, *options = shlex.split(job["spec"]["entrypoint"])
    assert (program, command) == ("mindnlp-ocr", "batch")
    arguments = parser().parse_args(options)
    (readers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = readers["template"]["spec"]["containers"]
    assert float(container["resources"]["requests"]["cpu"]) == arguments.cpus_per_actor


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "cluster").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_of_good_form(path: Path) -> None:
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    assert "NOT RUN" in path.read_text(encoding="utf-8")

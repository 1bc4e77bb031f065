"""Processes that end with everything still open."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import pytest

from tests.support.nginx import Nginx
from tokenauth.provisioning.softhsm import CONFIGURATION, configuration_in_use, write_configuration

pytestmark = pytest.mark.xdist_group("one_key")
SCRIPT = Path(__file__).parent / "support" / "exit_script.py"
PROCESSES = {"idle": 100, "in_module": 50, "busy": 50}
AT_A_TIME = 4


def copy_of_tokens(directory: Path) -> Path:
    """SoftHSM's configuration for a copy of all tokens.

    A login rewrites the token's file, and SoftHSM in another process that reads it meanwhile fails or misses the token.
    """
    used = configuration_in_use()
    assert used is not None
    configuration = write_configuration(directory)
    shutil.copytree(used.parent / "tokens", directory / "tokens", dirs_exist_ok=True)
    return configuration


def test_two_hundred_processes_end_cleanly(one_key, tmp_path):
    configurations: SimpleQueue[Path] = SimpleQueue()
    for index in range(AT_A_TIME):
        configurations.put(copy_of_tokens(tmp_path / f"tokens-{index}"))

    def run(mode):
        configuration = configurations.get()
        done = subprocess.run(
            [*command, mode],
            env={**os.environ, CONFIGURATION: str(configuration), "TEST_PIN": one_key.pin},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        configurations.put(configuration)
        return mode, done.returncode, done.stderr

    with Nginx(one_key.ca, tmp_path) as nginx, ThreadPoolExecutor(AT_A_TIME) as pool:
        uri = f"{one_key.uri}?module-path={one_key.module}"
        command = [sys.executable, "-X", "faulthandler", str(SCRIPT), uri, "TEST_PIN", str(nginx.port), nginx.cafile]
        outcomes = list(pool.map(run, [mode for mode, count in PROCESSES.items() for _ in range(count)]))
    unclean = [(mode, code, stderr) for mode, code, stderr in outcomes if code or stderr]
    assert not unclean, f"{len(unclean)} of {len(outcomes)}, such as: {unclean[0]}"
    assert len(outcomes) == 200

"""Processes that end with everything still open."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.nginx import Nginx

pytestmark = pytest.mark.xdist_group("one_key")
SCRIPT = Path(__file__).parent / "support" / "exit_script.py"
PROCESSES = {"idle": 100, "in_module": 50, "busy": 50}


def test_two_hundred_processes_end_cleanly(one_key, tmp_path):
    environment = {**os.environ, "TEST_PIN": one_key.pin, "TOKENAUTH_MODULE": one_key.module}

    def run(mode):
        command = [sys.executable, "-X", "faulthandler", SCRIPT, one_key.uri, "TEST_PIN", nginx.port, nginx.cafile]
        done = subprocess.run(
            [*map(str, command), mode], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        return mode, done.returncode, done.stderr

    with Nginx(one_key.ca, tmp_path) as nginx, ThreadPoolExecutor(4) as pool:
        modes = [mode for mode, count in PROCESSES.items() for _ in range(count)]
        outcomes = Counter(pool.map(run, modes))
    unclean = [stderr for _, code, stderr in outcomes if code or stderr]
    assert not unclean, unclean[0]
    assert outcomes == {(mode, 0, ""): count for mode, count in PROCESSES.items()}

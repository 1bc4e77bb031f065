"""Ten thousand handshakes leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import memory_script
from tests.support.command_line import environment
from tests.support.file_keys import file_pair
from tokenauth.testing import SoftToken

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")
HANDSHAKES, FAILING = 10_000, 1500
MOST = 2048  # KiB


@pytest.mark.parametrize("key_type", ["p256"])
def test_memory_and_descriptors(tmp_path, key_type):
    with SoftToken("memory", key_type=key_type) as token:
        pair, _, _ = file_pair(token.ca, tmp_path, "ec", "tls-server")
        ca = tmp_path / "ca.pem"
        ca.write_bytes(token.ca.pem)
        arguments = (token.uri, "CARD_PIN", token.module, str(pair), str(ca), str(HANDSHAKES), str(FAILING))
        done = subprocess.run(
            [sys.executable, memory_script.__file__, *arguments],
            env=environment(CARD_PIN=token.pin),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    for kind, grew in json.loads(done.stdout).items():
        assert grew["memory"] < MOST, (kind, grew)
        assert grew["descriptors"] == 0, (kind, grew)

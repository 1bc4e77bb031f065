#!/usr/bin/env bash
# The main job shown on this machine: installs what is missing, then runs `tokenauth demo` with the arguments given.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

prepare '' softhsm
exec "$venv/bin/tokenauth" demo "$@"

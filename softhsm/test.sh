#!/usr/bin/env bash
# The whole test suite: installs what is missing, then runs pytest; arguments are passed on to it.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

prepare '[test,cards]' softhsm nginx apache openssl p11-kit p11-kit-client pkcs11.h cc pinentry-tty pinentry-curses \
  pcscd vpcd opensc yubico-piv-tool ykcs11 winscard.h swtpm tpm2-tools tpm2-abrmd tpm2-pkcs11 tpm2_ptool dbus-daemon nss \
  opencryptoki ps xmlsec1 pdfsig mutool
prepare_others 3.11 3.12 3.13
cd "$root"
exec "$venv/bin/python" -m pytest -n auto --dist loadgroup "$@"

# shellcheck shell=bash
# Shared by demo.sh and test.sh: brings a fresh machine to the point where this checkout runs from its own .venv.
# Kept to what bash 3.2 knows, which is what macOS ships.

set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv

# Debian keeps nginx and apache2 in sbin, which is not on an ordinary user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# prepare EXTRA NEED...: all that must be there before the project runs. EXTRA is '' or '[test,cards]'; needs: package_table.
prepare() {
  local extra=$1
  shift
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  choose_python
  install_needs "$@"
  ensure_venv
  install_project "$extra"
}

# However the script ends, neither of these may stay behind.
venv_is_unfinished=no
clean_up() {
  remove_start_policy
  if [ "$venv_is_unfinished" = yes ]; then rm -rf "$venv"; fi
}

# --- talking: on stderr, so that stdout is only what the project itself prints ---

say() { printf '==> %s\n' "$*" >&2; }

# die MESSAGE [HINT...]
die() {
  printf 'softhsm/%s: %s\n' "$(basename -- "$0")" "$1" >&2
  shift
  if [ $# -gt 0 ]; then printf '    %s\n' "$@" >&2; fi
  exit 1
}

# step WHAT COMMAND...: say what is done and do it; what the command prints is shown only if it fails.
step() {
  local what=$1 output
  shift
  say "$what"
  if output=$("$@" 2>&1 </dev/null); then return; fi
  printf '%s\n' "$output" | tail -n 40 >&2
  die "this step failed: $what" 'The reason is above. Once it is set right, run the same command again.'
}

have() { command -v "$1" >/dev/null 2>&1; }

# --- system packages ---

package_managers='apt-get brew dnf pacman apk zypper'
# A line per need: the commands, the header or the library, of which any one shows that it is met, then its packages for
# each manager above. The virtual card, the TPM and openCryptoki need Linux, so nothing is installed for them on macOS.
package_table='
softhsm|softhsm2-util|softhsm2     |softhsm  |softhsm        |softhsm|softhsm     |softhsm
nginx  |nginx        |nginx        |nginx    |nginx          |nginx  |nginx       |nginx
apache |apache2 httpd|apache2-bin  |httpd    |httpd          |apache |apache2     |apache2
openssl|openssl      |openssl      |openssl@3|openssl        |openssl|openssl     |openssl
p11-kit|p11-kit      |p11-kit      |p11-kit  |p11-kit        |p11-kit|p11-kit     |p11-kit-tools
p11-kit-client|pkcs11/p11-kit-client.so|p11-kit-modules|p11-kit|p11-kit-server|p11-kit|p11-kit-server|p11-kit-server
pkcs11.h|p11-kit-1/p11-kit/pkcs11.h|libp11-kit-dev|p11-kit|p11-kit-devel|p11-kit|p11-kit-dev|p11-kit-devel
cc     |cc           |gcc libc6-dev|gcc      |gcc glibc-devel|gcc    |gcc musl-dev|gcc glibc-devel
pinentry-tty|pinentry-tty|pinentry-tty|pinentry|pinentry-tty|pinentry|pinentry-tty|pinentry
pinentry-curses|pinentry-curses|pinentry-curses|pinentry|pinentry|pinentry|pinentry|pinentry
winscard.h|PCSC/winscard.h|libpcsclite-dev||pcsc-lite-devel|pcsclite|pcsc-lite-dev|pcsc-lite-devel
pcscd  |pcscd        |pcscd        |         |pcsc-lite      |pcsclite|pcsc-lite  |pcsc-lite
vpcd   |vpcd-config  |vsmartcard-vpcd|       |vsmartcard-vpcd|vsmartcard-vpcd|vsmartcard-vpcd|vsmartcard-vpcd
opensc |opensc-tool  |opensc opensc-pkcs11|  |opensc         |opensc |opensc      |opensc
yubico-piv-tool|yubico-piv-tool|yubico-piv-tool||yubico-piv-tool|yubico-piv-tool|yubico-piv-tool|yubico-piv-tool
ykcs11 |libykcs11.so |ykcs11       |         |yubico-piv-tool|yubico-piv-tool|yubico-piv-tool-libs|yubico-piv-tool
swtpm  |swtpm        |swtpm        |         |swtpm          |swtpm  |swtpm       |swtpm
tpm2-tools|tpm2_getrandom|tpm2-tools|        |tpm2-tools     |tpm2-tools|tpm2-tools|tpm2.0-tools
tpm2-abrmd|tpm2-abrmd|tpm2-abrmd libtss2-tcti-tabrmd0||tpm2-abrmd|tpm2-abrmd|tpm2-abrmd|tpm2.0-abrmd
tpm2-pkcs11|pkcs11/libtpm2_pkcs11.so|libtpm2-pkcs11-1||tpm2-pkcs11|tpm2-pkcs11|tpm2-pkcs11|tpm2-pkcs11
tpm2_ptool|tpm2_ptool|libtpm2-pkcs11-tools|  |tpm2-pkcs11-tools|tpm2-pkcs11|tpm2-pkcs11|tpm2-pkcs11
dbus-daemon|dbus-daemon|dbus-daemon|         |dbus-daemon    |dbus   |dbus        |dbus-1-daemon
ps     |ps           |procps       |         |procps-ng      |procps-ng|procps-ng |procps
nss    |certutil     |libnss3-tools|nss      |nss-tools      |nss    |nss-tools   |mozilla-nss-tools
opencryptoki|pkcsslotd|opencryptoki|         |opencryptoki   |opencryptoki|opencryptoki|openCryptoki
xmlsec1|xmlsec1      |xmlsec1      |libxmlsec1|xmlsec1      |xmlsec |xmlsec      |xmlsec1
pdfsig |pdfsig       |poppler-utils|poppler  |poppler-utils  |poppler|poppler-utils|poppler-tools
mutool |mutool       |mupdf-tools  |mupdf-tools|mupdf        |mupdf-tools|mupdf-tools|mupdf'

# table_cell NEED COLUMN
table_cell() {
  awk -F ' *[|] *' -v need="$1" -v column="$2" '$1 == need { print $column }' <<<"$package_table"
}

is_met() {
  local program directory
  for program in $(table_cell "$1" 2); do
    case $program in *.h)
      [ -e "/usr/include/$program" ] || [ -e "/usr/local/include/$program" ] || [ -e "/opt/homebrew/include/$program" ]
      return
      ;;
    *.so)
      for directory in /usr/lib/* /usr/lib64 /usr/lib /usr/local/lib /opt/homebrew/lib; do
        if [ -e "$directory/$program" ]; then return; fi
      done
      return 1
      ;;
    esac
    if have "$program"; then
      # A compiler is no use without the C library's headers, and Debian packages them apart.
      [ "$program" != cc ] || "$program" -E -x c - <<<'#include <stdio.h>' >/dev/null 2>&1
      return
    fi
  done
  return 1
}

# The package manager of this machine; nothing if it has none that we know.
package_manager() {
  local manager
  for manager in $package_managers; do
    # Homebrew also runs on Linux, but the system's own packages are what is meant there.
    if [ "$manager" = brew ] && [ "$(uname -s)" != Darwin ]; then continue; fi
    if have "$manager"; then
      echo "$manager"
      return
    fi
  done
}

# missing_packages MANAGER NEED...: the packages of the needs that are not met, on one line.
missing_packages() {
  local manager=$1 candidate need column=3 packages=''
  shift
  for candidate in $package_managers; do
    if [ "$candidate" = "$manager" ]; then break; fi
    column=$((column + 1))
  done
  for need in "$@"; do
    is_met "$need" || packages="$packages $(table_cell "$need" "$column")"
  done
  # Debian splits ensurepip, which `python -m venv` needs, from its Pythons.
  if [ "$manager" = apt-get ] && ! venv_fits && ! "$python" -c 'import ensurepip' 2>/dev/null; then
    packages="$packages python$(python_version "$python")-venv"
  fi
  # pyscard is compiled, and Debian packages Python's headers apart as well.
  if [ "$manager" = apt-get ] && [[ " $* " = *' winscard.h '* ]] && ! has_headers; then
    packages="$packages python$(python_version "$python")-dev"
  fi
  # shellcheck disable=SC2086 # unquoted, so that needs without a package here leave no blanks
  echo $packages
}

# install_needs NEED...: install what is missing, or say what to install where we do not do it ourselves.
install_needs() {
  local manager packages
  manager=$(package_manager)
  packages=$(missing_packages "${manager:-apt-get}" "$@")
  if [ -z "$packages" ]; then return; fi
  # shellcheck disable=SC2086 # package names hold no blanks: they are to be split
  case $manager in
    apt-get) apt_install $packages ;;
    brew) step "Installing with Homebrew: $packages" brew install $packages ;; # untried: written without a Mac at hand
    '') die "missing, in Debian's names: $packages" 'No known package manager is here: install the like by hand.' ;;
    *) die "missing packages: $packages" \
      "Only on Debian, Ubuntu and macOS are packages installed for you. Install these with $manager and run this again." ;;
  esac
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
    apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@"
}

# A source that cannot be refreshed matters only if a package cannot be had; then what update said is shown as well.
apt_update_and_install() {
  apt_get update || true
  apt_get install --yes --no-install-recommends "$@"
}

apt_install() {
  local by_hand="As root:  apt-get update && apt-get install $*" unit newly=''
  if [ "$(id -u)" -ne 0 ]; then
    have sudo || die "missing packages: $*" 'This is neither root nor a machine with sudo.' "$by_hand"
    sudo true || die "missing packages: $*" 'sudo refused.' "$by_hand" # a password is asked for here, not inside a step
  fi
  for unit in nginx.service pcscd.socket tpm2-abrmd.service pkcsslotd.service; do
    if ! have "${unit%.*}"; then newly="$newly $unit"; fi
  done
  add_start_policy
  step "Installing packages (apt-get update, apt-get install): $*" apt_update_and_install "$@"
  remove_start_policy
  # The policy kept services from starting now; this keeps them from starting at the next boot.
  for unit in $newly; do
    if have "${unit%.*}" && have systemctl; then
      step "Keeping the new ${unit%.*} from running as a service" as_root systemctl disable "$unit"
    fi
  done
}

# Debian starts a service as it installs it, unless this script says no (exit 101). One that is there already stays.
start_policy=/usr/sbin/policy-rc.d
start_policy_mark='Put here by softhsm/lib.sh of tokenauth while it installs packages. Safe to remove.'

start_policy_is_ours=no

add_start_policy() {
  # With the mark it is ours, left by a run that was killed.
  if [ -e "$start_policy" ] && ! grep -qF "$start_policy_mark" "$start_policy"; then return; fi
  start_policy_is_ours=yes
  printf '#!/bin/sh\n# %s\nexit 101\n' "$start_policy_mark" | as_root tee "$start_policy" >/dev/null
  as_root chmod 755 "$start_policy"
}

remove_start_policy() {
  if [ "$start_policy_is_ours" = yes ]; then as_root rm -f "$start_policy"; fi
  start_policy_is_ours=no
}

# --- Python and the virtual environment ---

is_new_enough() { [ "$("$1" -c 'import sys; print(sys.version_info >= (3, 11))' 2>/dev/null)" = True ]; }

python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

has_headers() { [ -e "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; }

# Sets $python: the one that PYTHON names, else that of a fitting .venv, else the first on PATH that is new enough, else
# Debian's, which is installed if the machine has none at all.
choose_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    python=$(command -v "$PYTHON") || die "PYTHON=$PYTHON: there is no such command"
    is_new_enough "$python" || die "PYTHON=$PYTHON is not a working Python 3.11 or newer"
    return
  fi
  if venv_fits; then
    python=$venv/bin/python
    return
  fi
  if ! have python3 && [ "$(package_manager)" = apt-get ]; then apt_install python3 python3-venv; fi
  for candidate in python3 python3.13 python3.12 python3.11; do
    if python=$(command -v "$candidate") && is_new_enough "$python"; then return; fi
  done
  die 'no Python 3.11 or newer was found' \
    'Debian 12 and 13, Ubuntu 24.04:  apt-get install python3 python3-venv' \
    'Ubuntu 22.04 (from universe):    apt-get install python3.11 python3.11-venv' \
    'macOS:                           brew install python@3.13' \
    'One in a place of its own:       PYTHON=/path/to/python3 bash softhsm/demo.sh'
}

# Marks a .venv as made here, and for what: the scripts in it hold the checkout's path, its packages lie under the
# Python's version. One without the mark was made by a person: it is used if it works, and never removed.
venv_mark=$venv/.made-for
mark_for() { printf 'python%s %s\n' "$(python_version "$1")" "$root"; }

venv_fits() {
  is_new_enough "$venv/bin/python" &&
    "$venv/bin/python" -c 'import pip' 2>/dev/null &&
    { [ ! -e "$venv_mark" ] || [ "$(cat "$venv_mark")" = "$(mark_for "$venv/bin/python")" ]; }
}

ensure_venv() {
  if venv_fits && [ "$(python_version "$venv/bin/python")" = "$(python_version "$python")" ]; then return; fi
  if [ -e "$venv_mark" ]; then
    step "Removing ${venv##*/}, made for another Python or another place" rm -rf "$venv"
  elif [ -e "$venv" ]; then
    die "$venv was not made by this script and does not fit $python" 'Remove it, or move it away, and run this again.'
  fi
  venv_is_unfinished=yes
  mkdir "$venv"
  mark_for "$python" >"$venv_mark" # first, so that even after a power cut the next run knows it may remove it
  step "Making ${venv##*/} with $python, version $(python_version "$python")" "$python" -m venv "$venv"
}

# install_project EXTRA: skipped while pyproject.toml is what it was at the last time; [test,cards] includes all that ''
# does.
install_project() {
  local stamp=$venv/.installed now
  now=$(cksum <"$root/pyproject.toml")
  case $(cat "$stamp" 2>/dev/null) in
    "$now $1" | "$now [test,cards]") return ;;
  esac
  rm -f "$stamp"
  step "Installing tokenauth$1 into ${venv##*/}" \
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root$1"
  printf '%s\n' "$now $1" >"$stamp"
  venv_is_unfinished=no
}

# --- other Pythons: the tests about threads run on each that is here ---

# other_python VERSION: a Python of that version that can make a virtual environment; fails if there is none.
other_python() {
  local candidate
  for candidate in "python$1" "$HOME/.pyenv/versions/$1".*/bin/python; do
    if "$candidate" -c 'import ensurepip, ssl' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# prepare_others VERSION...: after prepare; a .venv-VERSION for each, named in TOKENAUTH_TEST_PYTHONS for the tests.
prepare_others() {
  local first=$venv own version pythons=''
  own=$(python_version "$first/bin/python")
  for version in "$@"; do
    if [ "$version" = "$own" ] || ! python=$(other_python "$version"); then continue; fi
    venv=$root/.venv-$version
    venv_mark=$venv/.made-for
    ensure_venv
    install_project ''
    pythons=$pythons:$venv/bin/python
  done
  venv=$first
  export TOKENAUTH_TEST_PYTHONS=${pythons#:}
}

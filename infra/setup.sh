#!/usr/bin/env bash
# Installs what building, running and testing Swath needs on a Debian or Ubuntu machine. `make setup` calls it.
#
#   system   GDAL (headers, library, tools), a C compiler, pkg-config, Python's venv,     Debian packages
#            and shared library, PostgreSQL with PostGIS: its programs only, tests start
#            servers of their own
#   .tools/py  ONNX Runtime's shared library; numpy, rasterio and others for the tests;   PyPI, versions in requirements.txt
#            buf, which looks over the gRPC definitions
#   .tools/prometheus  Prometheus and promtool for the tests: unpacked there, not installed  Debian package
#
# Rust is not installed here: the script says so when it is missing or too old. Done once, a second call takes no time: the
# stamp .tools/stamp carries the digest of this script and of requirements.txt, and is removed to start again.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1msetup\033[0m  %s\n' "$*" >&2; }
fail() {
    printf '\033[31msetup failed\033[0m  %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '              %s\n' "$2" >&2
    exit 1
}

digest="$(cat infra/setup.sh infra/requirements.txt | sha256sum | cut -d' ' -f1)"
if [ "$(cat .tools/stamp 2>/dev/null || true)" = "$digest" ] && [ -x .tools/py/bin/python ]; then
    exit 0
fi
mkdir -p .tools

# --- Rust -------------------------------------------------------------------------------------------------------------
needed="$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)"
command -v cargo >/dev/null || fail "cargo was not found" "install Rust $needed or newer with rustup, open a new shell, and run \`make setup\` again"
found="$(rustc --version | cut -d' ' -f2)"
[ "$(printf '%s\n%s\n' "$needed" "$found" | sort -V | head -1)" = "$needed" ] ||
    fail "Rust $found is older than $needed, which this project needs" "run \`rustup update stable\`"
for part in rustfmt clippy-driver; do
    command -v "$part" >/dev/null || fail "$part was not found" "run \`rustup component add rustfmt clippy\`"
done

# --- system packages --------------------------------------------------------------------------------------------------
packages=(build-essential pkg-config libgdal-dev gdal-bin python3 python3-venv libpython3-dev tzdata openssl postgresql postgresql-postgis)
missing=()
for package in "${packages[@]}"; do
    status="$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)"
    [ "$status" = installed ] || missing+=("$package")
done
# Another Python with venv will do as well as Debian's.
if python3 -c 'import ensurepip, venv' 2>/dev/null; then
    missing=($(printf '%s\n' "${missing[@]}" | grep -Ev '^(lib)?python3' || true))
fi
if [ "${#missing[@]}" -gt 0 ]; then
    command -v apt-get >/dev/null ||
        fail "this machine has no apt-get" "install by hand: GDAL 3.6 or newer with its headers, pkg-config, a C compiler, Python 3.11 or newer, PostgreSQL with PostGIS"
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || fail "root is needed to install: ${missing[*]}" "run as root: apt-get install ${missing[*]}"
        as_root=(sudo)
    fi
    say "installing system packages: ${missing[*]}"
    "${as_root[@]}" apt-get update -q >.tools/apt.log 2>&1 || fail "apt-get update failed" "see .tools/apt.log"
    install() {
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@" \
            >>.tools/apt.log 2>&1 || fail "apt-get install failed" "see .tools/apt.log"
    }
    # Debian's package makes and starts a server for the whole machine unless it is told not to before it is installed.
    if [[ " ${missing[*]} " == *" postgresql "* ]] && [ ! -e /usr/lib/postgresql ]; then
        install postgresql-common
        "${as_root[@]}" sed -i 's/^#* *create_main_cluster *=.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
    fi
    install "${missing[@]}"
fi
pkg-config --exists gdal || fail "GDAL's headers were not found by pkg-config" "install libgdal-dev"
pkg-config --atleast-version=3.6 gdal || fail "GDAL $(pkg-config --modversion gdal) is older than 3.6"

# --- Prometheus -------------------------------------------------------------------------------------------------------
if [ ! -x .tools/prometheus/usr/bin/promtool ]; then
    say "unpacking Prometheus into .tools/prometheus"
    rm -rf .tools/prometheus && mkdir -p .tools/prometheus
    unpack() { (cd .tools/prometheus && apt-get download -q prometheus && dpkg -x prometheus_*.deb . && rm -rf prometheus_*.deb usr/share); }
    if ! unpack >>.tools/apt.log 2>&1; then
        # The lists of packages may be missing or old.
        as_root=()
        [ "$(id -u)" -eq 0 ] || as_root=(sudo)
        "${as_root[@]}" apt-get update -q >>.tools/apt.log 2>&1 && unpack >>.tools/apt.log 2>&1 ||
            fail "Prometheus could not be fetched" "see .tools/apt.log, or put prometheus and promtool into .tools/prometheus/usr/bin"
    fi
fi

# --- Python tools -----------------------------------------------------------------------------------------------------
python=""
for candidate in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
        python="$candidate"
        break
    fi
done
[ -n "$python" ] || fail "no Python from 3.11 to 3.13 with venv was found" "install python3 and python3-venv"
if ! .tools/py/bin/python -c 'import pip' 2>/dev/null; then
    say "creating .tools/py with $("$python" --version)"
    rm -rf .tools/py
    "$python" -m venv .tools/py
fi
say "installing Python packages into .tools/py"
.tools/py/bin/python -m pip install -q --disable-pip-version-check -r infra/requirements.txt >.tools/pip.log 2>&1 ||
    fail "pip could not install infra/requirements.txt" "see .tools/pip.log"

library="$(.tools/py/bin/python - <<'PYTHON'
import glob, os, onnxruntime
folder = os.path.join(os.path.dirname(onnxruntime.__file__), "capi")
print(next(iter(sorted(glob.glob(os.path.join(folder, "libonnxruntime.so*")))), ""))
PYTHON
)"
[ -n "$library" ] || fail "the onnxruntime package holds no libonnxruntime.so" "remove .tools and run \`make setup\` again"

echo "$digest" >.tools/stamp
say "done: GDAL $(pkg-config --modversion gdal), ONNX Runtime ${library##*libonnxruntime.so.}, Rust $found"

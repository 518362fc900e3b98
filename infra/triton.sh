#!/usr/bin/env bash
# Triton Inference Server without Docker, for tests and for trying things out on this machine's CPU.
#
#   infra/triton.sh install                         into .tools/triton, 0.3 GB; `make setup` calls it
#   infra/triton.sh repository MODELS REPOSITORY    makes what it serves out of model folders (`model_repository`)
#   infra/triton.sh serve REPOSITORY [HTTP_PORT]    serves it on 127.0.0.1: HTTP at the port (8000), gRPC at the next, metrics
#                                                   at the one after; more options of tritonserver in TRITON_OPTIONS
#
# It is NVIDIA's server as PyTriton brings it. That build has the Python backend alone, so `repository` puts triton/model.py
# beside each network, which runs it with ONNX Runtime; NVIDIA's containers serve a model folder as it is.
set -euo pipefail
home="$(cd "$(dirname "$0")/.." && pwd)"
tools="$home/.tools/triton"

fail() {
    printf '\033[31mtriton failed\033[0m  %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '               %s\n' "$2" >&2
    exit 1
}

install() {
    local digest python
    digest="$(cat "$home/infra/triton.sh" "$home/infra/triton/requirements.txt" | sha256sum | cut -d' ' -f1)"
    [ "$(cat "$tools/stamp" 2>/dev/null || true)" != "$digest" ] || return 0
    printf '\033[1msetup\033[0m  installing Triton into .tools/triton\n' >&2
    mkdir -p "$tools" && rm -f "$tools/stamp"
    [ -x "$tools/bin/python" ] || "$home/.tools/py/bin/python" -m venv "$tools"
    "$tools/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-compile \
        -r "$home/infra/triton/requirements.txt" >"$tools/pip.log" 2>&1 ||
        fail "pip could not install infra/triton/requirements.txt" "see .tools/triton/pip.log"
    python="$("$tools/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    server="$(packages)/pytriton/tritonserver"
    stub="$server/python_backend_stubs/$python/triton_python_backend_stub"
    [ -f "$stub" ] || fail "PyTriton has no Python backend for Python $python"
    chmod +x "$server/bin/tritonserver" "$stub"
    ln -sf "$stub" "$server/backends/python/triton_python_backend_stub"
    environment
    "$tools/bin/python" -c "import ctypes; ctypes.CDLL('libpython$python.so.1.0')" 2>>"$tools/pip.log" ||
        fail "libpython$python.so.1.0 was not found, which runs the models" "install libpython$python, and run this again"
    "$server/bin/tritonserver" --help >"$tools/help.log" 2>&1 || grep -q model-repository "$tools/help.log" ||
        fail "the server does not start" "see .tools/triton/help.log"
    echo "$digest" >"$tools/stamp"
}

packages() { "$tools/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))'; }

# The server finds its libraries, and the Python that runs models its packages.
environment() {
    local site
    site="$(packages)"
    export PYTHONPATH="$site"
    PATH="$tools/bin:$PATH"
    LD_LIBRARY_PATH="$("$tools/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))'):$site/nvidia_pytriton.libs"
    export PATH LD_LIBRARY_PATH
}

repository() {
    local models="$1" to="$2" model name version
    mkdir -p "$to"
    for model in "$models"/*/config.pbtxt; do
        [ -f "$model" ] || fail "no model folder in $models" "a model folder has config.pbtxt and VERSION/model.onnx"
        model="$(dirname "$model")" && name="$(basename "$model")"
        mkdir -p "$to/$name"
        { grep -Ev '^(platform|backend):' "$model/config.pbtxt" && echo 'backend: "python"'; } >"$to/$name/config.pbtxt"
        for version in "$model"/[0-9]*/; do
            mkdir -p "$to/$name/$(basename "$version")"
            # A version with a program of its own keeps it.
            cp "$home/infra/triton/model.py" "$to/$name/$(basename "$version")/"
            cp "$version"/* "$to/$name/$(basename "$version")/"
        done
    done
}

serve() {
    local models="$1" port="${2:-8000}" server
    [ -f "$tools/stamp" ] || fail "Triton is not installed" "run: infra/triton.sh install"
    server="$(packages)/pytriton/tritonserver"
    environment
    # shellcheck disable=SC2086
    exec "$server/bin/tritonserver" --model-repository="$models" --backend-directory="$server/backends" \
        --http-address=127.0.0.1 --grpc-address=127.0.0.1 --metrics-address=127.0.0.1 --http-port="$port" \
        --grpc-port="$((port + 1))" --metrics-port="$((port + 2))" --allow-gpu-metrics=false ${TRITON_OPTIONS:-}
}

case "${1:-}" in
install) install ;;
repository) [ $# -eq 3 ] || fail "usage: infra/triton.sh repository MODELS REPOSITORY" && repository "$2" "$3" ;;
serve) [ $# -ge 2 ] || fail "usage: infra/triton.sh serve REPOSITORY [HTTP_PORT]" && serve "$2" "${3:-}" ;;
*) fail "usage: infra/triton.sh install | repository | serve" ;;
esac

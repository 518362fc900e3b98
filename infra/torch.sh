#!/usr/bin/env bash
# Installs PyTorch into .tools/torch (1.5 GB) for the tests of networks; `make setup` calls it after infra/setup.sh, `make demo`
# does not. Done once, a second call takes no time: .tools/torch/stamp carries the digest of this script and of its list.
#
# PyPI's torch is built for CUDA and asks for 3 GB of it, of which computing on a CPU calls nothing: it is installed without,
# and empty libraries stand in for those that it loads all the same.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1msetup\033[0m  %s\n' "$*" >&2; }
fail() {
    printf '\033[31msetup failed\033[0m  %s\n              %s\n' "$1" "$2" >&2
    exit 1
}

digest="$(cat infra/torch.sh infra/requirements-torch.txt | sha256sum | cut -d' ' -f1)"
if [ "$(cat .tools/torch/stamp 2>/dev/null || true)" = "$digest" ]; then
    exit 0
fi

say "installing PyTorch into .tools/torch"
rm -f .tools/torch/stamp
[ -x .tools/torch/bin/python ] || .tools/py/bin/python -m venv .tools/torch
.tools/torch/bin/python -m pip install -q --disable-pip-version-check --no-deps -r infra/requirements-torch.txt >.tools/torch/pip.log 2>&1 ||
    fail "pip could not install infra/requirements-torch.txt" "see .tools/torch/pip.log"

packages="$(.tools/torch/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
stand_in() { # NAME [LINKER OPTION], the source on standard input
    cc -shared -fPIC -x c -o "$packages/torch/lib/$1" "-Wl,-soname,$1" "${@:2}" - || fail "cc could not make the stand-in $1" "install a C compiler"
}
for name in $(ldd "$packages"/torch/lib/*.so | awk '/not found/ { print $1 }' | sort -u); do
    if [[ "$name" == libnvshmem_host* ]]; then
        # Its variables are bound when it is loaded, under this version.
        echo 'NVSHMEM { global: *; };' >.tools/torch/nvshmem.map
        stand_in "$name" -Wl,--version-script=.tools/torch/nvshmem.map <<'C'
int nvshmem_selected_device_transport[64], nvshmemi_device_only_state[4096];
int nvshmem_init(void) { return 0; }
int nvshmemi_get_device_state_ptrs(void) { return 0; }
C
    else
        stand_in "$name" <<<'void unused(void) {}'
    fi
done
# Functions are bound when they are called, not when their library is loaded: read by every Python of this environment.
echo 'import os, sys; sys.setdlopenflags(os.RTLD_LAZY)' >"$packages/lazy_binding.pth"

.tools/torch/bin/python -c 'import torch, torchvision, segmentation_models_pytorch' >>.tools/torch/pip.log 2>&1 ||
    fail "PyTorch does not start" "see .tools/torch/pip.log"
echo "$digest" >.tools/torch/stamp
say "done: PyTorch $(.tools/torch/bin/python -c 'import torch; print(torch.__version__)')"

#!/usr/bin/env bash
# Builds the benchmark for a machine with an NVIDIA GPU and packs it: target/bench/gpu.tar.xz, for x86_64 Linux of this glibc or newer.
#
# There nothing is installed: the archive holds two programs, GDAL as PyPI's rasterio brings it, and PyTorch's peer network.
# PyTorch with torchvision and timm, NVIDIA's driver and CUDA's toolkit are expected. `gpu/run.sh` is the one command.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1mbench\033[0m  %s\n' "$*" >&2; }
infra/setup.sh
infra/torch.sh

say "building with optimisations and CUDA"
cargo build --release -p swath-nets -p swath-infer --features swath-nets/cuda,swath-infer/cuda --example gpu_bench --example infer_bench

to=target/bench/gpu
rm -rf "$to" && mkdir -p "$to/python"
cp bench/gpu/*.py bench/gpu/run.sh "$to/"
for program in gpu_bench infer_bench; do strip -o "$to/$program" "target/release/examples/$program"; done
packages() { "$1" -c 'import sysconfig; print(sysconfig.get_path("platlib"))'; }
cp -r "$(packages .tools/torch/bin/python)/segmentation_models_pytorch" "$to/python/"
cp -r "$(packages .tools/py/bin/python)/rasterio.libs" "$to/gdal"
for data in gdal_data proj_data; do cp -r "$(packages .tools/py/bin/python)/rasterio/$data" "$to/gdal/"; done
find "$to" -name __pycache__ -prune -exec rm -r {} +

say "packing"
XZ_OPT="-9 -T0" tar -C target/bench -cJf target/bench/gpu.tar.xz --owner=0 --group=0 gpu
say "$(du -m target/bench/gpu.tar.xz | cut -f1) MiB: copy target/bench/gpu.tar.xz to the machine with the GPU, and there"
say "    tar -xJf gpu.tar.xz && gpu/run.sh"

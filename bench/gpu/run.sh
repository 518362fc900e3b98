#!/usr/bin/env bash
# Measures on this machine, which needs neither Rust nor GDAL: run.sh [DEVICE [FOLDER [BATCH [STEPS [SIDE [RASTER]]]]]]
#
#   DEVICE  cuda:0, or cpu        FOLDER  for data and results      SIDE    pixels of an image, a multiple of 32
#   BATCH   images of a step      STEPS   that are counted          RASTER  rows and columns of the raster that is segmented
#
# Python is the `python3` that holds PyTorch, torchvision and timm, or what PYTHON names. CUDA is what CUDA_PATH names, else
# nvcc's. What was printed is in FOLDER/results.jsonl; the last lines are a table. SWATH_GPU_PEERS chooses among the peers.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
device="${1:-cuda:0}" folder="${2:-gpu-results}" batch="${3:-32}" steps="${4:-30}" side="${5:-256}" raster="${6:-10980}"
python="${PYTHON:-python3}"
mkdir -p "$folder"

if [ -z "${CUDA_PATH:-}" ] && nvcc="$(command -v nvcc)"; then
    CUDA_PATH="$(dirname "$(dirname "$(readlink -f "$nvcc")")")"
    export CUDA_PATH
fi
[ -z "${CUDA_PATH:-}" ] || export LD_LIBRARY_PATH="$CUDA_PATH/lib64:$CUDA_PATH/lib:${LD_LIBRARY_PATH:-}"

"$here/gpu_bench" "$device" "$folder" "$batch" "$steps" "$side" | tee "$folder/results.jsonl"
PYTHONPATH="$here/python${PYTHONPATH:+:$PYTHONPATH}" "$python" "$here/peers.py" "$device" "$folder" "$batch" "$steps" "$side" \
    --peers "${SWATH_GPU_PEERS:-eager,channels_last,compile,onnxruntime}" | tee -a "$folder/results.jsonl"
LD_LIBRARY_PATH="$here/gdal:${LD_LIBRARY_PATH:-}" GDAL_LIBRARY="$(echo "$here"/gdal/libgdal-*.so*)" \
    GDAL_DATA="$here/gdal/gdal_data" PROJ_DATA="$here/gdal/proj_data" \
    "$python" "$here/whole.py" "$device" "$folder" "$raster" "$batch" | tee -a "$folder/results.jsonl"
"$python" "$here/table.py" "$folder/results.jsonl"

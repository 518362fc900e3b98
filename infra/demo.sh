#!/usr/bin/env bash
# Builds swath and runs flows/demo.yaml. The development build does: pixel code is optimised in it, and it is there sooner.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --quiet --package swath
swath=target/debug/swath
"$swath" run flows/demo.yaml "$@"
cat >&2 <<TEXT

Look at      results/demo/           composites, probabilities and pictures
Open in QGIS results/beetzsee/detections.gpkg
Run again    make demo               every step is reused
Next         $swath graph flows/detect.yaml
             $swath run flows/detect.yaml -p threshold=0.7
TEXT

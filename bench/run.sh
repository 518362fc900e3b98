#!/usr/bin/env bash
# Measures Swath against peers, in turns within the same run, and prints a table. `make bench` calls it.
#
#   bench/run.sh [engine] [server] [tracing] [start] [composite] [inference] [serving] [serving_memory] [train] [detect]
#                                             all when none is named; `serving_memory` is a part of `serving`
#
#   SWATH_BENCH_ROUNDS=3   how often each pair is measured; medians are shown
#   SWATH_BENCH_LARGE=1    also the composite of 9 times the area: 6 GiB of disk and some minutes more
#
# Peers are installed into .tools/bench, at the versions of requirements-*.txt. Data is made under target/bench, once.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1mbench\033[0m  %s\n' "$*" >&2; }
wanted() { [ "${#parts[@]}" -eq 0 ] || [[ " ${parts[*]} " == *" $1 "* ]]; }
parts=("$@")
data=target/bench
for part in "${parts[@]}"; do
    case "$part" in
    engine | server | tracing | start | composite | inference | serving | serving_memory | train | detect) ;;
    *)
        sed -n 's/^#   //p; /^set /q' bench/run.sh >&2
        exit 2
        ;;
    esac
done

# --- peers ------------------------------------------------------------------------------------------------------------
peers() {
    local digest
    digest="$(sha256sum "bench/requirements-$1.txt" | cut -d' ' -f1)"
    [ "$(cat ".tools/bench/$1.stamp" 2>/dev/null || true)" = "$digest" ] && return
    say "installing peers into .tools/bench/$1"
    mkdir -p .tools/bench
    [ -x ".tools/bench/$1/bin/python" ] || .tools/py/bin/python -m venv ".tools/bench/$1"
    ".tools/bench/$1/bin/python" -m pip install -q --disable-pip-version-check -r "bench/requirements-$1.txt"
    echo "$digest" >".tools/bench/$1.stamp"
}
peers rasters
if wanted engine || wanted start; then peers prefect; fi
if wanted engine; then peers engines; fi
python=.tools/bench/rasters/bin/python

# --- Swath ------------------------------------------------------------------------------------------------------------
say "building with optimisations"
SWATH_BENCH_STEPS="$(cargo build --release -p swath -p swath-infer -p swath-detect -p swath-train -p swath-host --bin swath \
    --example infer_bench --example serve_bench --example train_bench --example detect_bench --bench steps \
    --message-format=json-render-diagnostics |
    sed -n 's/.*"name":"steps".*"executable":"\([^"]*\)".*/\1/p')"
export SWATH_BENCH_STEPS

# --- data -------------------------------------------------------------------------------------------------------------
made() { [ -f "$data/$1/complete" ]; }
mkdir -p "$data/models"
if wanted composite; then
    if ! made stack; then
        say "making 12 dates of 2048 x 2048 pixels"
        "$python" bench/stack.py --out "$data/stack" --size 2048 --dates 12 && touch "$data/stack/complete"
    fi
    made dates-50 || { "$python" bench/enlarge.py dates "$data/stack" "$data/dates-50" 50 && touch "$data/dates-50/complete"; }
    if [ -n "${SWATH_BENCH_LARGE:-}" ] && ! made area-9; then
        say "making 12 dates of 6144 x 6144 pixels"
        "$python" bench/enlarge.py area "$data/stack" "$data/area-9" 3 && touch "$data/area-9/complete"
    fi
fi
if wanted detect && [ ! -f "$data/probability.tif" ]; then
    say "making a probability raster"
    "$python" bench/probability.py "$data/probability.tif.part" && mv "$data/probability.tif.part" "$data/probability.tif"
fi
if wanted serving || wanted serving_memory; then infra/triton.sh install; fi
if { wanted inference || wanted serving || wanted serving_memory; } &&
    ! { [ -f "$data/models/complete" ] && [ -f "$data/models/whole/1/model.onnx" ]; }; then
    say "making a network and rasters to run it over"
    "$python" tasks/infer/examples/infer_bench.py "$data/models" && touch "$data/models/complete"
fi

exec "$python" bench/measure.py "$@"

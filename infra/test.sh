#!/usr/bin/env bash
# All checks, in the order in which they fail fastest. Ends with the sums over all test programs.
set -euo pipefail
cd "$(dirname "$0")/.."
log=target/test.log
mkdir -p target

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

say "compose file"
.tools/py/bin/python -m check_jsonschema --builtin-schema vendor.compose-spec infra/docker-compose.yml

say "gRPC definitions"
.tools/py/bin/buf lint engine/control/proto

say "formatting"
cargo fmt --all --check

say "lints"
cargo clippy --workspace --all-targets --features swath/cuda --quiet -- -D warnings

say "tests"
set +e
cargo test --workspace --no-fail-fast 2>&1 | tee "$log" | grep -Ev '^(test .* \.\.\. ok|running [0-9]+ tests?|)$'
status="${PIPESTATUS[0]}"
set -e

say "generated reference and flows"
# The program that the tests ran: another build, without what tests alone need, would build half of everything again.
target/debug/swath schema --reference docs/reference --check || status=1
find flows -maxdepth 1 -name '*.yaml' ! -name '*.test.yaml' -exec target/debug/swath validate {} + || status=1
target/debug/swath test flows/*.test.yaml || status=1

awk '/^test result:/ { passed += $4; failed += $6; ignored += $8; programs += 1 }
     END { printf "\ntest result: %d passed; %d failed; %d ignored; in %d test programs\n", passed, failed, ignored, programs }' "$log"
if [ "$status" -ne 0 ]; then
    sed -n '/^failures:$/,/^test result/p; /^error: .* target/p' "$log" | grep -E '^    [A-Za-z_:]+|^error' | sort -u | head -50 || true
    echo "FAILED"
    exit 1
fi
echo "all checks passed"

#!/usr/bin/env bash
# MLflow, a tracking server for trainings, as an environment of its own in .tools/mlflow.
#
#   infra/mlflow.sh                      installs it; `make setup` calls this
#   infra/mlflow.sh serve [PORT] [FOLDER]  runs it on this machine until it is interrupted: on 127.0.0.1, port 5000, with its database
#                                        and its artifacts in FOLDER (.swath/mlflow)
#
# Done once, a second installation takes no time: .tools/mlflow/stamp carries the digest of this script and of its list.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1msetup\033[0m  %s\n' "$*" >&2; }
fail() {
    printf '\033[31msetup failed\033[0m  %s\n              %s\n' "$1" "$2" >&2
    exit 1
}

# It tells nobody of itself, and runs no jobs.
export DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false

digest="$(cat infra/mlflow.sh infra/requirements-mlflow.txt | sha256sum | cut -d' ' -f1)"
if [ "$(cat .tools/mlflow/stamp 2>/dev/null || true)" != "$digest" ]; then
    say "installing MLflow into .tools/mlflow"
    rm -f .tools/mlflow/stamp
    [ -x .tools/mlflow/bin/python ] || .tools/py/bin/python -m venv .tools/mlflow
    .tools/mlflow/bin/python -m pip install -q --disable-pip-version-check --no-deps -r infra/requirements-mlflow.txt >.tools/mlflow/pip.log 2>&1 ||
        fail "pip could not install infra/requirements-mlflow.txt" "see .tools/mlflow/pip.log"
    version="$(.tools/mlflow/bin/python -m mlflow --version 2>>.tools/mlflow/pip.log)" || fail "MLflow does not start" "see .tools/mlflow/pip.log"
    echo "$digest" >.tools/mlflow/stamp
    say "done: $version"
fi

case "${1:-install}" in
install) ;;
serve)
    port="${2:-5000}" folder="${3:-.swath/mlflow}"
    mkdir -p "$folder"
    folder="$(cd "$folder" && pwd)"
    exec .tools/mlflow/bin/python -m mlflow server --host 127.0.0.1 --port "$port" --workers 1 --serve-artifacts \
        --backend-store-uri "sqlite:///$folder/mlflow.db" --artifacts-destination "$folder/artifacts"
    ;;
*) fail "\`$1\` is neither install nor serve" "see the head of infra/mlflow.sh" ;;
esac

"""The peer of the engine: Prefect 3, tasks that do nothing in one flow. prefect_steps.py chain | fan-out STEPS

`chain` calls the task that many times in sequence, `fan-out` maps it over a range. Prefect starts its own server over a
fresh SQLite database, as it does for anybody who runs a flow. Timed is the body of the flow, after a warm-up run; how many
of the steps the server had recorded as completed, and how long it went on recording, is told beside it.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

shape, steps = sys.argv[1], int(sys.argv[2])

if len(sys.argv) < 4:
    home = tempfile.mkdtemp(prefix="prefect-bench-")
    environment = {**os.environ, "PREFECT_HOME": home, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
                   "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
                   "PREFECT_LOGGING_LEVEL": "ERROR", "NO_PROXY": "127.0.0.1,localhost",
                   "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/prefect.db"}
    environment.pop("PREFECT_API_URL", None)
    try:
        status = subprocess.call([sys.executable, __file__, shape, str(steps), "measured"], env=environment)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    sys.exit(status)

from prefect import flow, runtime, task  # noqa: E402
from prefect.client.orchestration import get_client  # noqa: E402


@task
def nothing(value):
    return value


seconds = 0.0


@flow
def bench(shape, steps):
    global seconds
    start = time.perf_counter()
    if shape == "chain":
        value = 0
        for _ in range(steps):
            value = nothing(value)
    else:
        [future.result() for future in nothing.map(range(steps))]
    seconds = time.perf_counter() - start
    return str(runtime.flow_run.id)


def peak(pid):
    try:
        with open(f"/proc/{pid}/status") as file:
            return next(int(line.split()[1]) // 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0


def children():
    """Peak memory of the processes below this one: Prefect's own server."""
    total = 0
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/stat") as file:
                if entry.isdigit() and int(file.read().rsplit(")", 1)[1].split()[1]) == os.getpid():
                    total += peak(entry)
        except (OSError, IndexError):
            continue
    return total


bench("chain", 1)
run = bench(shape, steps)


def recorded():
    with get_client(sync_client=True) as client:
        question = {"flow_runs": {"id": {"any_": [run]}}, "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        return client._client.post("/task_runs/count", json=question).json()


at_return = known = recorded()
waiting = time.perf_counter()
while known < steps and time.perf_counter() - waiting < 120:
    time.sleep(0.25)
    known = recorded()
lag = time.perf_counter() - waiting
print(json.dumps({"shape": shape, "steps": steps, "seconds": round(seconds, 3), "steps_per_second": round(steps / seconds, 1),
                  "recorded_at_return": at_return, "recorded": known, "recording_went_on_s": round(lag, 1),
                  "recorded_per_second": round(known / (seconds + lag), 1), "peak_mib": peak(os.getpid()) + children()}))

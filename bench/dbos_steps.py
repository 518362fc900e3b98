"""A peer of the engine that is embedded in a program and durable: DBOS over SQLite. dbos_steps.py chain | fan-out STEPS

`chain` is one workflow that calls a step which does nothing so many times, each recorded before the next begins; `fan-out` one
that queues as many workflows and gathers them. Timed is the workflow, after a warm-up.
"""
import json
import resource
import sys
import tempfile
import time

from dbos import DBOS

shape, steps = sys.argv[1], int(sys.argv[2])


@DBOS.step()
def nothing(value):
    return value


@DBOS.workflow()
def child(value):
    return value


@DBOS.workflow()
def chain(count):
    value = 0
    for _ in range(count):
        value = nothing(value)
    return value


@DBOS.workflow()
def fan_out(count):
    handles = [queue.enqueue(child, value) for value in range(count)]
    return len([handle.get_result() for handle in handles])


with tempfile.TemporaryDirectory(prefix="dbos-bench-") as home:
    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{home}/dbos.sqlite", "run_admin_server": False,
                 "log_level": "ERROR"})
    DBOS.launch()
    queue = DBOS.register_queue("bench", polling_interval_sec=1.0)
    chain(1)
    start = time.perf_counter()
    (chain if shape == "chain" else fan_out)(steps)
    seconds = time.perf_counter() - start
    DBOS.destroy()
print(json.dumps({"shape": shape, "steps": steps, "seconds": round(seconds, 3), "steps_per_second": round(steps / seconds, 1),
                  "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))

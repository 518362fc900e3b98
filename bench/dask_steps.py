"""A peer of the engine: Dask's local cluster, tasks that do nothing. dask_steps.py chain | fan-out STEPS

Nothing that Dask does is durable. Scheduler and client live in this process, a worker with one thread in a process a core.
Timed is the work after a warm-up, from the first submission until the last result is here.
"""
import json
import os
import sys
import time

from distributed import Client, LocalCluster


def nothing(value):
    return value


def peak(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith("VmHWM:"))


def main(shape, steps):
    with LocalCluster(n_workers=os.cpu_count(), threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster, \
            Client(cluster) as client:
        client.gather(client.map(nothing, range(200), pure=False))
        start = time.perf_counter()
        if shape == "chain":
            value = 0
            for _ in range(steps):
                value = client.submit(nothing, value, pure=False)
            value.result()
        else:
            client.gather(client.map(nothing, range(steps), pure=False))
        seconds = time.perf_counter() - start
        workers = sum(peak(nanny.pid) for nanny in cluster.workers.values())
        print(json.dumps({"shape": shape, "steps": steps, "seconds": round(seconds, 3),
                          "steps_per_second": round(steps / seconds, 1), "peak_mib": peak(os.getpid()) + workers}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

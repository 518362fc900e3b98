"""A peer of the engine: HyperQueue, server and worker in this process. hyperqueue_steps.py chain | fan-out STEPS

Each task is a process, /bin/true, as always with HyperQueue; its journal is off, as it is unless asked for. The client looks
for the end once a second only, so the end is the time that a last task, which depends on all others, writes down.
"""
import json
import os
import resource
import sys
import tempfile
import time

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig


def job(shape, steps, folder):
    made = Job(default_workdir=folder)
    quiet = {"stdout": None, "stderr": None}
    tasks = []
    for _ in range(steps):
        tasks.append(made.program(["/bin/true"], deps=tasks[-1:] if shape == "chain" else [], **quiet))
    last = tasks[-1:] if shape == "chain" else tasks
    made.program(["/bin/sh", "-c", f"date +%s.%N > {folder}/done"], deps=last, **quiet)
    return made


def main(shape, steps):
    with tempfile.TemporaryDirectory(prefix="hq-bench-") as folder:
        os.makedirs(f"{folder}/server")
        with LocalCluster(server_dir=f"{folder}/server", worker_config=WorkerConfig(cores=os.cpu_count())) as cluster:
            client = cluster.client()
            client.wait_for_jobs([client.submit(job("fan-out", 4, folder))])
            os.remove(f"{folder}/done")
            start = time.time()
            if not client.wait_for_jobs([client.submit(job(shape, steps, folder))]):
                sys.exit("the job failed")
            with open(f"{folder}/done") as file:
                seconds = float(file.read()) - start
    print(json.dumps({"shape": shape, "steps": steps, "seconds": round(seconds, 3), "steps_per_second": round(steps / seconds, 1),
                      "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

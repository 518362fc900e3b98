"""What a server costs: server.py start | queue RUNS PLACES | watch RUNS CLIENTS; one line of JSON.

Messages are generated from the .proto and sent by grpcio, as somebody else's program would. The server is a process of its own
over a fresh store; what is told of its memory and processor time is its own, without this client and without the programs
that steps run.

`start`: from the start of the process until /readyz says 200; then its memory and processor time while nobody asks anything.
`queue`: so many runs wait while `--max-runs` others hold every place; then those end. A run's dispatch latency is the time from
the end of the run that freed its place until its own start, by the journal.
`watch`: so many live runs are watched by so many clients, each with a connection of its own and its share of the runs.
"""
import concurrent.futures
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from importlib.resources import files

import grpc
from grpc_tools import protoc

SWATH = "target/release/swath"
FLOW = "flow: {name}\nsteps:\n  only: {{ task: run.command, needs: {{ cpu: 0 }}, with: {{ command: [{command}], purity: effect }} }}\n"


def messages():
    out = tempfile.mkdtemp(prefix="swath-bench-proto-")
    proto, known = "engine/control/proto", str(files("grpc_tools") / "_proto")
    names = [f"swath/v1/{name}_service.proto" for name in ("run", "system")]
    if protoc.main(["protoc", f"-I{proto}", f"-I{known}", f"--python_out={out}", f"--grpc_python_out={out}", *names]):
        sys.exit("the messages cannot be generated")
    sys.path.insert(0, out)


messages()
from swath.v1 import run_service_pb2 as pb  # noqa: E402
from swath.v1 import run_service_pb2_grpc as rpc  # noqa: E402
from swath.v1 import system_service_pb2 as system_pb  # noqa: E402
from swath.v1 import system_service_pb2_grpc as system_rpc  # noqa: E402


class Server:
    def __init__(self, home, *arguments):
        start = time.perf_counter()
        command = [SWATH, "serve", "--json", "--listen", "127.0.0.1:0", "--home", f"{home}/store", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        text = ""
        while not text.rstrip().endswith("}"):
            text += self.process.stdout.readline() or sys.exit("the server has ended")
        self.address = json.loads(text)["listening"]
        while not self.is_ready():
            time.sleep(0.001)
        self.ready_s = time.perf_counter() - start

    def is_ready(self):
        try:
            return urllib.request.urlopen(f"http://{self.address}/readyz", timeout=5).status == 200
        except urllib.error.URLError:
            return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def channel(self):
        # A pool of its own: channels with equal options share a connection.
        return grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])

    def memory_mib(self, what):
        with open(f"/proc/{self.process.pid}/{'smaps_rollup' if what == 'Pss' else 'status'}") as file:
            return next(round(int(line.split()[1]) / 1024) for line in file if line.startswith(f"{what}:"))

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def request(name, command, home):
    words = ", ".join(json.dumps(word) for word in command)
    return pb.StartRunRequest(flow_text=FLOW.format(name=name, command=words), source=f"{home}/flow.yaml")


def start_all(server, runs, one):
    with server.channel() as channel, concurrent.futures.ThreadPoolExecutor(16) as pool:
        stub = rpc.RunServiceStub(channel)
        return [answer.run.id for answer in pool.map(lambda _: stub.StartRun(one), range(runs))]


def start(home):
    with Server(home) as server:
        time.sleep(1)
        before = server.cpu_s()
        time.sleep(5)
        return {"ready_ms": round(server.ready_s * 1e3, 1), "idle_pss_mib": server.memory_mib("Pss"),
                "idle_cpu_ms_per_s": round((server.cpu_s() - before) / 5 * 1e3, 1)}


def queue(home, runs, places):
    with Server(home, "--max-runs", str(places)) as server:
        go = f"{home}/go"
        start_all(server, places, request("holds", ["sh", "-c", f"until [ -e {go} ]; do sleep 0.05; done"], home))
        begun = time.perf_counter()
        start_all(server, runs, request("queued", ["true"], home))
        queued_s = time.perf_counter() - begun
        with server.channel() as channel:
            info = system_rpc.SystemServiceStub(channel)
            waiting = info.GetInfo(system_pb.GetInfoRequest()).waiting_runs
            open(go, "w").close()
            begun = time.perf_counter()
            # One that has its place and has not begun is neither waiting nor running.
            while open_runs := listed(channel, [pb.RUN_STATE_PENDING, pb.RUN_STATE_RUNNING]):
                if time.perf_counter() - begun > 600:
                    sys.exit(f"{len(open_runs)} runs do not end, {open_runs[0].id} among them")
                time.sleep(0.5)
            ended_s = time.perf_counter() - begun
            every = listed(channel, [])
            rows = [row for row in every if row.state == pb.RUN_STATE_COMPLETED]
        peak = server.memory_mib("VmHWM")
    ms = lambda when: when.seconds * 1e3 + when.nanos / 1e6  # noqa: E731
    starts = sorted(ms(row.started_at) for row in rows if row.flow == "queued")
    ends = sorted(ms(row.ended_at) for row in rows)
    if len(starts) != runs:
        others = [(row.id, pb.RunState.Name(row.state)) for row in every if row.state != pb.RUN_STATE_COMPLETED]
        sys.exit(f"{len(starts)} of {runs} runs completed, of {len(every)}; {others[:5]} did not")
    waits = sorted(began - ended for began, ended in zip(starts, ends))
    return {"runs": runs, "places": places, "waited_at_once": waiting, "started_per_second": round(runs / queued_s),
            "ended_per_second": round(runs / ended_s), "dispatch_ms_median": round(statistics.median(waits), 1),
            "dispatch_ms_p99": round(waits[int(len(waits) * 0.99)], 1), "dispatch_ms_most": round(waits[-1], 1), "peak_mib": peak}


def listed(channel, states):
    stub, rows, token = rpc.RunServiceStub(channel), [], ""
    while True:
        page = stub.ListRuns(pb.ListRunsRequest(states=states, page_size=1000, page_token=token))
        rows.extend(page.runs)
        token = page.next_page_token
        if not token:
            return rows


def watch(home, runs, clients):
    with Server(home, "--max-runs", str(runs + 1)) as server:
        ids = start_all(server, runs, request("live", ["sleep", "600"], home))
        time.sleep(3)
        before = server.cpu_s()
        time.sleep(10)
        alone = (server.cpu_s() - before) / 10
        heard, lock = 0, threading.Lock()

        def listen(stub, run):
            nonlocal heard
            for _ in stub.WatchRun(pb.WatchRunRequest(id=run)):
                with lock:
                    heard += 1

        channels = [server.channel() for _ in range(clients)]
        for number, run in enumerate(ids):
            stub = rpc.RunServiceStub(channels[number % clients])
            threading.Thread(target=lambda stub=stub, run=run: quietly(listen, stub, run), daemon=True).start()
        deadline = time.perf_counter() + 60
        while heard < 2 * runs and time.perf_counter() < deadline:
            time.sleep(0.1)
        time.sleep(2)
        before = server.cpu_s()
        time.sleep(10)
        watched = (server.cpu_s() - before) / 10
        result = {"runs": runs, "clients": clients, "events_heard": heard, "cores_unwatched": round(alone, 3),
                  "cores_watched": round(watched, 3), "pss_mib": server.memory_mib("Pss")}
        server.process.kill()
        return result


def quietly(work, *arguments):
    try:
        work(*arguments)
    except grpc.RpcError:
        pass


def main():
    part, numbers = sys.argv[1], [int(word) for word in sys.argv[2:]]
    with tempfile.TemporaryDirectory(dir="target/bench") as home:
        home = os.path.abspath(home)
        print(json.dumps({"start": start, "queue": queue, "watch": watch}[part](home, *numbers)), flush=True)
    # Threads that still listen are of no use to anybody.
    os._exit(0)


main()

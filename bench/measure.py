"""Runs Swath and its peers in turns and prints a row of a table for each pair: measure.py [PART...]; run.sh calls it.

Each measurement is a process of its own. Of Swath's flows the whole process is timed, from start to exit; of the peers only
the work, without the start of Python and its imports. Medians over the rounds; peak memory is the largest seen. Standard
library only, so that this process adds nothing to what its children are seen to use.
"""
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = int(os.environ.get("SWATH_BENCH_ROUNDS", "3"))
DATA = "target/bench"
RELEASE = "target/release"
SWATH = f"{RELEASE}/swath"
RASTERS = ".tools/bench/rasters/bin/python"
PREFECT = ".tools/bench/prefect/bin/python"
ENGINES = ".tools/bench/engines/bin/python"
TESTS = ".tools/py/bin/python"
THREADS = str(os.cpu_count() or 2)
loads, measured = [], {}


class Once:
    """One process: wall time, peak memory in MiB, and the last line of JSON it printed."""

    def __init__(self, *command, **environment):
        loads.append(os.getloadavg()[0])
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            start = time.perf_counter()
            process = subprocess.Popen(command, stdout=out, stderr=errors, env={**os.environ, **environment}, start_new_session=True)
            try:
                _, status, usage = os.wait4(process.pid, 0)
            finally:
                # What is left of its group, such as a server that it started, would slow down all that is measured after it.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            self.wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            self.peak = usage.ru_maxrss / 1024
            self.cpu = usage.ru_utime + usage.ru_stime
            out.seek(0)
            self.lines = [json.loads(line) for line in out.read().decode().splitlines() if line.startswith("{")]
            self.said = self.lines[-1] if self.lines else {}
            if process.returncode:
                errors.seek(0)
                sys.exit(f"{' '.join(command)} failed ({process.returncode}):\n{errors.read().decode()[-2000:]}")


def median(values):
    return statistics.median(values)


def row(name, ours, peer, ratio, goal, met, memory):
    measured.setdefault("rows", []).append([name, ours, peer, ratio, goal, {True: "yes", False: "NO", None: ""}[met], memory])
    print("| " + " | ".join(measured["rows"][-1]) + " |", flush=True)


def swath(flow, *arguments, **environment):
    """A flow over a fresh store."""
    with tempfile.TemporaryDirectory(dir=DATA) as home:
        return Once(SWATH, "run", flow, "--home", f"{home}/store", "--out", f"{home}/out", "--quiet", *arguments, **environment)


def engine():
    steps = lambda shape, count, **more: Once(os.environ["SWATH_BENCH_STEPS"], shape, str(count), DATA, **more).said  # noqa: E731
    peers = {
        "Prefect": lambda shape: Once(PREFECT, "bench/prefect_steps.py", shape, "1000").said,
        "DBOS": lambda shape: Once(ENGINES, "bench/dbos_steps.py", shape, "1000").said,
        "Dask, nothing durable": lambda shape: Once(ENGINES, "bench/dask_steps.py", shape, "10000" if shape == "fan-out" else "2000").said,
        "HyperQueue, a process each": lambda shape: Once(ENGINES, "bench/hyperqueue_steps.py", shape, "2000" if shape == "fan-out" else "200").said,
    }
    for shape in ("chain", "fan-out"):
        ours, seen = [], {name: [] for name in peers}
        for _ in range(ROUNDS):
            ours.append(steps(shape, 10_000))
            for name, run in peers.items():
                seen[name].append(run(shape))
        rate = median([o["steps_per_second"] for o in ours])
        for name, said in seen.items():
            peer = median([p["steps_per_second"] for p in said])
            recorded = [p["recorded_per_second"] for p in said if "recorded_per_second" in p]
            note = f" ({median(recorded):,.0f} recorded)" if recorded else ""
            row(f"{shape} of 10,000 steps, durable", f"{rate:,.0f} steps/s", f"{name}: {peer:,.0f} steps/s{note}", f"{rate / peer:.0f} x",
                "10,000 steps/s, 20 x", rate >= 10_000 and rate >= 20 * peer,
                f"{max(o['peak_mib'] for o in ours)} / {max(p['peak_mib'] for p in said)} MiB")
        ours = [steps(shape, 10_000) for _ in range(ROUNDS)]
        other = [steps(shape, 10_000, SWATH_STORE="private") for _ in range(ROUNDS)]
        rate, base = median([o["steps_per_second"] for o in other]), median([o["steps_per_second"] for o in ours])
        row(f"{shape} of 10,000 steps on PostgreSQL", f"{rate:,.0f} steps/s", f"Swath on SQLite: {base:,.0f} steps/s", f"{rate / base:.2f} x",
            "0.33 x", rate >= base / 3, f"{max(o['peak_mib'] for o in other)} / {max(o['peak_mib'] for o in ours)} MiB")
        # The first step makes the list: no flow has more than 100,000.
        large = steps(shape, 99_999)
        row(f"{shape} of 100,000 steps, durable", f"{large['steps_per_second']:,.0f} steps/s", "", "", "10,000 steps/s, 300 MiB",
            large["steps_per_second"] >= 10_000 and large["peak_mib"] < 300, f"{large['peak_mib']} MiB")
    for shape, count, name, goal in [("wide", 10_000, "10,000 steps side by side", 10_000),
                                     ("chain-kept", 10_000, "chain of 10,000, results kept for reuse", 0),
                                     ("chain-effects", 10_000, "chain of 10,000 that change the world", 0),
                                     ("chain-isolated", 1_000, "chain of 1,000, each step in a process that waited for it", 0),
                                     ("chain-isolated-cold", 300, "chain of 300, each step in a new process", 0)]:
        ours = [steps(shape, count) for _ in range(ROUNDS)]
        rate = median([o["steps_per_second"] for o in ours])
        row(name, f"{rate:,.0f} steps/s", "", "", f"{goal:,} steps/s" if goal else "", rate >= goal if goal else None,
            f"{max(o['peak_mib'] for o in ours)} MiB")


def server():
    said = [Once(TESTS, "bench/server.py", "start").said for _ in range(2 * ROUNDS + 1)]
    ready, idle = median([s["ready_ms"] for s in said]), max(s["idle_pss_mib"] for s in said)
    row("`swath serve`, start to ready", f"{ready:.0f} ms", "", "", "300 ms", ready < 300, "")
    row("`swath serve`, nothing to do", f"{median([s['idle_cpu_ms_per_s'] for s in said]):.1f} ms of processor time a second", "", "",
        "60 MiB", idle < 60, f"{idle} MiB")
    queued = Once(TESTS, "bench/server.py", "queue", "10000", THREADS).said
    row("10,000 runs wait, one a core at a time: place free to run begun, p99", f"{queued['dispatch_ms_p99']} ms (median {queued['dispatch_ms_median']})",
        "", "", "20 ms", queued["dispatch_ms_p99"] < 20, f"{queued['peak_mib']} MiB")
    watched = Once(TESTS, "bench/server.py", "watch", "1000", "100").said
    row("1,000 live runs watched by 100 clients", f"{watched['cores_watched']} cores ({watched['cores_unwatched']} unwatched)", "", "",
        "1 core", watched["cores_watched"] < 1, f"{watched['pss_mib']} MiB")


@contextlib.contextmanager
def collector():
    """A collector (rotel) that takes in all that it is told and keeps nothing; its address, and the file that counts it."""
    script = "import pathlib, rotel; print(pathlib.Path(rotel.__file__).with_name('rotel-agent'))"
    program = subprocess.check_output([TESTS, "-c", script], text=True).strip()
    with socket.socket() as free, socket.socket() as other:
        free.bind(("127.0.0.1", 0)), other.bind(("127.0.0.1", 0))
        grpc, http = (f"127.0.0.1:{place.getsockname()[1]}" for place in (free, other))
    with tempfile.TemporaryDirectory() as home, open(f"{home}/out", "w") as out:
        agent = subprocess.Popen(
            [program, "start", "--exporter", "blackhole", "--debug-log", "traces", "--otlp-grpc-endpoint", grpc, "--otlp-http-endpoint",
             http, "--pid-file", f"{home}/pid", "--log-file", f"{home}/log"], stdout=out, stderr=subprocess.DEVNULL)
        try:
            while socket.socket().connect_ex((grpc.split(":")[0], int(grpc.split(":")[1]))):
                time.sleep(0.05)
            yield f"http://{grpc}", f"{home}/out"
        finally:
            agent.kill()
            agent.wait()


def tracing():
    count, silent, told = 3000, [], []
    with tempfile.TemporaryDirectory(dir=DATA) as folder, collector() as (address, heard):
        flow = f"{folder}/many.yaml"
        with open(flow, "w") as file:
            file.write("flow: many\nsteps:\n  one:\n    task: run.command\n    needs: { cpu: 0.5 }\n"
                       f"    each: {list(range(count))}\n    with: {{ command: [/bin/true], purity: effect }}\n")
        swath(flow)
        for _ in range(ROUNDS):
            silent.append(swath(flow))
            told.append(swath(flow, OTEL_EXPORTER_OTLP_ENDPOINT=address, OTEL_EXPORTER_OTLP_PROTOCOL="grpc"))
        with open(heard) as file:
            if "span" not in file.read().lower():
                sys.exit("the collector heard nothing")
    walls, cpus = ([median([getattr(once, what) for once in side]) for side in (told, silent)] for what in ("wall", "cpu"))
    peaks = [max(once.peak for once in side) for side in (told, silent)]
    row("3,000 steps, a process each, every span told to a collector", f"{count / walls[0]:.0f} steps/s",
        f"told to nobody {count / walls[1]:.0f} steps/s", f"{walls[1] / walls[0]:.2f} x", "", None,
        f"{peaks[0]:.0f} / {peaks[1]:.0f} MiB")
    print(f"processor time a step: {cpus[0] / count * 1e3:.2f} ms told, {cpus[1] / count * 1e3:.2f} ms not", file=sys.stderr)


def start():
    swath("bench/flows/one.yaml")
    ours = [swath("bench/flows/one.yaml") for _ in range(4 * ROUNDS + 1)]
    with tempfile.TemporaryDirectory() as home:
        peers = [Once(PREFECT, "bench/cold_prefect.py", PREFECT_HOME=f"{home}/{n}", PREFECT_SERVER_ANALYTICS_ENABLED="false",
                      PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="180", PREFECT_LOGGING_LEVEL="ERROR",
                      NO_PROXY="127.0.0.1,localhost") for n in range(min(ROUNDS, 2))]
    wall, peer = median([o.wall for o in ours]), median([p.wall for p in peers])
    row("`swath run` of one step, in all", f"{wall * 1e3:.0f} ms", f"Prefect {peer:.1f} s", f"{peer / wall:.0f} x", "50 ms",
        wall < 0.05, f"{max(o.peak for o in ours):.0f} MiB / {max(p.peak for p in peers):.0f} MiB")
    for words in (["--help"], ["validate", "flows/detect.yaml"]):
        ours = [Once(SWATH, *words) for _ in range(4 * ROUNDS + 1)]
        wall = median([o.wall for o in ours])
        row(f"`swath {' '.join(words)}`", f"{wall * 1e3:.0f} ms", "", "", "50 ms", wall < 0.05, f"{max(o.peak for o in ours):.0f} MiB")


def composite():
    def of(stack):
        items, out = f"{DATA}/{stack}/items.json", f"{DATA}/composite.tif"
        with tempfile.TemporaryDirectory(dir=DATA) as home:
            once = Once(SWATH, "run", "bench/flows/composite.yaml", "-p", f"catalog={items}", "--home", f"{home}/store",
                        "--out", f"{home}/out", "--quiet")
            shutil.move(f"{home}/out/composite.tif", out)
        return once, items, out

    def peer(method, items):
        out = f"{DATA}/peer.tif"
        said = Once(RASTERS, "bench/composite.py", method, items, out, THREADS).said
        os.unlink(out)
        return said

    of("stack")
    ours, odc, decode = [], [], []
    for _ in range(ROUNDS):
        once, items, out = of("stack")
        ours.append(once)
        odc.append(peer("odc", items))
        decode.append(peer("decode", items))
    equal = Once(RASTERS, "bench/composite.py", "check", items, out).said
    measured["composite equals numpy"] = equal
    wall, high = median([o.wall for o in ours]), max(o.peak for o in ours)
    small = high
    for name, peers, wanted in [("odc-stac + dask", odc, 3.0), ("decoding alone, GDAL", decode, 1 / 1.1)]:
        other = median([p["wall_s"] for p in peers])
        goal = "3 x as fast, 256 MiB" if wanted > 1 else "at most 1.1 of its time"
        row("composite 12 x 6 x 2048 x 2048", f"{wall:.2f} s", f"{name} {other:.2f} s", f"{other / wall:.2f} x", goal,
            other / wall >= wanted and high < 256 and equal["equal"], f"{high:.0f} / {max(p['peak_mib'] for p in peers)} MiB")
    for stack, name in [("dates-50", "composite, 50 dates"), ("area-9", "composite, 9 times the area")]:
        if os.path.exists(f"{DATA}/{stack}/complete"):
            once, items, _ = of(stack)
            row(name, f"{once.wall:.2f} s", "", "", "256 MiB", once.peak < 256, f"{once.peak:.0f} MiB (12 x 2048 x 2048: {small:.0f})")


def inference():
    lines = Once(f"{RELEASE}/examples/infer_bench", f"{DATA}/models", THREADS, str(ROUNDS)).lines
    whole = [line for line in lines if line["bench"] == "infer.segment"]
    bare = [line for line in lines if line["bench"] == "bare session"]
    large, whole = whole[-1], whole[:-1]
    ratio = lines[-1]["median"]
    row("inference, 10 x 4096 x 4096", f"{median([w['tiles_per_second'] for w in whole]):.2f} tiles/s",
        f"bare ONNX Runtime {median([b['tiles_per_second'] for b in bare]):.2f} tiles/s", f"{ratio:.3f}", "0.97", ratio >= 0.97,
        f"{max(w['peak_mib'] for w in whole)} / {max(b['peak_mib'] for b in bare)} MiB")
    row("inference, 3 x 11000 x 11000, one small layer", f"{large['tiles_per_second']:.0f} tiles/s", "", "", "512 MiB and the session",
        large["peak_mib"] <= 512 + 64, f"{large['peak_mib']} MiB")


def serving():
    lines = Once(f"{RELEASE}/examples/serve_bench", f"{DATA}/models", THREADS, str(ROUNDS)).lines
    whole = [line for line in lines if line["bench"] == "infer.segment over Triton, grpc"]
    raw = [line for line in lines if line["bench"] == "raw client"]
    # The last of them is over the large raster.
    whole, ratio = whole[:-1], lines[-1]["median"]
    row("inference over Triton, 10 x 4096 x 4096", f"{median([w['tiles_per_second'] for w in whole]):.2f} tiles/s",
        f"raw client {median([r['tiles_per_second'] for r in raw]):.2f} tiles/s", f"{ratio:.3f}", "0.95", ratio >= 0.95,
        f"{max(w['peak_mib'] for w in whole)} / {max(r['peak_mib'] for r in raw)} MiB")
    large_over_triton(lines[-4:-1])


def serving_memory():
    large_over_triton(Once(f"{RELEASE}/examples/serve_bench", f"{DATA}/models", "memory").lines)


def large_over_triton(lines):
    for line in lines:
        task, protocol = line["bench"].split(" over Triton, ")
        row(f"`{task}` over Triton ({protocol}), 3 x 11000 x 11000, one small layer", f"{line['tiles_per_second']:.0f} tiles/s", "", "",
            "512 MiB and the program", line["peak_mib"] <= 512 + 64, f"{line['peak_mib']} MiB")


def detect():
    raster = f"{DATA}/probability.tif"
    ours, peers = [], {"mask": [], "labelled": []}
    for _ in range(max(ROUNDS, 3)):
        ours.append(Once(f"{RELEASE}/examples/detect_bench", raster, '{"min_pixels": 50}', f"{DATA}/ours.geojson").said)
        for method, seen in peers.items():
            seen.append(Once(RASTERS, "bench/detect.py", raster, f"{DATA}/peer.geojson", method).said)
    areas = []
    for file in ("ours", "peer"):
        with open(f"{DATA}/{file}.geojson") as opened:
            features = json.load(opened)["features"]
        areas.append(sorted(f["properties"].get("area_km2", f["properties"].get("area_m2", 0) / 1e6) for f in features))
    counts = [(s["candidates"], s["kept"]) for s in (ours[-1], peers["mask"][-1], peers["labelled"][-1])]
    equal = len(set(counts)) == 1 and all(abs(a - b) <= 1e-6 + 1e-4 * b for a, b in zip(*areas, strict=True))
    measured["detections equal"] = {"candidates": counts[0][0], "kept": counts[0][1], "equal": equal}
    wall, high = median([o["wall_s"] for o in ours]), max(o["peak_rss_mb"] for o in ours)
    best = min(peers, key=lambda method: median([p["wall_s"] for p in peers[method]]))
    other = median([p["wall_s"] for p in peers[best]])
    row("detections in 4096 x 4096", f"{wall:.3f} s", f"rasterio, scipy, scikit-learn {other:.3f} s", f"{other / wall:.1f} x",
        "3 x, 128 MiB, equal", other / wall >= 3 and high < 128 and equal, f"{high:.0f} / {min(max(p['peak_mib'] for p in seen) for seen in peers.values())} MiB")


def train():
    ours, peers = [], []
    for _ in range(ROUNDS):
        ours.append(Once(f"{RELEASE}/examples/train_bench", "3", THREADS).said)
        peers.append(Once(".tools/torch/bin/python", "tasks/train/examples/train_bench.py", "3", THREADS).said)
    seconds = [median([once["median_seconds"] for once in side]) for side in (ours, peers)]
    memory = [max(once["peak_mib"] for once in side) for side in (ours, peers)]
    row("training step, UNet ResNet-34, 4 x 10 x 256 x 256", f"{seconds[0]:.2f} s", f"PyTorch {seconds[1]:.2f} s",
        f"{seconds[1] / seconds[0]:.2f} x", "", None, f"{memory[0]} / {memory[1]} MiB")


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before its time"))
    parts = {"engine": engine, "server": server, "tracing": tracing, "start": start, "composite": composite, "inference": inference,
             "serving": serving, "serving_memory": serving_memory, "train": train, "detect": detect}
    chosen = sys.argv[1:] or [part for part in parts if part != "serving_memory"]
    if unknown := [part for part in chosen if part not in parts]:
        sys.exit(f"no such part: {', '.join(unknown)}; there are {', '.join(parts)}")
    print("| what | Swath | peer | ratio | goal | met | peak memory, Swath / peer |\n|---|---|---|---|---|---|---|", flush=True)
    for part in chosen:
        parts[part]()
    measured.update(cores=os.cpu_count(), rounds=ROUNDS, load_median=round(median(loads), 2), load_most=round(max(loads), 2))
    with open(f"{DATA}/measured.json", "w") as file:
        json.dump(measured, file, indent=1)
    print(f"\n{os.cpu_count()} cores, {ROUNDS} rounds; load average before each measurement: median {median(loads):.1f}, most {max(loads):.1f}")
    for name in ("composite equals numpy", "detections equal"):
        if name in measured:
            print(f"{name}: {json.dumps(measured[name])}")


main()

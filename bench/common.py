"""What the peers' scripts share: wall time and peak memory of the measured part, one line of JSON."""
import json
import os
import resource
import time


class Meter:
    """`with Meter() as m: ...` gives m.wall_s and m.cpu_s; the peak is of the whole process, which is one a measurement."""

    def __enter__(self):
        self.start, self.before = time.perf_counter(), os.times()
        return self

    def __exit__(self, *_):
        self.wall_s = time.perf_counter() - self.start
        after = os.times()
        self.cpu_s = after.user - self.before.user + after.system - self.before.system


def emit(meter, **more):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"wall_s": round(meter.wall_s, 4), "cpu_s": round(meter.cpu_s, 2), "peak_mib": round(peak), **more}))

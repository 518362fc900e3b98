"""A table of what gpu_bench, peers.py and whole.py printed: table.py RESULTS."""
import json
import sys

with open(sys.argv[1]) as file:
    lines = [json.loads(line) for line in file if line.startswith("{")]
peers = ["eager", "channels_last", "compile", "onnxruntime"]
rates = {(line["bench"], line["precision"], line["peer"]): line["images_per_second"] for line in lines if "images_per_second" in line}


def cell(bench, precision, peer):
    rate, ours = rates.get((bench, precision, peer)), rates.get((bench, precision, "swath"))
    if rate is None:
        return ""
    return f"{rate:.1f}" if peer == "swath" or not ours else f"{rate:.1f} ({ours / rate:.2f} x)"


print("Images a second of ten bands; in brackets how many times as fast Swath is.\n")
print("| what | precision | Swath | " + " | ".join(peers) + " |\n|---|---|---|" + "---|" * len(peers))
for bench in ("training", "inference", "inference from and to memory"):
    for precision in ("f32", "bf16", "f16"):
        print(f"| {bench} | {precision} | " + " | ".join(cell(bench, precision, peer) for peer in ["swath", *peers]) + " |")
print()
for line in lines:
    if line["bench"] == "logits":
        print(f"logits in {line['precision']}: Swath {line['swath_off']:.1e} off 64-bit floats, PyTorch {line['pytorch_off']:.1e}")
    elif line["bench"] == "skipped":
        print(f"not measured: {line['peer']}: {line['reason']}")
    elif line["bench"] == "from COG to COG":
        print(f"from COG to COG, round {line['round']}: {line['gigapixels_per_minute']:.2f} Gpix/min, {line['tiles_per_second']:.0f} tiles/s")
ours, eager = rates.get(("training", "bf16", "swath")), rates.get(("training", "bf16", "eager"))
whole = [line["gigapixels_per_minute"] for line in lines if line["bench"] == "from COG to COG"]
for goal, met in (("training in bf16 at least as fast as PyTorch eager with AMP", ours and eager and ours >= eager),
                  ("2 Gpix/min from COG to COG", whole and whole[-1] >= 2)):
    print(f"goal: {goal}: {'not measured' if met is None or met == [] else 'met' if met else 'missed'}")

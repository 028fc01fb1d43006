#!/usr/bin/env python3
"""results.json and, on stdout, a table from what bench/gpu.sh measured: gpu_table.py FOLDER with results.jsonl and perhaps kernels.csv."""
import csv
import json
import os
import re
import subprocess
import sys


def command(*words):
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def kernels_of_a_step(path):
    """Kernels between two updates of the parameters, those of one name that follow each other closely added up."""
    scale = {"ns": 1e-3, "us": 1, "ms": 1e3, "byte": 1e-6, "Kbyte": 1e-3, "Mbyte": 1, "Gbyte": 1e3}
    launches = {}
    with open(path) as f:
        for row in csv.DictReader(line for line in f if line.startswith('"')):
            launch = launches.setdefault(int(row["ID"]), {"name": row["Kernel Name"]})
            launch["us" if "time" in row["Metric Name"] else "MB"] = float(row["Metric Value"].replace(",", "")) * scale[row["Metric Unit"]]
    order = [launches[i] for i in sorted(launches)]
    ends = [i for i, launch in enumerate(order) if launch["name"].startswith("update")]
    if len(ends) < 2:
        return []
    kernels = []
    for launch in order[ends[0] + 1:ends[1] + 1]:
        name = re.sub(r"\(.*", "", launch["name"]).replace("void ", "")[:64]
        same = [k for k in kernels[-4:] if k["name"] == name]
        if same:
            same[0]["launches"] += 1
            same[0]["us"] += launch["us"]
            same[0]["MB"] += launch["MB"]
        else:
            kernels.append({"name": name, "launches": 1, "us": launch["us"], "MB": launch["MB"]})
    return kernels


def main(folder):
    with open(os.path.join(folder, "results.jsonl")) as f:
        entries = [json.loads(line) for line in f]
    results = {"commit": command("git", "rev-parse", "--short", "HEAD"),
               "gpu": command("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
               "rates": [e for e in entries if "rate" in e], "ceilings": {}, "pytorch": ""}
    for e in entries:
        if "ceilings" in e:
            results["ceilings"], results["pytorch"] = e["ceilings"], e["pytorch"]
    path = os.path.join(folder, "kernels.csv")
    results["kernels"] = kernels_of_a_step(path) if os.path.exists(path) and os.path.getsize(path) else []
    with open(os.path.join(folder, "results.json"), "w") as f:
        json.dump(results, f, indent=1)
    print(f"{results['gpu']}; commit {results['commit']}; PyTorch {results['pytorch']}\n")
    print("| | grid | batch | precision | what | spectra/s | of the fastest PyTorch |\n|---|---|---|---|---|---|---|")
    peers = [e for e in results["rates"] if e["who"] == "PyTorch"]
    for e in results["rates"]:
        rivals = [p["rate"] for p in peers if p["mode"] == e["mode"] and p["grid"] == e["grid"]
                  and (p["precision"] == "fp32") == (e["precision"] == "fp32")]
        full = e["who"] == "spender" and e["what"] == "full size" and rivals
        print(f"| {e['who']} {e['mode']} | {e['grid']} | {e['batch']} | {e['precision']} | {e['what']} | {e['rate']:,} | "
              + (f"{e['rate'] / max(rivals):.2f}" if full else "") + " |")
    if results["ceilings"]:
        print("\nCeilings: " + ", ".join(f"{name} {value:.3g}" for name, value in results["ceilings"].items()))
    if results["kernels"]:
        copy = results["ceilings"].get("copy TB/s")
        print(f"\nKernels of a training step of 1024 in fp16: {sum(k['us'] for k in results['kernels']) / 1e3:.2f} ms\n")
        print("| kernel | launches | us | MB | TB/s | of a copy |\n|---|---|---|---|---|---|")
        for k in results["kernels"]:
            if k["us"] >= 10:
                speed = k["MB"] / k["us"]
                print(f"| {k['name']} | {k['launches']} | {k['us']:.0f} | {k['MB']:.0f} | {speed:.2f} | "
                      + (f"{speed / copy:.0%}" if copy else "") + " |")


if __name__ == "__main__":
    main(sys.argv[1])

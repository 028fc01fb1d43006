#!/usr/bin/env python3
"""Measures training steps and encoding of the full-size network, ours against PyTorch's, in alternation in one run.

    python3 bench/run.py [--python /usr/bin/python3] [--batch 64] [--threads 2] [--rounds 9] [--no-record] [--label TEXT]

Three variants, each a process of its own that stays up and waits while the others work: ours (bench.c on the core, no R), PyTorch as
shipped, and PyTorch tuned (AVX-512 dispatch on where there is such, malloc kept from returning pages). Medians over the rounds. Prints spectra per
second, ratios and peak memory; writes bench/results/DATE-CPU.json and .md. Only the standard library is needed here; --python names
an interpreter that has torch.
"""
import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TUNED = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000", "MALLOC_TOP_PAD_": "268435456"}
STEPS = {"train": 2, "encode": 4}


def output_of(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def build():
    """With the flags that configure finds: -O2, OpenMP, OpenBLAS, loops for several processors."""
    folder = os.path.join(ROOT, "build", "bench")
    os.makedirs(folder, exist_ok=True)
    program = os.path.join(folder, "bench")
    sources = [os.path.join(ROOT, "bench", "bench.c")]
    for part in ("core", "cpu"):
        where = os.path.join(ROOT, "src", part)
        sources += sorted(os.path.join(where, name) for name in os.listdir(where) if name.endswith(".c") and name != "sdss.c")
    flags = ["-std=gnu99", "-O2", "-fno-trapping-math", "-fno-math-errno", "-fopenmp", "-I" + os.path.join(ROOT, "src"), "-DSPD_HAVE_OPENMP", "-DSPD_HAVE_CBLAS",
             "-DSPD_HAVE_OPENBLAS", "-DSPD_HAVE_TARGET_CLONES"]
    subprocess.run([os.environ.get("CC", "gcc"), *flags, "-o", program, *sources, "-lopenblas", "-lm"], check=True)
    return program


class Worker:
    def __init__(self, command, environment):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, **environment})

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"bench: a worker ended with status {self.process.wait()}")
        return float(answer)

    def end(self):
        peak = self.ask("end")
        self.process.wait()
        return peak


def cpu_info(key):
    try:
        with open("/proc/cpuinfo") as f:
            return re.search(rf"^{key}\s*:\s*(.*)", f.read(), re.MULTILINE).group(1)
    except (OSError, AttributeError):
        return ""


def cpu_name():
    return cpu_info("model name") or platform.processor() or platform.machine()


def tuned_environment():
    """Asking for AVX-512 where the processor has none would end PyTorch with an illegal instruction."""
    return {**TUNED, **({"ATEN_CPU_CAPABILITY": "avx512"} if "avx512vl" in cpu_info("flags").split() else {})}


def versions(python):
    torch = output_of([python, "-c", "import torch; print(torch.__version__)"])
    if not torch:
        sys.exit(f"bench: {python} has no torch; --python names an interpreter that has it (Debian: apt-get install python3-torch)")
    return {"commit": output_of(["git", "-C", ROOT, "describe", "--always", "--dirty"]),
            "torch": torch, "python": output_of([python, "-c", "import platform; print(platform.python_version())"]),
            "openblas": output_of(["pkg-config", "--modversion", "openblas"]),
            "compiler": output_of([os.environ.get("CC", "gcc"), "--version"]).split("\n")[0], "kernel": platform.release()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="/usr/bin/python3")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--label", default="")
    parser.add_argument("--no-record", action="store_true")
    o = parser.parse_args()
    if o.rounds < 1 or o.batch < 1 or o.threads < 1:
        parser.error("rounds, batch and threads must be at least 1")

    found = versions(o.python)
    program = build()
    peer = [o.python, os.path.join(ROOT, "bench", "peer.py"), "worker"]
    threads = {"OMP_NUM_THREADS": str(o.threads)}
    variants = {"ours": (lambda mode: [program, mode, str(o.threads), str(o.batch)], {}),
                "PyTorch": (lambda mode: [*peer, mode, str(o.threads), str(o.batch)], threads),
                "PyTorch tuned": (lambda mode: [*peer, mode, str(o.threads), str(o.batch)], {**threads, **tuned_environment()})}
    results = {}
    for mode, steps in STEPS.items():
        workers = {name: Worker(command(mode), environment) for name, (command, environment) in variants.items()}
        for worker in workers.values():  # warm up: code paths, arenas, clocks
            worker.ask("2")
        seconds = {name: [] for name in workers}
        for _ in range(o.rounds):
            for name, worker in workers.items():
                seconds[name].append(worker.ask(str(steps)) / steps)
        results[mode] = {name: {"spectra_per_second": o.batch / statistics.median(seconds[name]), "seconds_per_step": seconds[name],
                                "peak_mb": workers[name].end()} for name in workers}

    lines = [f"{datetime.date.today()}, {cpu_name()}, {o.threads} threads, batch {o.batch}, medians of {o.rounds} rounds in alternation"
             + (f" ({o.label})" if o.label else ""), "",
             f"commit {found['commit']}, {found['compiler']}, OpenBLAS {found['openblas']}; PyTorch {found['torch']}, "
             f"Python {found['python']}", "",
             "| spectra/s (peak MB) | " + " | ".join(variants) + " | ours / faster PyTorch |", "|---" * (len(variants) + 2) + "|"]
    for mode, result in results.items():
        best = max(result[name]["spectra_per_second"] for name in variants if name != "ours")
        cells = [f"{result[name]['spectra_per_second']:.1f} ({result[name]['peak_mb']:.0f})" for name in variants]
        lines.append(f"| {'training step' if mode == 'train' else 'encode'} | " + " | ".join(cells) +
                     f" | {result['ours']['spectra_per_second'] / best:.2f} |")
    print("\n".join(lines))
    if not o.no_record:
        slug = re.sub(r"[^A-Za-z0-9]+", "-", cpu_name()).strip("-").lower()
        path = os.path.join(ROOT, "bench", "results", f"{datetime.date.today()}-{slug}")
        with open(path + ".json", "w") as f:
            json.dump({"date": str(datetime.date.today()), "cpu": cpu_name(), "cores": os.cpu_count(), "threads": o.threads, "batch": o.batch,
                       "rounds": o.rounds, "label": o.label, "versions": found, "tuned": tuned_environment(), "results": results}, f, indent=1)
        with open(path + ".md", "w") as f:
            f.write("\n".join(lines) + "\n")
        print(f"\nrecorded in {os.path.relpath(path, ROOT)}.json and .md")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measures the full-size network on a CPU, ours against PyTorch's, in alternation in one run.

    python3 bench/run.py [--python /usr/bin/python3] [--quick] [--rounds 7] [--no-record] [--label TEXT]

Variants, each a process of its own that stays up and waits while the others work: ours (bench.c on the core, no R), PyTorch as
shipped, PyTorch tuned (AVX-512 dispatch on where there is such, malloc kept from returning pages), the same compiled (torch.compile), and,
where the processor multiplies bf16, compiled in autocast to bf16, which the ratios leave out. Training steps with Adam, encoding,
and reconstruction (encoding, decoding, observed frame); batches of 16, 64 and 256 (encoding also 8 and 1); one and two threads; the paper's restframe grid (LR), and
one twice as fine with an LSF of 5 pixels (SR); and a small network (filters 16, 32, 64); --quick: batch 64 and two threads, LR, and
training with batches of 16 and of the small network, and encoding of single spectra. Medians over the rounds. Then the stages of a
training step, and the share of the processor's matrix-product peak that they reach. Prints spectra per second, ratios to the faster PyTorch
and peak memory; writes bench/results/DATE-CPU.json and .md. Only the standard library is needed here; --python names an interpreter that has
torch.
"""
import argparse
import ctypes
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
MODES = {"train": "training step", "encode": "encode", "reconstruct": "reconstruct"}
NETWORKS = {"": "", "sr": ", SR", "small": ", small network"}
# Multiply-adds of a convolution for one spectrum, computed directly: length * kernel * in * out. Backward is twice that.
DIRECT = {"block2": 785 * 11 * 128 * 256, "block3": 72 * 21 * 256 * 512}


def output_of(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def build():
    """With the flags that configure finds: -O2, vector loops, OpenBLAS, loops for several processors."""
    folder = os.path.join(ROOT, "build", "bench")
    os.makedirs(folder, exist_ok=True)
    program = os.path.join(folder, "bench")
    sources = [os.path.join(ROOT, "bench", "bench.c"), os.path.join(ROOT, "src", "cuda", "none.c")]
    for part in ("core", "data", "network", "cpu"):
        where = os.path.join(ROOT, "src", part)
        sources += sorted(os.path.join(where, name) for name in os.listdir(where) if name.endswith(".c"))
    flags = ["-std=gnu99", "-O2", "-fno-trapping-math", "-fno-math-errno", "-fopenmp-simd", "-pthread", "-I" + os.path.join(ROOT, "src"), "-DSPD_HAVE_OPENMP_SIMD",
             "-DSPD_HAVE_CBLAS",
             "-DSPD_HAVE_OPENBLAS", "-DSPD_HAVE_TARGET_CLONES"]
    subprocess.run([os.environ.get("CC", "gcc"), *flags, "-o", program, *sources, "-lopenblas", "-lm"], check=True)
    return program


class Worker:
    def __init__(self, command, environment):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, **environment})

    def line(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"bench: a worker ended with status {self.process.wait()}")
        return answer

    def ask(self, line):
        return float(self.line(line))

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


def blas_core():
    """The processor that OpenBLAS takes this one for: it chooses its kernels by it."""
    try:
        name = ctypes.CDLL("libopenblas.so.0").openblas_get_corename
    except (OSError, AttributeError):
        return "unknown"
    name.restype = ctypes.c_char_p
    return name().decode()


def tuned_environment():
    """Asking for AVX-512 where the processor has none would end PyTorch with an illegal instruction."""
    return {**TUNED, **({"ATEN_CPU_CAPABILITY": "avx512"} if "avx512vl" in cpu_info("flags").split() else {})}


def versions(python):
    torch = output_of([python, "-c", "import torch; print(torch.__version__)"])
    if not torch:
        sys.exit(f"bench: {python} has no torch; --python names an interpreter that has it (Debian: apt-get install python3-torch)")
    return {"commit": output_of(["git", "-C", ROOT, "describe", "--always", "--dirty"]),
            "torch": torch, "python": output_of([python, "-c", "import platform; print(platform.python_version())"]),
            "openblas": output_of(["pkg-config", "--modversion", "openblas"]), "openblas_core": blas_core(),
            "compiler": output_of([os.environ.get("CC", "gcc"), "--version"]).split("\n")[0], "kernel": platform.release()}


def configurations(quick):
    """(mode, threads, batch, network)"""
    if quick:
        return [(mode, 2, 64, "") for mode in MODES] + [("train", 2, 16, ""), ("encode", 2, 1, ""), ("train", 2, 64, "small")]
    return ([(mode, threads, batch, "") for mode in MODES for threads in (2, 1) for batch in (64, 16, 256)] +
            [("encode", 2, batch, "") for batch in (8, 1)] + [(mode, 2, 64, "sr") for mode in MODES] +
            [(mode, 2, 64, "small") for mode in MODES])


def measure(variants, configuration, rounds):
    mode, threads, batch, network = configuration
    workers = {name: Worker([*command, mode, str(threads), str(batch), *network.split(), *options],
                            {"OMP_NUM_THREADS": str(threads), **environment})
               for name, (command, environment, options) in variants.items()}
    steps = {name: max(1, (256 if name == "ours" else 64) // batch * (1 if mode == "train" else 2)) for name in workers}
    for worker in workers.values():  # warm up: code paths, arenas, clocks
        worker.ask("2")
    seconds = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            seconds[name].append(worker.ask(str(steps[name])) / steps[name])
    return {name: {"spectra_per_second": batch / statistics.median(seconds[name]), "seconds_per_step": seconds[name],
                   "peak_mb": workers[name].end()} for name in workers}


def measure_stages(variants, rounds):
    """Median seconds of each stage of a training step, batch 64, two threads."""
    batch, result = 64, {}
    workers = {name: Worker([*command, "train", "2", str(batch)], {"OMP_NUM_THREADS": "2", **environment})
               for name, (command, environment, options) in variants.items() if not options}
    samples = {name: {} for name in workers}
    for worker in workers.values():
        worker.ask("2")
    for _ in range(rounds):
        for name, worker in workers.items():
            for stage, value in re.findall(r"([a-z0-9 ]+) ([0-9.]+)", worker.line("stages 1")):
                samples[name].setdefault(stage.strip(), []).append(float(value))
    for name, worker in workers.items():
        worker.end()
        result[name] = {stage: statistics.median(values) for stage, values in samples[name].items()}
    return result


def ratio(result):
    return result["ours"]["spectra_per_second"] / max(value["spectra_per_second"] for name, value in result.items()
                                                      if name != "ours" and "bf16" not in name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="/usr/bin/python3")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--label", default="")
    parser.add_argument("--no-record", action="store_true")
    o = parser.parse_args()
    if o.rounds < 1:
        parser.error("rounds must be at least 1")

    found = versions(o.python)
    program = build()
    peer = [o.python, os.path.join(ROOT, "bench", "peer.py"), "worker"]
    variants = {"ours": ([program], {}, []), "PyTorch": (peer, {}, []), "PyTorch tuned": (peer, tuned_environment(), []),
                "PyTorch compiled": (peer, tuned_environment(), ["compiled"])}
    if {"avx512_bf16", "amx_bf16"} & {*cpu_info("flags").split()}:
        variants["PyTorch compiled, bf16"] = (peer, tuned_environment(), ["compiled", "bf16"])
    peak = float(output_of([program, "peak", "2"]) or "nan")
    lines = [f"{datetime.date.today()}, {cpu_name()}, medians of {o.rounds} rounds in alternation" + (f" ({o.label})" if o.label else ""), "",
             f"commit {found['commit']}, {found['compiler']}, kernels {output_of([program, 'kernels'])}, OpenBLAS {found['openblas']} "
             f"(takes the processor for {found['openblas_core']}); PyTorch {found['torch']}, Python {found['python']}", "",
             "| spectra/s (peak MB) | threads | batch | " + " | ".join(variants) + " | ours / fastest fp32 PyTorch |",
             "|---" * (len(variants) + 4) + "|"]
    results = []
    print("\n".join(lines), flush=True)
    for configuration in configurations(o.quick):
        mode, threads, batch, network = configuration
        result = measure(variants, configuration, o.rounds)
        results.append({"mode": mode, "threads": threads, "batch": batch, "network": network, "results": result})
        cells = [f"{result[name]['spectra_per_second']:.1f} ({result[name]['peak_mb']:.0f})" for name in variants]
        lines.append(f"| {MODES[mode]}{NETWORKS[network]} | {threads} | {batch} | " + " | ".join(cells) + f" | {ratio(result):.2f} |")
        print(lines[-1], flush=True)

    stages = measure_stages(variants, o.rounds)
    more = ["", f"Products of our own, GFLOP/s of one thread, 64 spectra and 1024 x 5881 weights: {output_of([program, 'products'])}.",
            "", f"Stages of a training step, batch 64, 2 threads. Matrix products of OpenBLAS reach {peak:.0f} GFLOP/s; a convolution's share of "
            "that counts the operations of its direct form, of which ours does a sixth to a twelfth.", "",
            "| ms (share of the peak) | " + " | ".join(stages) + " |", "|---" * (len(stages) + 1) + "|"]
    for stage in stages["ours"]:
        cells = []
        for name in stages:
            value = stages[name].get(stage)
            part, way = (stage.split() + [""])[:2]
            share = (2 if way == "backward" else 1) * 64 * 2e-9 * DIRECT[part] / value / peak if value and part in DIRECT else None
            cells.append("" if value is None else f"{1e3 * value:.1f}" + (f" ({100 * share:.0f} %)" if share else ""))
        more.append(f"| {stage} | " + " | ".join(cells) + " |")
    print("\n".join(more))
    if not o.no_record:
        slug = re.sub(r"[^A-Za-z0-9]+", "-", cpu_name()).strip("-").lower()
        path = os.path.join(ROOT, "bench", "results", f"{datetime.date.today()}-{slug}")
        with open(path + ".json", "w") as f:
            json.dump({"date": str(datetime.date.today()), "cpu": cpu_name(), "cores": os.cpu_count(), "rounds": o.rounds, "label": o.label,
                       "versions": found, "tuned": tuned_environment(), "peak_gflops": peak, "results": results, "stages": stages}, f, indent=1)
        with open(path + ".md", "w") as f:
            f.write("\n".join(lines + more) + "\n")
        print(f"\nrecorded in {os.path.relpath(path, ROOT)}.json and .md")


if __name__ == "__main__":
    main()

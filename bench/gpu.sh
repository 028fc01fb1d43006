#!/bin/sh
# Spectra per second on a GPU, ours beside PyTorch's, without R: results.json and results.md in OUT, the most telling first, so that
# a run that is broken off still says something. About five minutes with all parts.
#
#   sh bench/gpu.sh OUT [PART ...]      PART: ours, peer, more, kernels; all of them unless named
#
# BENCH names a program built before; otherwise it is built, with nvcc and gcc, from the sources that need neither CFITSIO nor a BLAS.
# The peer needs python3 with PyTorch, the table of kernels Nsight Compute (ncu).
set -u
[ $# -ge 1 ] || { echo "usage: sh bench/gpu.sh OUT [ours] [peer] [more] [kernels]" >&2; exit 2; }
cd "$(dirname "$0")/.." || exit 1
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 1
shift
parts=${*:-ours peer more kernels}
lines=$out/results.jsonl
touch "$lines"

bench=${BENCH:-build/gpu-bench/bench}
build() {
  nvcc=${NVCC:-${CUDA_HOME:+$CUDA_HOME/bin/}nvcc}
  command -v "$nvcc" > /dev/null 2>&1 || { echo "no $nvcc" >&2; return 1; }
  mkdir -p build/gpu-bench
  for source in src/core/*.c src/network/*.c src/data/*.c src/cpu/*.c bench/bench.c; do
    echo "${CC:-gcc} -std=gnu99 -O2 -fno-trapping-math -fno-math-errno -pthread -fopenmp-simd -DSPD_HAVE_OPENMP_SIMD -Isrc -c -o build/gpu-bench/$(echo "$source" | tr / -).o $source"
  done > build/gpu-bench/commands
  for source in src/cuda/*.cu; do
    echo "$nvcc -std=c++14 -O2 -arch=native -Isrc -c -o build/gpu-bench/$(echo "$source" | tr / -).o $source"
  done >> build/gpu-bench/commands
  xargs -P "$(nproc)" -I{} sh -c '{}' < build/gpu-bench/commands &&
    "$nvcc" -o build/gpu-bench/bench build/gpu-bench/*.o -lcublas -lpthread -lm
}
[ -n "${BENCH:-}" ] || build || exit 1
echo end | "$bench" train cuda:fp32 1 > /dev/null || exit 1 # says what is missing

# ours MODE PRECISION BATCH [sr] [small]: the median of five rounds, after one to warm up
ours() {
  mode=$1 precision=$2 batch=$3
  shift 3
  printf '%s\n' 16 16 16 16 16 16 end | timeout 60 "$bench" "$mode" "cuda:$precision" "$batch" "$@" | head -n 6 | tail -n 5 | sort -n |
    awk -v mode="$mode" -v precision="$precision" -v batch="$batch" -v options="$*" 'NR == 3 {
      printf "{\"who\": \"spender\", \"mode\": \"%s\", \"batch\": %d, \"precision\": \"%s\", \"what\": \"%s\", \"grid\": \"%s\", \"rate\": %.0f}\n",
        mode, batch, precision, options ~ /small/ ? "filters 16, 32, 64" : "full size", options ~ /sr/ ? "SR" : "LR", 16 * batch / $1 }' |
    tee -a "$lines"
}
# peer MODE BATCH PRECISION LAYOUT HOW [sr]
peer() { timeout 150 python3 bench/gpu_peer.py "$@" 2> /dev/null | grep '^{' | tee -a "$lines"; }

for part in $parts; do
  case $part in
    ours)
      for precision in fp16 bf16 tf32 fp32; do ours train $precision 1024; done
      for precision in fp16 bf16 tf32 fp32; do ours encode $precision 1024; done
      ;;
    peer)
      peer train 1024 bf16 channels-last compiled
      peer encode 1024 bf16 channels-last compiled
      peer train 1024 fp16 channels-last compiled
      peer train 1024 fp32 channels-last compiled
      python3 bench/gpu_peer.py ceilings 2> /dev/null | grep '^{' | tee -a "$lines"
      peer train 1024 tf32 channels-last compiled
      peer train 1024 bf16 plain compiled
      peer train 1024 bf16 plain eager
      ;;
    more)
      for batch in 256 4096; do ours train fp16 $batch; ours encode fp16 $batch; done
      for batch in 1024 4096; do ours train fp16 $batch sr; done
      ours train fp16 1024 small
      ours reconstruct fp16 1024
      ;;
    kernels)
      command -v ncu > /dev/null 2>&1 || continue
      printf '%s\n' 16 end | timeout 100 ncu --clock-control none --metrics gpu__time_duration.sum,dram__bytes.sum --csv --launch-skip 300 \
        --launch-count 330 "$bench" train cuda:fp16 1024 2> /dev/null > "$out/kernels.csv"
      ;;
    *) echo "no part called $part" >&2 ;;
  esac
done
python3 bench/gpu_table.py "$out" > "$out/results.md" && cat "$out/results.md"

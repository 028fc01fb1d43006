#!/bin/sh
# Spectra per second of the full-size network on a GPU, no R: each mode and precision three times, and where a step's time goes.
# Uses the objects that "tests/core/run.sh --cuda" leaves in build/core/gpu.
set -u
cd "$(dirname "$0")/.." || exit 1
nvcc=${NVCC:-${CUDA_HOME:+$CUDA_HOME/bin/}nvcc}
${CC:-gcc} -O2 -std=gnu99 -fopenmp -DSPD_HAVE_OPENMP -Isrc -c -o build/core/gpu-bench.o bench/bench.c || exit 1
objects=$(ls build/core/gpu/*.o | grep -v sdss)
# with CBLAS where those objects want it
link() { "$nvcc" -o build/core/gpu-bench build/core/gpu-bench.o $objects -lcublas -Xcompiler -fopenmp "$@" -lm; }
link -lopenblas 2> /dev/null || link || exit 1

echo end | build/core/gpu-bench train cuda:fp32 1 > /dev/null || exit 1 # says what is missing

# rate MODE DEVICE BATCH [sr]: the best and the median of five rounds of 20 steps, after one to warm up
rate() {
  printf '%s\n' 5 20 20 20 20 20 end | build/core/gpu-bench "$@" | head -n 6 | tail -n 5 | sort -n |
    awk -v batch="$3" -v name="$*" 'NR == 1 { best = $1 } NR == 3 { middle = $1 }
      END { printf "%-28s %9.0f spectra/s (best %.0f)\n", name, 20 * batch / middle, 20 * batch / best }'
}
for precision in fp32 tf32 bf16; do rate train cuda:$precision 1024; done
rate train cuda:bf16 256
rate train cuda:bf16 1024 sr
for precision in fp32 tf32 bf16; do rate encode cuda:$precision 1024; done
rate reconstruct cuda:tf32 1024
for precision in tf32 bf16; do
  echo "one step of 1024 in $precision, seconds of ten:"
  printf '%s\n' 5 'stages 10' end | build/core/gpu-bench train cuda:$precision 1024 | sed -n 2p | tr ',' '\n' | sed 's/^ */  /'
done

#!/bin/sh
# Everything that only a machine with an NVIDIA GPU can show, in under 8 minutes: the CUDA backend's tests, compute-sanitizer, the
# package's tests, training on the GPU against training on the CPU, a short benchmark. Needs nvcc, gcc, and R for what is in R;
# SPENDER_REFERENCE as for the other tests. Every part writes a log into OUT, and summary.md says how it ended.
#
#   sh tools/gpu-check.sh OUT
set -u
[ $# -eq 1 ] || { echo "usage: sh tools/gpu-check.sh OUT" >&2; exit 2; }
cd "$(dirname "$0")/.." || exit 1
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 1
export SPENDER_TEST_CUDA=1 LC_ALL=C.UTF-8 MAKEFLAGS="-j$(nproc)"
failed=0
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2> /dev/null | head -n 1)
{
  echo "# ${gpu:-no GPU}, $(date +%F)"
  echo
  echo "commit $(git rev-parse --short HEAD 2> /dev/null), CUDA $(nvcc --version 2> /dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p'), $(nproc) cores"
  echo
  echo "| part | seconds | status | last line |"
  echo "|---|---|---|---|"
} > "$out/summary.md"

# part NAME SECONDS COMMAND...
part() {
  name=$1 limit=$2
  shift 2
  start=$(date +%s)
  timeout "$limit" "$@" > "$out/$name.log" 2>&1
  status=$?
  [ $status -eq 0 ] || failed=$((failed + 1))
  echo "| $name | $(($(date +%s) - start)) | $status | $(tail -n 1 "$out/$name.log" | tr '|' '/') |" | tee -a "$out/summary.md"
}

part core 120 sh tests/core/run.sh --cuda
# a real device's mistakes; the programs are built already, the wrapper stands before them
for tool in memcheck racecheck initcheck; do
  part "$tool" 90 env TESTS=stages WRAPPER="compute-sanitizer --tool $tool --error-exitcode 9" sh tests/core/run.sh --cuda
done
if command -v R > /dev/null 2>&1; then
  lib=$out/lib
  mkdir -p "$lib"
  part install 120 R CMD INSTALL --no-test-load --configure-args=--with-cuda=yes --library="$lib" .
  rm -f src/*.o src/*/*.o src/*.so src/Makevars
  cp -R tests/testthat "$out/testthat"
  part package 150 env R_LIBS="$lib" NOT_CRAN=true Rscript --vanilla tools/testthat.R "$out/testthat"
  part training 120 env R_LIBS="$lib" Rscript --vanilla bench/gpu-training.R
  rm -rf "$lib" "$out/testthat"
else echo "| package | | skipped: no R | |" >> "$out/summary.md"
fi
part benchmark 90 sh bench/gpu.sh
{
  [ ! -f "$out/training.log" ] || { echo; echo '```'; cat "$out/training.log"; echo '```'; }
  echo; echo '```'; cat "$out/benchmark.log"; echo '```'
} >> "$out/summary.md"
echo "$failed parts failed; see $out/summary.md"
[ $failed -eq 0 ]

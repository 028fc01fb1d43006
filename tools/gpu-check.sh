#!/bin/sh
# What only a machine with an NVIDIA GPU can show, in parts of under 8 minutes each, the most telling first: the CUDA backend's tests,
# its rates, compute-sanitizer, the package's tests and trainings on the GPU against the CPU's, PyTorch beside. Needs nvcc, gcc, and R
# for what is in R; SPENDER_REFERENCE as for the other tests. Every part writes a log into OUT, and summary.md says how it ended.
#
#   sh tools/gpu-check.sh OUT [PART ...]      PART: core, rates, sanitizers, package, peer; all unless named
set -u
[ $# -ge 1 ] || { echo "usage: sh tools/gpu-check.sh OUT [core] [rates] [sanitizers] [package] [peer]" >&2; exit 2; }
cd "$(dirname "$0")/.." || exit 1
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 1
shift
parts=${*:-core rates sanitizers package peer}
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

for wanted in $parts; do
  case $wanted in
    core) part core 240 sh tests/core/run.sh --cuda ;;
    rates)
      part rates 150 sh bench/gpu.sh "$out" ours
      part rates-more 150 sh bench/gpu.sh "$out" more kernels
      ;;
    sanitizers) # a real device's mistakes; the programs of `core` are built already, the wrapper stands before them
      for tool in memcheck racecheck initcheck; do
        part "$tool" 150 env TESTS=stages WRAPPER="compute-sanitizer --tool $tool --error-exitcode 9" sh tests/core/run.sh --cuda
      done
      ;;
    package)
      if command -v R > /dev/null 2>&1; then
        lib=$out/lib
        mkdir -p "$lib"
        part install 120 R CMD INSTALL --no-test-load --configure-args=--with-cuda=yes --library="$lib" .
        rm -f src/*.o src/*/*.o src/*.so src/Makevars
        for device in cpu cuda; do # what "auto" is in the tests
          cp -R tests/testthat "$out/testthat"
          part package-$device 200 env R_LIBS="$lib" NOT_CRAN=true SPENDER_DEVICE=$device Rscript --vanilla tools/testthat.R "$out/testthat"
          rm -rf "$out/testthat"
        done
        part training 150 env R_LIBS="$lib" Rscript --vanilla bench/gpu-training.R
        rm -rf "$lib"
      else echo "| package | | skipped: no R | |" >> "$out/summary.md"
      fi
      ;;
    peer) part peer 450 sh bench/gpu.sh "$out" peer ;;
    *) echo "no part called $wanted" >&2 ;;
  esac
done
{
  for log in training rates-more peer; do
    [ ! -f "$out/$log.log" ] || { echo; echo '```'; cat "$out/$log.log"; echo '```'; }
  done
} >> "$out/summary.md"
echo "$failed parts failed; see $out/summary.md"
[ $failed -eq 0 ]

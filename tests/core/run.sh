#!/bin/sh
# Builds and runs the tests of the core, without R, out of tree in build/core:
#   sanitized   every tests/core/test-*.c under ASan (with leaks) and UBSan
#   plain-gemm  the products in a build without CBLAS
#   release     the numerical ones as configure builds them (-O2, loops for several processors)
#   races       threads: the pool, stages and training on it, and the reader, under TSan
#   valgrind    the small ones
#   cuda        the CUDA backend on a device simulated by the CPU (cuda-on-cpu/device.h), sanitized and not
#   arm64       the numerical ones, cross-compiled and run by qemu-aarch64
#
#   sh tests/core/run.sh [--quick | --cuda]      --quick: sanitized only; --cuda: the CUDA backend on a real GPU only
#
# TESTS="stages survey" runs only these. On a GPU: NVCC and CUDA_HOME as for configure; WRAPPER ("compute-sanitizer ...") is put before each
# program.
#
# Prints what fails, one summary per program with its seconds, and in the end the sum: "N passed, N failed, N skipped". A program that
# runs longer than TEST_SECONDS (600) is ended with SIGABRT and counts as a failure.
set -u
cd "$(dirname "$0")/../.." || exit 1
export LC_ALL=C
quick=no gpu=no
case ${1:-} in
  --quick) quick=yes ;;
  --cuda) gpu=yes ;;
esac

cc=${CC:-gcc}
warnings='-std=gnu99 -Wall -Wextra -Werror -Werror=missing-field-initializers -fno-common'
build=build/core
jobs=$(nproc 2> /dev/null || echo 2)
limit=$(command -v timeout > /dev/null 2>&1 && echo "timeout --signal=ABRT --kill-after=20 ${TEST_SECONDS:-600}")
passed=0 failed=0 skipped=0
mkdir -p "$build" || exit 1

fail() { failed=$((failed + 1)); echo "not ok $*"; }
skip() { skipped=$((skipped + 1)); echo "skip $*"; }

# probe FLAGS LIBS < program
lane=''
probe() {
  cat > "$build/probe$lane.c"
  # shellcheck disable=SC2086
  $cc $1 -o "$build/probe$lane" "$build/probe$lane.c" $2 > "$build/probe$lane.log" 2>&1 && "$build/probe$lane" >> "$build/probe$lane.log" 2>&1
}

if ! command -v "$cc" > /dev/null 2>&1; then
  fail "no C compiler called $cc"
  echo "$passed passed, $failed failed, $skipped skipped"
  exit 1
fi

common='-Isrc -Itests/core -pthread' libs='-lm -pthread'
if probe -fopenmp-simd '' <<'C'
int main(void) { int n = 0;
#pragma omp simd reduction(+:n)
  for (int i = 0; i < 9; i++) n += i;
  return n != 36; }
C
then common="$common -fopenmp-simd -DSPD_HAVE_OPENMP_SIMD"
fi
fits_cflags=$(pkg-config --cflags cfitsio 2>/dev/null)
fits_libs=$(pkg-config --libs cfitsio 2>/dev/null || echo -lcfitsio)
if probe "$fits_cflags" "$fits_libs" <<'C'
#include <fitsio.h>
int main(void) { float v; return fits_get_version(&v) <= 0; }
C
then common="$common $fits_cflags -DSPD_HAVE_CFITSIO" libs="$fits_libs $libs"
  if probe '' -lz <<'C'
#include <zlib.h>
int main(void) { return zlibVersion()[0] == 0; }
C
  then common="$common -DSPD_HAVE_ZLIB" libs="$libs -lz"; fi
fi
blas='' blas_libs=''
if probe '' "${CBLAS_LIBS:--lopenblas}" <<'C'
void cblas_sgemm(int, int, int, int, int, int, float, const float *, int, const float *, int, float, float *, int);
int main(void) { float a[4] = {1, 2, 3, 4}, c[4];
cblas_sgemm(101, 111, 111, 2, 2, 2, 1, a, 2, a, 2, 0, c, 2); return c[0] != 7; }
C
then blas='-DSPD_HAVE_CBLAS' blas_libs=${CBLAS_LIBS:--lopenblas}
else skip "CBLAS: no OpenBLAS to compare products with"
fi
sanitizers='-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all'
if ! probe "$sanitizers" "$sanitizers" <<'C'
int main(void) { return 0; }
C
then
  skip "sanitizers: a program built with them does not run here ($(head -n 1 "$build/probe$lane.log"))"
  sanitizers='-O1 -g'
fi

# compile VARIANT FLAGS [COMPILER [LIKE OBJECT...]]: all sources of the core, some at a time; a source that fails leaves its log. COMPILER is
# the command for the .cu files; without it the build has no CUDA. LIKE: a variant that has been compiled, of which all objects but those
# named are taken.
compile() {
  variant=$1 flags=$2 compiler=${3:-} like=${4:-}
  mkdir -p "$build/$variant"
  rm -f "$build/$variant"/*
  if [ -n "$like" ]; then
    shift 4
    [ ! -f "$build/$like/broken" ] || return 1 # has been counted
    cp "$build/$like"/*.o "$build/$variant"
    for object in "$@"; do rm -f "$build/$variant/$object.o"; done
  fi
  sources='src/core/*.c src/data/*.c src/measure/*.c src/network/*.c src/density/*.c src/cpu/*.c src/cuda/none.c src/mpi/none.c src/nccl/none.c'
  [ -z "$compiler" ] || sources='src/core/*.c src/data/*.c src/measure/*.c src/network/*.c src/density/*.c src/cpu/*.c src/cuda/*.cu src/nccl/none.c'
  [ "$variant" != cuda ] && [ "$variant" != cuda-release ] || sources="${sources% *} src/nccl/nccl.cu tests/core/cuda-on-cpu/*.cpp"
  for source in $sources; do
    object=$(echo "${source#src/}" | tr / -)
    object=${object%.*}
    [ -z "$like" ] || [ ! -f "$build/$variant/$object.o" ] || continue
    case $source in
      *.c) command="$cc $warnings $common $flags" ;;
      */threads.cpp) command="$compiler -O2 -fno-sanitize=all" ;;
      *) command=$compiler ;;
    esac
    echo "$command -c -o $build/$variant/$object.o $source 2> $build/$variant/$object.log || echo '$source' >> $build/$variant/broken"
  done | xargs -P "$jobs" -I{} sh -c '{}'
  [ ! -f "$build/$variant/broken" ] && return 0
  while read -r source; do
    fail "$variant: $source does not compile"
    object=$(echo "${source#src/}" | tr / -)
    sed 's/^/    /' "$build/$variant/${object%.*}.log"
  done < "$build/$variant/broken"
  return 1
}

# run VARIANT TEST FLAGS LIBS [WRAPPER]: builds the test program, runs it, adds its numbers to the sums. $link links it.
link=$cc
run() {
  variant=$1 name=$2 flags=$3 links=$4 wrapper=${5:-}
  log=$build/$variant/$name${wrapper:+-wrapped}.log
  program=$build/$variant/test-$name
  # shellcheck disable=SC2086
  if [ ! -x "$program" ] &&
     ! { $cc $warnings -Wno-maybe-uninitialized $common $flags -c -o "$build/$variant-$name.o" "tests/core/test-$name.c" &&
         $link $flags -o "$program" "$build/$variant-$name.o" "$build/$variant"/*.o $links; } > "$log" 2>&1; then
    fail "$variant $name: does not build"
    sed 's/^/    /' "$log"
    return
  fi
  start=$(date +%s)
  # shellcheck disable=SC2086
  ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1 $limit $wrapper "$program" > "$log" 2>&1
  status=$?
  seconds=$(($(date +%s) - start))
  summary=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -n 1)
  if [ -z "$summary" ]; then
    fail "$variant $name: ended with status $status and no summary after $seconds s"
    tail -n 40 "$log" | sed 's/^/    /'
    return
  fi
  # shellcheck disable=SC2046
  set -- $(echo "$summary" | tr -cd '0-9 ')
  passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
  echo "$variant $name: $summary ($seconds s)"
  grep -E '^(not ok|skip) ' "$log" | head -n 40 | sed 's/^/    /'
  if [ "$2" -eq 0 ] && [ $status -ne 0 ]; then # a leak, or an error that valgrind saw
    fail "$variant $name: ended with status $status"
    grep -vE '^(not ok|skip) ' "$log" | tail -n 40 | sed 's/^/    /'
  fi
}

names=${TESTS:-$(for file in tests/core/test-*.c; do basename "$file" .c | sed 's/^test-//'; done)}
among() { for candidate in $names; do [ "$candidate" = "$1" ] && return 0; done; return 1; }

if [ $gpu = yes ]; then
  nvcc=${NVCC:-${CUDA_HOME:+$CUDA_HOME/bin/}nvcc}
  if ! command -v "$nvcc" > /dev/null 2>&1; then skip "CUDA: no $nvcc"
  elif { [ -n "${WRAPPER:-}" ] && [ -x build/core/gpu/test-stages ]; } ||
       compile gpu "-O2 $blas" "$nvcc -std=c++14 -O2 -lineinfo -arch=native -Isrc -Werror all-warnings -Xcompiler -Wall,-Wextra"; then
    link=$nvcc
    for name in ${TESTS:-stages invariance gradients reference cuda repeat refine infer joint}; do
      run gpu "$name" '' "-lcublas $blas_libs $(echo "$libs" | sed 's/-pthread/-lpthread/')" "${WRAPPER:-}"
    done
  fi
  echo "$passed passed, $failed failed, $skipped skipped"
  [ $failed -eq 0 ]
  exit $?
fi

sanitized() {
  [ ! -f "$build/sanitized/broken" ] || return
  for name in $names; do run sanitized "$name" "$sanitizers $blas" "$blas_libs $libs"; done
}

plain_gemm() {
  if [ -n "$blas" ] && compile plain-gemm "$sanitizers" '' sanitized cpu-gemm; then
    among product && run plain-gemm product "$sanitizers" "$libs"
  fi
}

# The two builds are steps of their own, so that each lane has one.
cuda="g++ -x c++ -std=c++17 -DCUDA_GROUP_BYTES=20000 -DCUDA_FOURIER_BYTES=60000 -DCUDA_FOURIER_CHANNELS=2 -DCUDA_LARGE_LAYER=64 -Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-clobbered -Itests/core/cuda-on-cpu -Isrc $blas"
played_cuda() {
  if ! command -v g++ > /dev/null 2>&1; then
    skip "CUDA on the CPU: no g++"
    return
  fi
  link=g++
  if compile cuda "$sanitizers $blas -DTEST_CUDA_ON_CPU" "$cuda -DCUDA_KEPT_ARENA=256 $sanitizers" sanitized cuda-none nccl-none; then
    for name in stages invariance cuda repeat refine nccl infer joint; do among $name && run cuda $name "$sanitizers $blas -DTEST_CUDA_ON_CPU" "$blas_libs $libs"; done
  fi
  link=$cc
}
played_cuda_release() {
  command -v g++ > /dev/null 2>&1 || return # played_cuda has said so
  link=g++
  if compile cuda-release "-O2 $blas -DTEST_CUDA_ON_CPU" "$cuda -O2" release cuda-none nccl-none; then
    for name in gradients reference cuda repeat refine; do among $name && run cuda-release $name "-O2 $blas -DTEST_CUDA_ON_CPU" "$blas_libs $libs"; done
  fi
  link=$cc
}

release() {
  clones=''
  probe '' '' <<'C' && clones=-DSPD_HAVE_TARGET_CLONES
__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
void axpy(float *y, const float *x, int n) { for (int i = 0; i < n; i++) y[i] += 2 * x[i]; }
int main(void) { float y[9] = {0}, x[9] = {1}; axpy(y, x, 9); return y[0] != 2; }
C
  release="-O2 -g -fno-trapping-math -fno-math-errno $blas $clones"
  compile release "$release" || return
  for name in stages invariance gradients reference threads train joint pieces refine fourier product rows flow; do
    among $name && run release $name "$release" "$blas_libs $libs"
  done
  # whatever OpenBLAS takes the processor for
  for core in ${blas:+Prescott Haswell SkylakeX}; do
    echo "OPENBLAS_CORETYPE=$core"
    for name in product gradients; do among $name && run release $name "$release" "$blas_libs $libs" "env OPENBLAS_CORETYPE=$core"; done
  done
}

races() {
  races='-O1 -g -fsanitize=thread'
  if ! probe "$races" "$races" <<'C'
int main(void) { return 0; }
C
  then skip "races: a program built with -fsanitize=thread does not run here"
  elif compile races "$races"; then
    for name in reader pool threads train joint pieces infer flow; do among $name && run races $name "$races" "$libs"; done
  fi
}

under_valgrind() {
  if ! command -v valgrind > /dev/null 2>&1; then skip "valgrind: not installed"
  elif [ ! -f "$build/release/broken" ]; then
    echo "under valgrind"
    for name in stages safetensors survey simulate; do
      among $name && run release $name "$release" "$blas_libs $libs" \
        'valgrind --quiet --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite'
    done
  fi
}

arm64() {
  if ! command -v aarch64-linux-gnu-gcc > /dev/null 2>&1 || ! command -v qemu-aarch64 > /dev/null 2>&1; then
    skip "arm64: no aarch64-linux-gnu-gcc or no qemu-aarch64"
    return
  fi
  cc=aarch64-linux-gnu-gcc link=aarch64-linux-gnu-gcc
  common=$(echo "$common" | sed "s|$fits_cflags -DSPD_HAVE_CFITSIO||; s|-DSPD_HAVE_ZLIB||")
  if compile arm64 "-O2 -fno-trapping-math -fno-math-errno"; then
    for name in stages invariance gradients fourier product threads train; do
      among $name && run arm64 $name "-O2" "-static -lm -pthread" qemu-aarch64
    done
  fi
}

# lane NAME STEP...: in a shell of its own, whose sums are left in build/core/NAME.sums
lane() {
  lane=$1 passed=0 failed=0 skipped=0
  shift
  for step in "$@"; do $step; done
  echo "$passed $failed $skipped" > "$build/$lane.sums"
}

compile sanitized "$sanitizers $blas" # for both lanes
if [ $quick = yes ]; then sanitized
else # most programs use one core: two at a time
  rm -f "$build"/*.sums
  lane first sanitized plain_gemm release under_valgrind races played_cuda_release &
  lane second played_cuda arm64 &
  wait
  for lane in first second; do
    if read -r more_passed more_failed more_skipped < "$build/$lane.sums"; then
      passed=$((passed + more_passed)) failed=$((failed + more_failed)) skipped=$((skipped + more_skipped))
    else fail "the $lane lane of tests did not come to its end"
    fi
  done
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]

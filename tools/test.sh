#!/bin/sh
# Runs all tests: the core alone, the installed package, R CMD check, and a few rules of style. The last line is
# "N passed, N failed, N skipped", whatever happened before it.
#
#   sh tools/test.sh [--quick]      --quick: the core under sanitizers, the package's tests and the style only
#
# SPENDER_DATA and SPENDER_REFERENCE name folders of real spectra and reference tensors; without them (and without
# ../shared/data, ../shared/reference) what needs them is skipped.
set -u
cd "$(dirname "$0")/.." || exit 1
root=$(pwd)
quick=''
case ${1:-} in
  --quick) quick=--quick ;;
  '') ;;
  *) echo "usage: sh tools/test.sh [--quick]" >&2; exit 2 ;;
esac
export LC_ALL=C.UTF-8 OMP_THREAD_LIMIT=2 MAKEFLAGS=-j2
[ -n "${SPENDER_DATA:-}" ] || { [ -d ../shared/data ] && SPENDER_DATA=$(cd ../shared/data && pwd) && export SPENDER_DATA; }
[ -n "${SPENDER_REFERENCE:-}" ] || { [ -d ../shared/reference ] && SPENDER_REFERENCE=$(cd ../shared/reference && pwd) && export SPENDER_REFERENCE; }

passed=0 failed=0 skipped=0
pass() { passed=$((passed + 1)); echo "ok $*"; }
fail() { failed=$((failed + 1)); echo "not ok $*"; }
begun=$(date +%s)
step() { printf '\n== %s (after %s s)\n' "$*" $(($(date +%s) - begun)); }
# add LINE: "N passed, N failed, N skipped"
add() {
  # shellcheck disable=SC2046
  set -- $(echo "$1" | tr -cd '0-9 ')
  passed=$((passed + ${1:-0})) failed=$((failed + ${2:-0})) skipped=$((skipped + ${3:-0}))
}
summary='^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$'
finish() {
  printf '\n%s passed, %s failed, %s skipped\n' $passed $failed $skipped
  [ $failed -eq 0 ]
  exit $?
}
trap 'fail "stopped by a signal"; finish' INT TERM

mkdir -p build
step "set-up"
if sh tools/setup.sh tests; then pass "set-up"; else fail "set-up"; finish; fi

step "style"
found=$(grep -rnE '#[[:space:]]*include[[:space:]]*[<"](R\.h|Rinternals\.h|Rdefines\.h|Rmath\.h|R_ext/)' src/core src/data src/measure src/network src/cpu src/cuda src/mpi src/nccl 2> /dev/null)
if [ -z "$found" ]; then pass "no R header below the glue"; else fail "R headers below the glue:"; echo "$found"; fi
found=$(grep -rnE -e '-ffast-math|-march=native|omp_set_num_threads|openmp.*omp_set_dynamic' configure src 2> /dev/null | grep -v '\.o:' || true)
if [ -z "$found" ]; then pass "no flag or call that changes arithmetic or the process"; else fail "ruled-out flags or calls:"; echo "$found"; fi
# a path of somebody's machine: a home, or wherever this checkout stands
sources=$(git ls-files --cached --others --exclude-standard 2> /dev/null || find . -type f -not -path './build/*' -not -path './.git/*')
homes="/home/[a-z]|/Users/[A-Za-z]|${HOME:-/home}/"
parent=$(dirname "$root")
[ "$parent" = / ] || homes="$homes|$parent/[a-z]"
found=$(printf '%s\n' "$sources" | grep -vE '\.(png|fits|rds|safetensors|gz)$' | tr '\n' '\0' |
        xargs -0 grep -nIE "(^|[^A-Za-z0-9_./~-])($homes)" 2> /dev/null |
        grep -vE '^(\./)?tools/test\.sh:')
if [ -z "$found" ]; then pass "no absolute path"; else fail "absolute paths:"; echo "$found"; fi

# the version that .clang-format was written for; others format some lines differently
if ! command -v clang-format > /dev/null 2>&1 || ! clang-format --version | grep -q ' version 14\.'; then
  skipped=$((skipped + 1)); echo "skip format of C: no clang-format 14"
elif printf '%s\n' "$sources" | grep -E '\.(c|h|cu|cpp)$' | xargs clang-format --dry-run -Werror > build/format.log 2>&1; then pass "format of C"
else fail "clang-format -i would change:"; grep -E 'error:' build/format.log | head -n 20
fi
if ! Rscript --vanilla -e 'quit(status = !requireNamespace("lintr", quietly = TRUE))' > /dev/null 2>&1; then
  skipped=$((skipped + 1)); echo "skip style of R: no lintr"
elif Rscript --vanilla tools/lint.R > build/lint.log 2>&1; then pass "style of R"
else fail "style of R:"; head -n 20 build/lint.log
fi

step "the core alone"
{ sh tests/core/run.sh $quick 2>&1; echo $? > build/core.status; } | tee build/core.log
status=$(cat build/core.status)
line=$(tail -n 1 build/core.log | grep -E "$summary")
if [ -n "$line" ]; then
  add "$line"
else fail "tests/core/run.sh ended with status $status and no summary"
fi

step "build and install"
rm -rf build/package build/lib build/testthat
mkdir -p build/package build/lib
tarball=''
if (cd build/package && SPENDER_CUDA_ARCH=80 R CMD build --no-manual "$root") > build/build.log 2>&1; then
  tarball=$(ls build/package/spender_*.tar.gz)
  pass "R CMD build: $(basename "$tarball"), $(($(wc -c < "$tarball") / 1024)) kB"
else
  fail "R CMD build"
  tail -n 40 build/build.log
fi
installed=no
if [ -n "$tarball" ]; then
  start=$(date +%s)
  if SPENDER_CUDA_ARCH=80 R CMD INSTALL --library=build/lib "$tarball" > build/install.log 2>&1; then
    installed=yes
    pass "R CMD INSTALL: $(($(date +%s) - start)) s"
    sed -n '/spender is built with/,/loops/p' build/install.log
    found=$(grep -E 'warning( #[0-9A-Z-]+)?:' build/install.log)
    if [ -z "$found" ]; then pass "no compiler warning"; else fail "compiler warnings:"; echo "$found"; fi
  else
    fail "R CMD INSTALL"
    tail -n 40 build/install.log
  fi
fi

# Beside the package's tests, as each uses one core most of the time; looked at below. Nothing that needs a network, a clock server or
# LaTeX. Without CUDA, as at CRAN; the installation above has it, if nvcc is here.
if [ -z "$quick" ] && [ -n "$tarball" ]; then
  _R_CHECK_FORCE_SUGGESTS_=true _R_CHECK_CRAN_INCOMING_REMOTE_=false _R_CHECK_SYSTEM_CLOCK_=false _R_CHECK_LIMIT_CORES_=true \
    R CMD check --as-cran --install-args=--configure-args=--with-cuda=no --no-manual --output=build/package "$tarball" > build/check.log 2>&1 &
  check=$!
fi

if [ $installed = yes ]; then
  step "the package"
  cp -R tests/testthat build/testthat # tests write snapshots beside themselves; the sources stay as they are
  R_LIBS="$root/build/lib${R_LIBS:+:$R_LIBS}" SPENDER_VECTORS="$root/tests/core/vectors" NOT_CRAN=true Rscript --vanilla tools/testthat.R build/testthat > build/testthat.log 2>&1
  status=$?
  cat build/testthat.log
  line=$(tail -n 1 build/testthat.log | grep -E "$summary")
  if [ -n "$line" ]; then
    add "$line"
  else fail "the package's tests ended with status $status and no summary"
  fi
  if diff -r tests/testthat/_snaps build/testthat/_snaps > build/snapshots.log 2>&1 || [ ! -d build/testthat/_snaps ]; then
    pass "snapshots are those of the sources"
  else
    fail "snapshots differ from the sources' (new ones are made by testthat::test_local()):"
    head -n 40 build/snapshots.log
  fi
fi

if [ $installed = yes ] && [ -z "$quick" ]; then
  step "site"
  if ! Rscript --vanilla -e 'quit(status = !requireNamespace("pkgdown", quietly = TRUE))' > /dev/null 2>&1; then
    skipped=$((skipped + 1)); echo "skip site: no pkgdown"
  elif sh tools/site.sh build/lib > build/links.log 2>&1; then pass "site: $(paste -s -d ";" build/links.log)"
  else fail "site:"; tail -n 20 build/links.log
  fi
fi

if [ $installed = yes ]; then
  for killed in training predict; do
    step "kill-$killed"
    R_LIBS="$root/build/lib${R_LIBS:+:$R_LIBS}" Rscript --vanilla tests/faults/kill-$killed.R 4 > build/kills.log 2>&1
    cat build/kills.log
    line=$(tail -n 1 build/kills.log | grep -E "$summary")
    if [ -n "$line" ]; then add "$line"; else fail "tests/faults/kill-$killed.R ended without a summary"; fi
  done
fi

if [ -z "$quick" ] && [ -n "$tarball" ]; then
  step "R CMD check"
  wait "$check"
  status=$?
  log=build/package/spender.Rcheck/00check.log
  if ! grep -q '^Status:' $log 2> /dev/null; then
    fail "R CMD check ended with status $status and no Status line"
    tail -n 40 build/check.log
  else
    # "* checking X ... NOTE" and its cousins. An allowed NOTE stands in cran-comments.md as "- checking X ... NOTE" with a reason.
    grep -E '^\* .*\.\.\. (\[[^]]*\] )?(WARNING|ERROR|NOTE)$' $log | sed -E 's/ \[[^]]*\]//' > build/check-findings
    while read -r finding; do
      item=${finding#\* }
      case $item in
        *NOTE) if grep -qxF -- "- $item" cran-comments.md 2> /dev/null; then pass "allowed: $item"; continue; fi ;;
      esac
      fail "R CMD check: $item"
      awk -v item="* ${item% *}" 'index($0, "* ") == 1 { on = index($0, item) == 1 } on' $log | head -n 40
    done < build/check-findings
    grep -qE 'WARNING|ERROR' build/check-findings || pass "R CMD check: $(grep '^Status:' $log)"
  fi
fi
finish

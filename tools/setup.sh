#!/bin/sh
# Makes sure that what building, testing and the demo need is there. Installs with apt where that needs no password; otherwise
# says what to install and ends with status 1. Quick when nothing is missing.
#
#   sh tools/setup.sh [tests]      tests: also what only the tests use
set -u

packages=''
need() { packages="$packages $1"; }

command -v R > /dev/null 2>&1 || need r-base-dev
command -v gcc > /dev/null 2>&1 || need gcc
command -v make > /dev/null 2>&1 || need make
command -v pkg-config > /dev/null 2>&1 || need pkg-config
command -v pandoc > /dev/null 2>&1 || need pandoc
command -v python3 > /dev/null 2>&1 || need python3 # the tests' web server
command -v valgrind > /dev/null 2>&1 || need valgrind
# R CMD check --as-cran complains where these are missing
command -v tidy > /dev/null 2>&1 || need tidy
command -v qpdf > /dev/null 2>&1 || need qpdf
command -v checkbashisms > /dev/null 2>&1 || need devscripts
# Wanted but not needed: tests of style, the site, ranks, and the core for arm64, skip without these.
wanted=''
if [ "${1:-}" = tests ]; then # style, ranks, site
  command -v clang-format > /dev/null 2>&1 || wanted="$wanted clang-format"
  command -v mpicc > /dev/null 2>&1 && command -v mpirun > /dev/null 2>&1 || wanted="$wanted libopenmpi-dev openmpi-bin"
  for name in lintr pkgdown; do
    Rscript --vanilla -e 'quit(status = !requireNamespace(commandArgs(TRUE), quietly = TRUE))' $name > /dev/null 2>&1 || wanted="$wanted r-cran-$name"
  done
fi
if [ "${1:-}" = tests ] && [ "$(uname -m)" = x86_64 ]; then
  command -v aarch64-linux-gnu-gcc > /dev/null 2>&1 || wanted="$wanted gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
  command -v qemu-aarch64 > /dev/null 2>&1 || wanted="$wanted qemu-user"
fi
browser='' # pages are tested in one; Ubuntu has no such package, and those tests skip
if [ "${1:-}" = tests ] && ! command -v chromium > /dev/null 2>&1 && ! command -v google-chrome > /dev/null 2>&1; then browser=chromium; fi
pkg-config --exists openblas 2> /dev/null || need libopenblas-dev
pkg-config --exists cfitsio 2> /dev/null || need libcfitsio-dev
r_packages='cli curl generics jsonlite ggplot2 knitr minpack.lm rmarkdown testthat tibble uwot withr'
if command -v R > /dev/null 2>&1; then
  # shellcheck disable=SC2046
  for missing in $(Rscript --vanilla -e 'p <- commandArgs(TRUE); cat(p[!p %in% rownames(installed.packages())])' $r_packages); do
    need "r-cran-$missing"
  done
  # without its headers and compiler settings R cannot build packages
  [ -f "$(R RHOME)/etc/Makeconf" ] && [ -f "$(R CMD config --cppflags 2> /dev/null | sed 's/^-I//; s/ .*//')/R.h" ] || need r-base-dev
else
  for name in $r_packages; do need "r-cran-$name"; done
fi
[ -z "$packages$wanted$browser" ] && exit 0

as_root=''
if ! command -v apt-get > /dev/null 2>&1; then as_root=no
elif [ "$(id -u)" -ne 0 ]; then
  if command -v sudo > /dev/null 2>&1 && sudo -n true 2> /dev/null; then as_root='sudo -n'; else as_root=no; fi
fi
[ "$as_root" = no ] && [ -z "$packages" ] && exit 0
if [ "$as_root" = no ]; then
  cat >&2 <<T
Missing:$packages
These are names of Debian and Ubuntu packages. As root:
  apt-get update && apt-get install -y$packages
Elsewhere: R (4.1 or newer) with a C compiler and make, the R packages $r_packages
  (install.packages(c("$(echo $r_packages | sed 's/ /", "/g')"))), pandoc, pkg-config, OpenBLAS, CFITSIO,
  valgrind, tidy, qpdf and checkbashisms.
T
  exit 1
fi
packages="$packages$wanted"
echo "Installing:$packages${browser:+ $browser}"
install() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" > /dev/null; }
$as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q > /dev/null
# shellcheck disable=SC2086
if [ -n "$packages" ] && ! install $packages; then
  echo "apt-get could not install:$packages" >&2
  exit 1
fi
if [ -n "$browser" ] && ! install "$browser"; then echo "No $browser to install: tests in a browser skip."; fi

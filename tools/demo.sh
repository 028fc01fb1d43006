#!/bin/sh
# From a fresh checkout to a trained model and pictures: installs what is missing, builds and installs the package into
# build/lib, and runs tools/demo.R, which writes to demo-output/.
#
#   sh tools/demo.sh [folder]      folder of SDSS files (spec-PLATE-MJD-FIBER.fits); else $SPENDER_DATA; else simulated spectra
set -eu
case ${1:-} in -*) echo "usage: sh tools/demo.sh [folder]" >&2; exit 2 ;; esac
folder=${1:-}
if [ -n "$folder" ]; then
  [ -d "$folder" ] || { echo "demo: there is no folder $folder" >&2; exit 2; }
  folder=$(cd "$folder" && pwd)
fi
if [ -n "${SPENDER_DATA:-}" ] && [ -d "$SPENDER_DATA" ]; then SPENDER_DATA=$(cd "$SPENDER_DATA" && pwd); export SPENDER_DATA; fi
cd "$(dirname "$0")/.."
root=$(pwd)

sh tools/setup.sh
mkdir -p build/lib build/package
echo "Building and installing into build/lib (log: build/install.log)"
rm -f build/package/spender_*.tar.gz
if ! (cd build/package && R CMD build --no-manual --no-build-vignettes "$root") > build/install.log 2>&1 ||
   ! MAKEFLAGS=-j$(getconf _NPROCESSORS_ONLN 2> /dev/null || echo 2) \
     R CMD INSTALL --no-docs --no-test-load --library=build/lib build/package/spender_*.tar.gz >> build/install.log 2>&1; then
  tail -n 30 build/install.log >&2
  exit 1
fi
R_LIBS="$root/build/lib${R_LIBS:+:$R_LIBS}" exec Rscript --vanilla tools/demo.R ${folder:+"$folder"}

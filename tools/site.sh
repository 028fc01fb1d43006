#!/bin/sh
# Builds the documentation site into build/site from the help pages and vignettes, and fails on a dead link. Needs pkgdown (Debian:
# r-cran-pkgdown), pandoc and python3; no network.
#
#   sh tools/site.sh [LIBRARY]      a library with the package as it is; without one it is installed to build/site-lib
set -u
cd "$(dirname "$0")/.." || exit 1
if ! Rscript --vanilla -e 'quit(status = !requireNamespace("pkgdown", quietly = TRUE))' > /dev/null 2>&1; then
  echo "No pkgdown: apt-get install r-cran-pkgdown, or install.packages(\"pkgdown\")" >&2
  exit 1
fi
mkdir -p build/site-lib
library=${1:-build/site-lib}
if [ $# -eq 0 ]; then
  R CMD INSTALL --preclean --clean --no-test-load --library=$library . > build/site.log 2>&1 || { tail -n 20 build/site.log; exit 1; }
fi
R_LIBS="$(cd "$library" && pwd)${R_LIBS:+:$R_LIBS}" Rscript tools/site.R > build/site.log 2>&1 || { tail -n 20 build/site.log; exit 1; }
python3 tools/check-links.py build/site

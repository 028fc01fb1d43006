#!/bin/sh
# Builds the documentation site into build/site from the help pages and vignettes, and fails on a dead link. Needs pkgdown (Debian:
# r-cran-pkgdown), pandoc and python3; no network. Where a Chromium is, the search is tried in it.
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
python3 tools/check-links.py build/site || exit 1

# the search, as a page from the disk has it
browser=$(command -v chromium || command -v google-chrome) || { echo "search not tried: no Chromium or Chrome"; exit 0; }
cat > build/site-steps.json <<T
[{"size": [1200, 900]}, {"open": "file://$(pwd)/build/site/reference/spender.html"}, {"wait": "document.querySelector('main .katex') !== null"},
 {"js": "document.getElementById('search-input').focus()"}, {"text": "read_model"},
 {"wait": "document.querySelectorAll('#found a').length > 0"}, {"key": "Enter"}, {"wait": "location.pathname.endsWith('write_model.html')"}]
T
python3 tests/testthat/browser.py "$browser" build/site-steps.json build > build/site-browser.json || exit 1
python3 - <<T
import json, sys
page = json.load(open("build/site-browser.json"))[-1]
wrong = page["console"] + [address for address in page["requests"] if not address.startswith("file:")]
print("search finds a page, without a request to elsewhere" if not wrong else wrong)
sys.exit(1 if wrong else 0)
T

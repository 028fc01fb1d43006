#!/bin/sh
# Damaged files: COUNT mutations of an SDSS spectrum, a survey and a model under ASan and UBSan, then, where there is clang, SECONDS of
# libFuzzer on each of our own parsers. The package must be where R finds it (it makes the good files).
#
#   sh tests/faults/files.sh [COUNT [SECONDS]]      default 10000 and 60. SPENDER_DATA: a folder with SDSS spectra; skipped without
set -u
cd "$(dirname "$0")/../.." || exit 1
count=${1:-10000} seconds=${2:-60}
build=build/faults
mkdir -p $build
sanitizers='-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all'
sources='src/core/*.c src/data/*.c'
# shellcheck disable=SC2046,SC2086
gcc -std=gnu99 -Wall -Wextra $sanitizers -Isrc -DSPD_HAVE_CFITSIO $(pkg-config --cflags cfitsio) -o $build/mutate tests/faults/mutate.c $sources \
  $(pkg-config --libs cfitsio) -pthread -lm || exit 1
Rscript --vanilla -e 'suppressPackageStartupMessages(library(spender)); folder <- commandArgs(TRUE)
  x <- simulate_spectra(6, instrument = instrument(seq(4000, 8000, by = 16)), seed = 1)
  invisible(write_survey(x, file.path(folder, "good.fits"), overwrite = TRUE))
  small <- spender_network(filters = c(4, 4, 4), kernels = c(5, 5, 5), encoder_hidden = 4, decoder_hidden = 4)
  write_model(spender(x, latents = 2, epochs = 1, network = small, threads = 1, progress = FALSE), file.path(folder, "good.safetensors"), overwrite = TRUE)' $build || exit 1
failed=0
for kind in survey model sdss; do
  case $kind in
    survey) file=$build/good.fits ;;
    model) file=$build/good.safetensors ;;
    sdss) file=$(find "${SPENDER_DATA:-/nonexistent}" -name 'spec-*.fits' 2> /dev/null | head -n 1) ;;
  esac
  [ -n "$file" ] || { echo "sdss: skipped, no spectrum in SPENDER_DATA"; continue; }
  printf '%s: ' $kind
  $build/mutate $kind "$file" "$count" 2> $build/$kind.log || failed=1
done
if command -v clang > /dev/null 2>&1; then
  for parser in survey model; do
    define='' example=good.fits
    [ $parser = survey ] || { define=-DMODEL; example=good.safetensors; }
    mkdir -p $build/corpus-$parser
    cp $build/$example $build/corpus-$parser/
    # shellcheck disable=SC2086
    clang -std=gnu99 -O1 -g -fsanitize=fuzzer,address,undefined -Isrc $define -o $build/fuzz-$parser tests/faults/fuzz.c src/core/*.c src/data/*.c -pthread \
      -lm 2> $build/fuzz-$parser.log || { echo "fuzz $parser: does not build"; failed=1; continue; }
    if $build/fuzz-$parser -max_total_time="$seconds" -rss_limit_mb=4096 -artifact_prefix=$build/ $build/corpus-$parser > $build/fuzz-$parser.log 2>&1; then
      echo "fuzz $parser: $(grep -c . $build/fuzz-$parser.log) lines, $(sed -n 's/^Done \([0-9]*\) runs.*/\1 runs/p' $build/fuzz-$parser.log), nothing found"
    else echo "fuzz $parser: found something, see $build/fuzz-$parser.log"; failed=1
    fi
  done
else echo "fuzz: no clang"
fi
exit $failed

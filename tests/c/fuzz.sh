#!/bin/bash
# Feed the C decoder random heads for SECONDS (default 60) under the address and undefined-behaviour sanitizers, with
# libFuzzer and tests/c/fuzz_decode.c, beginning with the inputs in tests/c/fuzz_corpus.zip. Needs clang and Python.
#
#     tests/c/fuzz.sh [SECONDS]
#     tests/c/fuzz.sh --keep [SECONDS]     takes over what was found: makes the corpus anew, as small as it can be
#     tests/c/fuzz.sh 0                    only runs the corpus
#     tests/c/fuzz.sh FILE                 one input again, such as the crash-... that a failure leaves in this folder
set -eu
here=$PWD
cd "$(dirname "$0")/../.."

keep=
if [ "${1:-}" = --keep ]; then
    keep=yes
    shift
fi
what=${1:-60}
decoder=edge_centernet/decoder archive=$PWD/tests/c/fuzz_corpus.zip
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
corpus=$work/corpus

# shellcheck disable=SC2086  # CFLAGS, if any, are words
clang -std=c11 -O1 -g -Wall -Wextra -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -ffp-contract=off \
    ${CFLAGS:-} -I "$decoder" tests/c/fuzz_decode.c "$decoder"/edgecn_*.c -o "$work/fuzz" -lm

case $what in
*[!0-9]*)
    cd "$here"
    "$work/fuzz" "$what"
    exit
    ;;
esac
python3 -m zipfile -e "$archive" "$corpus"
if [ "$what" = 0 ]; then
    "$work/fuzz" -runs=0 "$corpus"
    exit
fi

mkdir "$work/found" "$work/small" "$work/kept"
"$work/fuzz" -max_total_time="$what" -max_len=1024 -timeout=10 -artifact_prefix="$here/" -print_final_stats=1 \
    "$work/found" "$corpus"
[ -n "$keep" ] || exit 0
# For each edge of the code the smallest input that reaches it; 150 kB at most, for the repository carries them.
"$work/fuzz" -merge=1 -use_counters=0 "$work/small" "$corpus" "$work/found" 2>&1 | tail -n 1
find "$work/small" -type f -printf '%s %p\n' | sort -n | awk '{ sum += $1 } sum <= 150000 { print $2 }' |
    xargs -r cp -t "$work/kept"
# In order of name and without dates: the same inputs give the same bytes.
python3 - "$work/kept" "$archive" <<'PYTHON'
import sys
import zipfile
from pathlib import Path

inputs = sorted(Path(sys.argv[1]).iterdir())
with zipfile.ZipFile(sys.argv[2], "w") as archive:
    for path in inputs:
        archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)
print(f"{len(inputs)} inputs in {sys.argv[2]}")
PYTHON

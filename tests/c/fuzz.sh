#!/bin/bash
# Feed the C decoder random heads for SECONDS (default 60) under the address and undefined-behaviour sanitizers, with
# libFuzzer and tests/c/fuzz_decode.c. Afterwards the corpus in tests/c/fuzz_corpus is made small again. Needs clang.
#
#     tests/c/fuzz.sh [SECONDS]
#     tests/c/fuzz.sh 0            only runs the corpus, leaves it alone
#     tests/c/fuzz.sh FILE         one input again, such as the crash-... that a failure leaves in this folder
set -eu
here=$PWD
cd "$(dirname "$0")/../.."

what=${1:-60}
decoder=edge_centernet/decoder corpus=tests/c/fuzz_corpus
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# shellcheck disable=SC2086  # CFLAGS, if any, are words
clang -std=c11 -O1 -g -Wall -Wextra -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -ffp-contract=off \
    ${CFLAGS:-} -I "$decoder" tests/c/fuzz_decode.c "$decoder"/edgecn_*.c -o "$work/fuzz" -lm

mkdir -p "$corpus"
case $what in
*[!0-9]*)
    cd "$here"
    exec "$work/fuzz" "$what"
    ;;
0)
    "$work/fuzz" -runs=0 "$corpus"
    exit
    ;;
esac

mkdir "$work/found" "$work/small"
"$work/fuzz" -max_total_time="$what" -max_len=1024 -timeout=10 -artifact_prefix="$here/" -print_final_stats=1 \
    "$work/found" "$corpus"
# For each edge of the code the smallest input that reaches it; 150 kB at most, for the repository carries them.
"$work/fuzz" -merge=1 -use_counters=0 "$work/small" "$corpus" "$work/found" 2>&1 | tail -n 1
rm -f "$corpus"/*
find "$work/small" -type f -printf '%s %p\n' | sort -n | awk '{ sum += $1 } sum <= 150000 { print $2 }' |
    xargs -r cp -t "$corpus"
echo "$(find "$corpus" -type f | wc -l) inputs in $corpus"

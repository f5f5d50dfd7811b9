#!/bin/bash
# Prove the C decoder on every kind of machine it is meant for, by qemu where it is not this one: tests/c/test_*.c, among
# them the goldens tests/golden/decoder_v*.bin, must pass on each with the same bits. Further stages look for faults that
# do not show (sanitize, valgrind, tidy, cppcheck) and measure flash and stack (size). After a change of the C code, also
# run tests/c/fuzz.sh 600.
#
#     tests/c/targets.sh                  all stages
#     tests/c/targets.sh aarch64 size     some of them
#     tests/c/targets.sh --have STAGE     is there what it needs? exit 0, or 1 and what is missing
#     tests/c/targets.sh --install        apt-get what all need (root, Debian 12)
#     ... --csv FILE                                   where `size` writes, else docs/benchmarks/decoder-size.csv
#
# One line for each check: PASS, FAIL or SKIP. Exit 1 if any failed.
# shellcheck disable=SC2317  # try() and run_stage() call functions by their names
set -u
here=$PWD
cd "$(dirname "$0")/../.." || exit 1

STAGES=(native i686 aarch64 armhf s390x riscv64 cortex-m sanitize valgrind tidy cppcheck size)
PACKAGES=(gcc libc6-dev binutils clang libclang-rt-14-dev clang-tidy cppcheck valgrind qemu-user-static
    gcc-i686-linux-gnu libc6-dev-i386-cross gcc-aarch64-linux-gnu libc6-dev-arm64-cross
    gcc-arm-linux-gnueabihf libc6-dev-armhf-cross gcc-s390x-linux-gnu libc6-dev-s390x-cross
    gcc-riscv64-linux-gnu libc6-dev-riscv64-cross gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm)

CODE_LIMIT=7168    # bytes of code and constants on a Cortex-M4 at -Os; a build must stay below
STACK_LIMIT=512    # bytes of stack, the deepest chain of calls from any public function

decoder=edge_centernet/decoder
sources=("$decoder"/edgecn_*.c)
cortex=tests/c/cortex_m
csv=docs/benchmarks/decoder-size.csv

STRICT=(-pedantic -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow -Werror)
# What a careless firmware build does: let the compiler fuse a multiplication with an addition.
CONTRACTING=(-std=gnu99 -O3 -ffp-contract=fast)
M3=(-mthumb -mcpu=cortex-m3)
M4_SOFT=(-mthumb -mcpu=cortex-m4 -mfloat-abi=soft)
M4_HARD=(-mthumb -mcpu=cortex-m4 -mfloat-abi=hard -mfpu=fpv4-sp-d16)
M7=(-mthumb -mcpu=cortex-m7 -mfloat-abi=hard -mfpu=fpv5-d16)
M0=(-mthumb -mcpu=cortex-m0plus)
A7=(-mcpu=cortex-a7 -mfpu=neon-vfpv4 -mfloat-abi=hard)

failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# ---- reporting ----------------------------------------------------------------------------------

# try NAME COMMAND...: PASS with its last line, or FAIL with all that it said.
try() {
    local name=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        echo "PASS $name: $(tail -n 1 "$work/log")"
    else
        echo "FAIL $name"
        tail -n 40 "$work/log" | sed 's/^/    /'
        failed=1
    fi
}

# Tools that a stage cannot do without.
tools_of() {
    case $1 in
    native) echo gcc ;;
    i686 | s390x | riscv64 | aarch64) echo "qemu-${1/i686/i386}-static $1-linux-gnu-gcc" ;;
    armhf) echo "qemu-arm-static arm-linux-gnueabihf-gcc" ;;
    cortex-m) echo "qemu-system-arm arm-none-eabi-gcc" ;;
    sanitize) echo "gcc clang" ;;
    valgrind) echo "gcc valgrind" ;;
    tidy) echo clang-tidy ;;
    cppcheck) echo cppcheck ;;
    size) echo "gcc arm-none-eabi-gcc aarch64-linux-gnu-gcc arm-linux-gnueabihf-gcc" \
        "s390x-linux-gnu-gcc riscv64-linux-gnu-gcc" ;;
    *) return 1 ;;
    esac
}

# links COMPILER FLAGS...: can it build a program? A cross compiler without its C library cannot.
links() {
    echo 'int main(void) { return 0; }' | "$@" -x c - -o "$work/links" >/dev/null 2>&1
}

# Prints what is missing for a stage; nothing if it can run.
missing() {
    local tool lacking=""
    for tool in $(tools_of "$1"); do
        command -v "$tool" >/dev/null || lacking+=" $tool"
    done
    if [ -z "$lacking" ]; then
        case $1 in
        i686 | s390x | riscv64 | aarch64)
            links "$1-linux-gnu-gcc" -static || lacking=" a static C library for $1-linux-gnu-gcc"
            ;;
        armhf) links arm-linux-gnueabihf-gcc -static || lacking=" a static C library for arm-linux-gnueabihf-gcc" ;;
        cortex-m) links arm-none-eabi-gcc "${M4_HARD[@]}" --specs=rdimon.specs || lacking=" libnewlib-arm-none-eabi" ;;
        sanitize) links clang -fsanitize=address || lacking=" libclang-rt-14-dev" ;;
        esac
    fi
    echo "${lacking# }"
}

# ---- running the tests --------------------------------------------------------------------------

extra=()
# goldens RUNNER COMPILER FLAGS...: a strict build of each tests/c/test_*.c passes, test_decode with all its goldens, of
# which it also notices a changed bit.
goldens() {
    local runner=$1 source name said=""
    shift
    for source in tests/c/test_*.c; do
        name=$(basename "$source" .c)
        rm -f "$work/test"
        "$@" "${STRICT[@]}" -I "$decoder" "$source" "${sources[@]}" "${extra[@]}" -o "$work/test" || return 1
        if [ "$name" = test_decode ]; then
            in_work "$runner" good >"$work/said" 2>&1
        else
            in_work "$runner" >"$work/said" 2>&1
        fi || {
            cat "$work/said"
            return 1
        }
        said+="; $name: $(tail -n 1 "$work/said")"
        [ "$name" = test_decode ] || continue
        # It must run to the end and find a difference, not crash.
        if in_work "$runner" changed >"$work/said" 2>&1 || ! grep -q '[1-9][0-9]* failures$' "$work/said"; then
            echo "expected $name to notice a changed golden, got:"
            cat "$work/said"
            return 1
        fi
    done
    echo "${said#; }"
}

# The test program with its arguments, in the folder of the goldens: some runners take no long paths.
in_work() {
    local runner=$1
    shift
    # shellcheck disable=SC2086  # a command and its arguments; none for a native program
    (cd "$work" && $runner ./test "$@")
}

# The newest golden as `good`; and `changed`, with another lowest bit 4 bytes before the end, in the last probability.
copy_golden() {
    local golden at byte
    golden=$(find tests/golden -name 'decoder_v*.bin' | sort -V | tail -n 1)
    [ -n "$golden" ] || {
        echo "no tests/golden/decoder_v*.bin: run tests/c/make_goldens.py" >&2
        exit 2
    }
    at=$(($(wc -c <"$golden") - 4))
    cp "$golden" "$work/good"
    cp "$golden" "$work/changed"
    byte=$(od -An -tu1 -j "$at" -N 1 "$golden")
    # shellcheck disable=SC2059  # an octal escape made here
    printf "\\$(printf %03o $((byte ^ 1)))" | dd of="$work/changed" bs=1 seek="$at" conv=notrunc status=none
}

native() {
    local cc level
    for cc in gcc clang; do
        if ! command -v "$cc" >/dev/null; then
            echo "SKIP native $cc: not installed"
            continue
        fi
        for level in -O0 -Os -O2 -O3; do
            try "native $cc $level" goldens "" "$cc" -std=c99 "$level"
        done
        try "native $cc -O2, as without vector instructions" goldens "" "$cc" -std=c99 -O2 -U__SSE2__
        try "native $cc -O3 contracting, this CPU" goldens "" "$cc" "${CONTRACTING[@]}" -march=native
    done
    try "native gcc -fanalyzer" analyze
}

analyze() {
    local source
    for source in "${sources[@]}"; do
        gcc -std=c99 -O2 -fanalyzer "${STRICT[@]}" -c "$source" -o "$work/analyzed.o" || return 1
    done
    echo "no warning"
}

# emulated NAME CPU COMPILER FLAGS...: under qemu-user, optimised for size, for speed, and contracting.
emulated() {
    local name=$1 qemu=$2 cpu=$3 runner
    shift 3
    runner="$qemu -cpu $cpu"
    for level in -Os -O2; do
        try "$name $cpu $level" goldens "$runner" "$@" -std=c99 "$level" -static
    done
    try "$name $cpu -O3 contracting" goldens "$runner" "$@" "${CONTRACTING[@]}" -static
}

# The old FPU keeps 80 bits in registers: what rounded() in the decoder is there for.
i686() {
    emulated "i686 x87" qemu-i386-static pentium2 i686-linux-gnu-gcc -march=pentium -mfpmath=387
}

aarch64() {
    local cpu
    for cpu in cortex-a53 cortex-a72; do
        emulated aarch64 qemu-aarch64-static "$cpu" aarch64-linux-gnu-gcc "-mcpu=$cpu"
    done
}

armhf() {
    local mode
    for mode in -marm -mthumb; do
        emulated "armhf $mode" qemu-arm-static cortex-a7 arm-linux-gnueabihf-gcc "$mode" "${A7[@]}"
    done
}

s390x() {
    emulated "s390x (big-endian)" qemu-s390x-static qemu s390x-linux-gnu-gcc
}

riscv64() {
    emulated riscv64 qemu-riscv64-static rv64 riscv64-linux-gnu-gcc
}

# ---- bare metal ----------------------------------------------------------------------------------

# on_board BOARD PROGRAM ARGUMENT...: semihosting gives the program its arguments, files and exit code.
on_board() {
    local config=enable=on,target=native,arg=decoder argument
    local board=$1 program=$2
    shift 2
    for argument in "$@"; do
        config+=",arg=$argument"
    done
    timeout 120 qemu-system-arm -M "$board" -nographic -monitor none -serial none -semihosting-config "$config" \
        -kernel "$program" </dev/null
}

# bare NAME BOARD FLAGS...: goldens, then the stack that the decoder used.
bare() {
    local name=$1 board=$2 level
    local compile=(arm-none-eabi-gcc "${@:3}" --specs=rdimon.specs -T "$cortex/mps2.ld")
    extra=("$cortex/startup.c")
    for level in -Os -O2; do
        try "cortex-m $name $level" goldens "on_board $board" "${compile[@]}" -std=c99 "$level"
        try "cortex-m $name $level stack" measure_stack "$board" "${compile[@]}" -std=gnu99 "$level"
    done
    try "cortex-m $name -O3 contracting" goldens "on_board $board" "${compile[@]}" "${CONTRACTING[@]}"
    extra=()
}

measure_stack() {
    local board=$1
    shift
    "$@" -Wall -Wextra -Werror -I "$decoder" "$cortex/stack.c" "$cortex/startup.c" "${sources[@]}" -o "$work/stack" &&
        on_board "$board" "$work/stack" >"$work/stack.log" && cat "$work/stack.log" &&
        awk -v limit="$STACK_LIMIT" '$2 > most { most = $2; name = $1 }
            END { printf "%d bytes measured, in %s; limit %d\n", most, name, limit; exit !(most > 0 && most < limit) }' \
            "$work/stack.log"
}

cortex_m() {
    bare "M3" mps2-an385 "${M3[@]}"
    bare "M4 soft float" mps2-an386 "${M4_SOFT[@]}"
    bare "M4 hard float" mps2-an386 "${M4_HARD[@]}"
    bare "M7" mps2-an500 "${M7[@]}"
    bare "M0+ code on an M3" mps2-an385 "${M0[@]}"
}

# ---- sanitizers and analysers --------------------------------------------------------------------

sanitize() {
    local base=(-std=c99 -g -O1 -fno-sanitize-recover=all)
    try "sanitize gcc address+undefined" goldens "" gcc "${base[@]}" \
        -fsanitize=address,undefined,float-divide-by-zero,float-cast-overflow
    try "sanitize clang address+undefined+conversions" goldens "" clang "${base[@]}" \
        -fsanitize=address,undefined,float-divide-by-zero,implicit-conversion,local-bounds
    # Finds reads of what was never written: the decoder promises not to read `out`.
    try "sanitize clang memory" goldens "" clang "${base[@]}" -fsanitize=memory -fPIE -pie
    try "sanitize fuzz corpus" tests/c/fuzz.sh 0
    try "sanitize fuzz corpus, as without vector instructions" env CFLAGS=-U__SSE2__ tests/c/fuzz.sh 0
}

memcheck() {
    try "valgrind" goldens "valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=all" \
        gcc -std=c99 -g -O1
}

# All of these groups but what would say nothing here:
TIDY_CHECKS='-*,bugprone-*,cert-*,clang-analyzer-*,misc-*,performance-*,portability-*,readability-*'
TIDY_CHECKS+=',-bugprone-easily-swappable-parameters'                   # every pair of coordinates is
TIDY_CHECKS+=',-bugprone-implicit-widening-of-multiplication-result'    # check_tensor() proves that indices fit int32_t
TIDY_CHECKS+=',-readability-magic-numbers'                              # 0.5 and 255 need no name
TIDY_CHECKS+=',-readability-identifier-length'                          # x, y, h
TIDY_CHECKS+=',-readability-isolate-declaration'                        # `int32_t x, y;`
TIDY_CHECKS+=',-readability-uppercase-literal-suffix,-cert-dcl16-c'     # 0.5f, as everybody writes it
TIDY_CHECKS+=',-readability-function-cognitive-complexity'              # the scan is one macro

lint() {
    clang-tidy -quiet -warnings-as-errors='*' -checks="$TIDY_CHECKS" "${sources[@]}" -- -std=c99 -I "$decoder" &&
        echo "no finding"
}

cppcheck_all() {
    local platform
    for platform in unix64 unix32 arm32-wchar_t4; do
        cppcheck --quiet --error-exitcode=1 --std=c99 --platform="$platform" --inconclusive \
            --enable=warning,style,performance,portability --suppress=missingIncludeSystem -I "$decoder" \
            "${sources[@]}" || return 1
    done
    echo "no finding"
}

# Rules of MISRA C:2012 that edgecn_decode breaks, as far as cppcheck knows them, and why; docs/decoder.md lists them.
MISRA="2.4   enums without a name: constants that a switch can use; fields are int32_t, whose size never varies
10.3  keep_first, ecn_drop_cut: a comparison gives an int, as C99 defines it
10.6  misread: both sides of ?: are int32_t
10.8  dequantised: an exact integer becomes a float, on purpose
11.5  real_at, scan_*: ecn_tensor.data points at what dtype says
12.1  a + b * c and a < b && c read well without parentheses
12.3  misread: int32_t x, y; is a declaration, not the comma operator
15.4  sift_down: two ends of a loop
15.5  early returns are shorter
17.8  visit_*, scan_*: lowest rises while the list fills
20.7  DEFINE_SCAN: a parameter that is a type cannot stand in parentheses"
# Not found by cppcheck: Directive 4.9 and 20.10 (functions written by DEFINE_TEST and DEFINE_SCAN with ##), 14.4 (int as a
# truth value), 18.4 (pointer + index), 13.3 (count++ in an argument).

misra() {
    cppcheck --quiet --std=c99 --platform=arm32-wchar_t4 --addon=misra --enable=style "$decoder/edgecn_decode.c" 2>&1 |
        grep -o 'misra-c2012-[0-9.]*' | sed 's/misra-c2012-//' | sort -uV >"$work/broken"
    cut -d' ' -f1 <<<"$MISRA" >"$work/documented"
    diff "$work/documented" "$work/broken" || {
        echo "MISRA in this script (<) does not name the rules that cppcheck finds broken (>)"
        return 1
    }
    echo "$(wc -l <"$work/broken") rules broken, all documented"
}

# ---- size ------------------------------------------------------------------------------------------

# From gcc's call graph (-fcallgraph-info=su): the largest sum of frames along any chain of calls from a public
# function, as "bytes function". Recursion, frames of unknown size and calls through pointers are errors. Functions
# outside the decoder count 0: the CSV lists them.
# shellcheck disable=SC2016  # awk's own $
DEEPEST='
function deepest(f, i, n, most, below, list) {
    if (f in known) return known[f]
    if (f in busy) stop("recursion in " f)
    busy[f] = 1
    n = split(calls[f], list, "\n")
    most = 0
    for (i = 1; i < n; ++i) {
        below = deepest(list[i])
        if (below > most) most = below
    }
    delete busy[f]
    return known[f] = frame[f] + most
}
function stop(text) { print text > "/dev/stderr"; bad = 1; exit 1 }
/^node:/ {
    if ($2 == "__indirect_call") stop("a call through a pointer")
    if (match($4, /[0-9]+ bytes \([a-z,]+\)/)) {
        if (substr($4, RSTART, RLENGTH) !~ /\(static\)/) stop("a frame of unknown size: " $2)
        frame[$2] = $4
        sub(/ bytes \(static\).*/, "", frame[$2])
        sub(/.*[^0-9]/, "", frame[$2])
        frame[$2] += 0
    }
}
/^edge:/ { calls[$2] = calls[$2] $4 "\n" }
END {
    if (bad) exit 1
    count = split(public, names, " ")
    for (i = 1; i <= count; ++i) {
        if (!(names[i] in frame)) stop("no frame known for " names[i])
        bytes = deepest(names[i])
        if (bytes >= most) { most = bytes; deep = names[i] }
    }
    print most, deep
}'

# Functions of the compiler's own library, for what the CPU cannot do itself; each in a column of its own.
HELPERS='^__(aeabi_|gnu_)|^__[a-z]+[sdt][if](si|di|sf|df|[sd]i2|[sd]f2|[234])?$'

# measure LIBRARY TARGET LEVEL COMPILER FLAGS...: one line of the CSV.
measure() {
    local library=$1
    shift
    local target=$1 level=$2 tools=${3%gcc} folder=$work/size public undefined helpers own stack code constants data others
    rm -rf "$folder"
    mkdir "$folder"
    # As firmware is built: no stack protector, no unwind tables, not position-independent.
    "${@:3}" -std=c99 "$level" "${STRICT[@]}" -fno-stack-protector -fno-pic -fno-asynchronous-unwind-tables \
        -fno-unwind-tables -fcallgraph-info=su -c "$decoder/$library.c" -o "$folder/all" || return 1
    public=$("${tools}nm" --defined-only -g "$folder/all" | awk '{ print $3 }' | sort | tr '\n' ' ')
    undefined=$("${tools}nm" -u "$folder/all" | awk '{ print $2 }' | sort)
    helpers=$(grep -E "$HELPERS" <<<"$undefined" | xargs)
    own=$(grep -Ev "$HELPERS" <<<"$undefined" | xargs)
    stack=$(awk -F '"' -v public="$public" "$DEEPEST" "$folder"/all.ci) || return 1
    read -r code constants data < <("${tools}size" -A "$folder/all" | awk '/^\.text/ { code += $2 }
        /^\.s?rodata/ { constants += $2 } /^\.s?(data|bss)/ { data += $2 } END { print code + 0, constants + 0, data + 0 }')
    echo "$library,$target,${level#-},$((code + constants)),$code,${stack% *},${stack#* },$own,$helpers,$("$3" -dumpfullversion)" \
        >>"$work/sizes"
    echo "$code bytes of code, $constants of constants, ${stack% *} of stack in ${stack#* }," \
        "undefined: ${own:-none}, runtime helpers: $(wc -w <<<"$helpers")"
    others=$(tr ' ' '\n' <<<"$own" | grep -cvE '^(memcpy|memset|memmove|)$')
    require $((data == 0)) "no writable data, got $data bytes" || return 1
    require $((others == 0)) "no undefined symbol but memcpy, memset and memmove, got $own" || return 1
    if [[ $target = cortex-m4* && $level = -Os && $library = edgecn_decode ]]; then
        require $((code + constants < CODE_LIMIT)) "less than $CODE_LIMIT bytes, got $code + $constants" || return 1
        require $((${stack% *} < STACK_LIMIT)) "less than $STACK_LIMIT bytes of stack, got ${stack% *}" || return 1
    fi
}

# require 1-OR-0 WORDS
require() {
    [ "$1" = 1 ] || {
        echo "expected $2"
        return 1
    }
}

size_of() {
    try "size $1 $2 $3" measure "$@"
}

sizes() {
    local library level before=$failed
    failed=0
    : >"$work/sizes"
    for library in "${sources[@]}"; do
        library=$(basename "$library" .c)
        for level in -Os -O2; do
            size_of "$library" cortex-m0plus $level arm-none-eabi-gcc "${M0[@]}"
            size_of "$library" cortex-m3 $level arm-none-eabi-gcc "${M3[@]}"
            size_of "$library" cortex-m4-soft $level arm-none-eabi-gcc "${M4_SOFT[@]}"
            size_of "$library" cortex-m4-hard $level arm-none-eabi-gcc "${M4_HARD[@]}"
            size_of "$library" cortex-m7 $level arm-none-eabi-gcc "${M7[@]}"
            size_of "$library" cortex-a7-arm $level arm-linux-gnueabihf-gcc -marm "${A7[@]}"
            size_of "$library" cortex-a7-thumb $level arm-linux-gnueabihf-gcc -mthumb "${A7[@]}"
            size_of "$library" aarch64 $level aarch64-linux-gnu-gcc
            size_of "$library" riscv64 $level riscv64-linux-gnu-gcc
            size_of "$library" s390x $level s390x-linux-gnu-gcc
            [ "$(uname -m)" != x86_64 ] || size_of "$library" x86_64 $level gcc
        done
    done
    {
        echo "# tests/c/targets.sh size; sources $(cat "${sources[@]}" "$decoder"/edgecn_*.h | sha256sum | cut -c 1-16)"
        echo "library,target,opt,text_bytes,code_bytes,stack_bytes,stack_function,undefined,runtime_helpers,gcc"
        sort "$work/sizes"
    } >"$work/sizes.csv"
    # Nothing half-measured replaces a good file.
    if [ $failed = 0 ]; then
        cp "$work/sizes.csv" "$csv"
        echo "wrote $csv"
    fi
    failed=$((failed | before))
}

# ---- what to do --------------------------------------------------------------------------------------

run_stage() {
    local lacking
    lacking=$(missing "$1")
    if [ -n "$lacking" ]; then
        echo "SKIP $1: not installed: $lacking (see --install)"
        return
    fi
    case $1 in
    valgrind) memcheck ;;
    cortex-m) cortex_m ;;
    tidy) try tidy lint ;;
    cppcheck)
        try cppcheck cppcheck_all
        try "cppcheck misra" misra
        ;;
    size) sizes ;;
    *) "$1" ;;
    esac
}

main() {
    local stages=() stage lacking
    while [ $# -gt 0 ]; do
        case $1 in
        --install)
            apt-get update -q
            DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${PACKAGES[@]}"
            exit
            ;;
        --have)
            tools_of "${2:-}" >/dev/null || {
                echo "expected a stage, one of: ${STAGES[*]}" >&2
                exit 2
            }
            lacking=$(missing "$2")
            [ -z "$lacking" ] || {
                echo "$lacking"
                exit 1
            }
            exit 0
            ;;
        --csv)
            csv=$(cd "$here" && realpath -m -- "${2:?--csv needs a file}")
            shift
            ;;
        --help | -h)
            sed -n '2,/^# shellcheck/{/^# shellcheck/d;s/^# \{0,1\}//;p}' "$0"
            exit 0
            ;;
        *)
            tools_of "$1" >/dev/null || {
                echo "expected stages out of: ${STAGES[*]}; got $1" >&2
                exit 2
            }
            stages+=("$1")
            ;;
        esac
        shift
    done
    copy_golden
    [ ${#stages[@]} -gt 0 ] || stages=("${STAGES[@]}")
    for stage in "${stages[@]}"; do
        run_stage "$stage"
    done
    exit $failed
}

main "$@"

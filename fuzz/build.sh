#!/bin/sh
# Builds all targets, or those named, with the stable compiler: what `cargo fuzz build` does with a nightly one.
# Without AddressSanitizer unless SANITIZER=address is set. Binaries: target/x86_64-unknown-linux-gnu/release/.
set -eu
cd "$(dirname "$0")"
export RUSTC_BOOTSTRAP=1
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
	-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions=on -Coverflow-checks=on -Ccodegen-units=1"
if [ "${SANITIZER:-}" = address ]; then
	RUSTFLAGS="$RUSTFLAGS -Zsanitizer=address"
	# bpf/walk.h and liblzma too; what is undefined in C traps
	export CC="${CC:-clang}"
	export CFLAGS="-fsanitize=address,fuzzer-no-link,undefined -fsanitize-trap=undefined"
fi
RUSTFLAGS=$(echo $RUSTFLAGS)
export RUSTFLAGS
set -- $(for target in "$@"; do echo "--bin $target"; done)
exec cargo build --release --target x86_64-unknown-linux-gnu ${*:---bins}

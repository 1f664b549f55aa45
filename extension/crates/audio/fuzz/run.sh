#!/bin/sh
# Fuzzes the decoder: run.sh [SECONDS], an hour if not given. Needs a nightly toolchain and cargo-fuzz. The corpus starts
# from the fixtures of the tests and grows in ./corpus, which is not committed. A clip may take 10 seconds and 1 GiB,
# one allocation 512 MiB.
set -eu
cd "$(dirname "$0")"
mkdir -p corpus/decode
for file in ../tests/fixtures/sweep*; do cp -n "$file" "corpus/decode/seed_$(basename "$file")"; done
# Only the head of a long stream decides where decoding goes, so inputs stay small.
exec cargo +nightly fuzz run decode -- \
    -max_total_time="${1:-3600}" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=512 -max_len=32768 -print_final_stats=1

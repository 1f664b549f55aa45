#!/usr/bin/env python3
"""Compares `esr-embedder bench` with the same ONNX files run by Python's onnxruntime: same clips, same texts, same batches,
same threads, spinning off in both. Prints both and their ratio; leaves with 1 if esr-embedder takes over 10 % more processor time.

    python3 -m venv target/python-bench
    target/python-bench/bin/pip install onnxruntime numpy tokenizers
    cargo build --release -p esr-embedder
    target/python-bench/bin/python benches/python_onnxruntime.py models/default

The two take turns, several rounds each, and the best round of each counts. Processor time decides, because wall time also
says how busy the machine was; with one thread and nothing else running the two are the same.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

# Tokenizing on as many threads as inference, here too.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

CLIP_SECONDS, CLIPS, TEXTS = 3.0, 20, 64
STYLES = ["whispering", "angry", "bored", "cheerful", "sad", "calm", "sarcastic", "projected"]
FORMS = ["", "someone who sounds ", "a voice that is clearly ", "a recording of a person speaking "]
# How esr_encoder::encoder divides a request.
SHORTEST_SHARE, CLIPS_OF_A_PASS, TOKENS_OF_A_PASS = 0.9, 4, 512
FASTER_IS_MORE = {
    "clip_cpu_ms": False,
    "text_cpu_ms": False,
    "clips_per_second": True,
    "texts_per_second": True,
    "text_p50_ms": False,
    "clip_p50_ms": False,
}
DECIDING = ("clip_cpu_ms", "text_cpu_ms")


def voice(hz, seed):
    """The generator of esr_encoder::golden, in numpy."""
    count = round(CLIP_SECONDS * 16000)
    t = np.arange(count) / 16000
    tone = sum(np.sin(2 * np.pi * k * hz * t) / k for k in range(1, 9))
    state, noise = seed, np.empty(count)
    for n in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        noise[n] = (state >> 40) / 2**23 - 1
    return (tone * 0.1 * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t)) + 0.005 * noise).astype(np.float32)


def session(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def median(seconds, work):
    """Wall and processor seconds of the middle round."""
    work(0)
    wall, processor, begin = [], [], time.perf_counter()
    while len(wall) < 3 or time.perf_counter() - begin < seconds:
        start, spent = time.perf_counter(), time.process_time()
        work(len(wall))
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - spent)
    return sorted(wall)[len(wall) // 2], sorted(processor)[len(wall) // 2]


def python_bench(bundle, threads, seconds):
    speech, text = session(bundle / "speech.onnx", threads), session(bundle / "text.onnx", threads)
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.no_padding()
    waves = np.stack([voice(90.0 + 10.0 * at, at) for at in range(CLIPS)])
    texts = [FORMS[at // len(STYLES) % len(FORMS)] + STYLES[at % len(STYLES)] for at in range(TEXTS)]

    def embed_clips(clips):
        for at in range(0, len(clips), CLIPS_OF_A_PASS):
            batch = clips[at : at + CLIPS_OF_A_PASS]
            speech.run(["embedding"], {"waveform": batch, "length": np.full(len(batch), batch.shape[1], np.int64)})

    def embed_texts(words):
        rows = sorted((encoding.ids for encoding in tokenizer.encode_batch(words)), key=len, reverse=True)
        while rows:
            most = max(TOKENS_OF_A_PASS // len(rows[0]), 1)
            batch = [row for row in rows[:most] if len(row) >= SHORTEST_SHARE * len(rows[0])]
            rows = rows[len(batch) :]
            ids = np.zeros((len(batch), len(batch[0])), np.int64)
            mask = np.zeros_like(ids)
            for at, row in enumerate(batch):
                ids[at, : len(row)], mask[at, : len(row)] = row, 1
            text.run(["embedding"], {"input_ids": ids, "attention_mask": mask})

    each = seconds / 4
    clips_wall, clips_processor = median(each, lambda _: embed_clips(waves))
    texts_wall, texts_processor = median(each, lambda _: embed_texts(texts))
    return {
        "clip_cpu_ms": clips_processor * 1e3 / CLIPS,
        "text_cpu_ms": texts_processor * 1e3 / TEXTS,
        "clips_per_second": CLIPS / clips_wall / threads,
        "texts_per_second": TEXTS / texts_wall / threads,
        "text_p50_ms": median(each, lambda at: embed_texts([texts[at % TEXTS]]))[0] * 1e3,
        "clip_p50_ms": median(each, lambda at: embed_clips(waves[at % CLIPS :][:1]))[0] * 1e3,
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("bundle", type=pathlib.Path)
    arguments.add_argument("--program", default="target/release/esr-embedder")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=float, default=12.0, help="of one round")
    options = arguments.parse_args()
    command = [options.program, "bench", str(options.bundle), "--json"]
    command += ["--threads", str(options.threads), "--seconds", str(options.seconds)]
    best = {"python": {}, "esr": {}}
    for _ in range(options.rounds):
        rounds = {
            "python": python_bench(options.bundle, options.threads, options.seconds),
            "esr": json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout),
        }
        for who, measured in rounds.items():
            for key, more in FASTER_IS_MORE.items():
                choose = max if more else min
                best[who][key] = choose(measured[key], best[who].get(key, measured[key]))
    print(f"onnxruntime {onnxruntime.__version__}, {options.threads} thread(s), best of {options.rounds} rounds")
    print(f"{'':20}{'esr-embedder':>14}{'python':>14}{'esr speed':>12}")
    slowest = 1e9
    for key, more in FASTER_IS_MORE.items():
        ours, theirs = best["esr"][key], best["python"][key]
        speed = ours / theirs if more else theirs / ours
        if key in DECIDING:
            slowest = min(slowest, speed)
        print(f"{key:20}{ours:14.2f}{theirs:14.2f}{speed:11.0%}")
    sys.exit(0 if slowest >= 0.9 else 1)


main()

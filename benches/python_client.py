#!/usr/bin/env python3
"""A Python client that embeds clips with onnxruntime and writes them with psycopg into pgvector: what people do without esr.
Prints one JSON object with its clips/s. `esr-benches writing --python target/python-bench/bin/python` runs it on its own clips
and server; the interpreter needs

    python3 -m venv target/python-bench
    target/python-bench/bin/pip install onnxruntime numpy "psycopg[binary]" pgvector

and the server pgvector. Same model, same threads; batches of 32 clips, run four at a time as esr-embedder does.
"""

import argparse
import io
import json
import pathlib
import time
import wave

import numpy as np
import onnxruntime
import psycopg
from pgvector.psycopg import register_vector

ROWS, CLIPS_OF_A_PASS = 32, 4


def samples(audio):
    with wave.open(io.BytesIO(audio)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2), "16 kHz, mono, 16 bits"
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def embed(session, clips):
    waves = [samples(clip) for clip in clips]
    rows = []
    for at in range(0, len(waves), CLIPS_OF_A_PASS):
        batch = waves[at : at + CLIPS_OF_A_PASS]
        lengths = np.array([len(wave) for wave in batch], np.int64)
        padded = np.zeros((len(batch), lengths.max()), np.float32)
        for row, wave in zip(padded, batch):
            row[: len(wave)] = wave
        rows.extend(session.run(["embedding"], {"waveform": padded, "length": lengths})[0])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, help="connection string")
    parser.add_argument("--clips", required=True, type=pathlib.Path, help="folder of WAV files")
    parser.add_argument("--bundle", required=True, type=pathlib.Path)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    session = onnxruntime.InferenceSession(
        str(arguments.bundle / "speech.onnx"), options, providers=["CPUExecutionProvider"]
    )
    clips = [path.read_bytes() for path in sorted(arguments.clips.iterdir())]
    with psycopg.connect(arguments.server, autocommit=True) as server:
        server.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(server)
        server.execute("DROP TABLE IF EXISTS python")
        server.execute("CREATE TABLE python (id int, audio bytea, style vector(512))")
        embed(session, clips[:1])
        start = time.perf_counter()
        with server.cursor().copy("COPY python (id, audio, style) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "bytea", "vector"])
            for first in range(0, len(clips), ROWS):
                batch = clips[first : first + ROWS]
                for at, (clip, style) in enumerate(zip(batch, embed(session, batch))):
                    copy.write_row((first + at, clip, style))
        seconds = time.perf_counter() - start
        (stored,) = server.execute("SELECT count(*) FROM python WHERE style IS NOT NULL").fetchone()
        assert stored == len(clips), f"{stored} of {len(clips)} rows"
    print(json.dumps({"clips_per_s": len(clips) / seconds, "onnxruntime": onnxruntime.__version__}))


main()

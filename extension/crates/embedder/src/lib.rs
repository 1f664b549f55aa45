//! The program that owns decoding, ONNX Runtime and batching beside a PostgreSQL cluster.

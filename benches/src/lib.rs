//! Benchmarks: kernels, exact scans, embedding latency.

//! Metrics over f32 vectors with SIMD kernels chosen at run time. Knows no files, no pages, no PostgreSQL.

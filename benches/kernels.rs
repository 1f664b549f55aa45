//! The metric kernels of every instruction set this CPU has, over vectors in cache.
#![allow(missing_docs)] // criterion's macros make an undocumented function

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use esr_vector::kernel::available;

fn kernels(criterion: &mut Criterion) {
    for dimensions in [512usize, 1536] {
        let a: Vec<f32> = (0..dimensions).map(|i| (i as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = (0..dimensions).map(|i| (i as f32 * 0.11).cos()).collect();
        let mut group = criterion.benchmark_group(format!("{dimensions} dimensions"));
        group.throughput(Throughput::Bytes(8 * dimensions as u64));
        for level in available() {
            group.bench_function(BenchmarkId::new("dot", level.name), |bench| {
                bench.iter(|| (level.dot)(black_box(&a), black_box(&b)))
            });
            group.bench_function(BenchmarkId::new("l2_squared", level.name), |bench| {
                bench.iter(|| (level.l2_squared)(black_box(&a), black_box(&b)))
            });
            group.bench_function(BenchmarkId::new("cosine", level.name), |bench| {
                bench.iter(|| (level.cosine)(black_box(&a), black_box(&b)))
            });
        }
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);

//! Every instruction set this CPU has, against the scalar kernels and a naive double-precision oracle.

use esr_vector::kernel::{BLOCK_ROWS, Kernels, MAX_SIGNED, available, kernels, scalar};
use proptest::prelude::*;

/// Values a style vector may hold, extremes included where squares stay in range.
fn element() -> impl Strategy<Value = f32> {
    prop_oneof![-1.0f32..1.0, -1e6f32..1e6, Just(0.0), Just(-0.0), Just(1e-20), Just(1e15)]
}

fn pair() -> impl Strategy<Value = (usize, usize, Vec<f32>, Vec<f32>)> {
    (0usize..=129, 0usize..4, 0usize..4).prop_flat_map(|(length, a_offset, b_offset)| {
        (
            Just(a_offset),
            Just(b_offset),
            proptest::collection::vec(element(), length + a_offset),
            proptest::collection::vec(element(), length + b_offset),
        )
    })
}

/// `|got - want|` within what reordering and fusing of f32 additions can change.
fn close(got: f32, want: f64, magnitude: f64) -> bool {
    (f64::from(got) - want).abs() <= 1e-5 * magnitude + 1e-30
}

fn check(level: Kernels, a: &[f32], b: &[f32]) {
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> (f64, f64) {
        let terms: Vec<f64> = a.iter().zip(b).map(|(&x, &y)| f(x.into(), y.into())).collect();
        (terms.iter().sum(), terms.iter().map(|t| t.abs()).sum())
    };
    let name = level.name;
    let (want, size) = sum(&|x, y| x * y);
    assert!(close((level.dot)(a, b), want, size), "{name} dot");
    let parts = (level.cosine)(a, b);
    assert!(close(parts.dot, want, size), "{name} cosine dot");
    let (want, size) = sum(&|x, _| x * x);
    assert!(close(parts.a_squared, want, size), "{name} cosine a");
    let (want, size) = sum(&|_, y| y * y);
    assert!(close(parts.b_squared, want, size), "{name} cosine b");
    // The difference is rounded before it is squared, so the error scales with the operands, not the result.
    let (want, _) = sum(&|x, y| (x - y) * (x - y));
    let (_, size) = sum(&|x, y| x * x + y * y);
    assert!(close((level.l2_squared)(a, b), want, size), "{name} l2");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_level_agrees_with_the_oracle((a_offset, b_offset, a, b) in pair()) {
        for level in available() {
            check(level, &a[a_offset..], &b[b_offset..]);
        }
    }

    #[test]
    fn every_level_sums_the_same_codes(
        (tables, codes) in (0usize..70).prop_flat_map(|pairs| {
            let bytes = || proptest::collection::vec(any::<u8>(), pairs * 32);
            (bytes(), bytes())
        })
    ) {
        let mut want = [0; BLOCK_ROWS];
        scalar::lookup_sums(&tables, &codes, &mut want);
        for level in available() {
            let mut got = [7; BLOCK_ROWS];
            (level.lookup_sums)(&tables, &codes, &mut got);
            prop_assert_eq!(got, want, "{}", level.name);
        }
    }

    #[test]
    fn every_level_multiplies_the_same_bytes(
        pairs in proptest::collection::vec((any::<u8>(), -MAX_SIGNED..=MAX_SIGNED), 0..600)
    ) {
        let (bytes, signed): (Vec<u8>, Vec<i8>) = pairs.into_iter().unzip();
        let want = scalar::dot_bytes(&bytes, &signed);
        for level in available() {
            prop_assert_eq!((level.dot_bytes)(&bytes, &signed), want, "{}", level.name);
        }
    }

    #[test]
    fn every_level_finds_the_same_scores_above_a_limit(
        scores in proptest::collection::vec(-4i8..4, BLOCK_ROWS),
        limit in -5i8..5,
    ) {
        let scores: [f32; BLOCK_ROWS] = std::array::from_fn(|row| f32::from(scores[row]));
        let want = scalar::above(&scores, limit.into());
        for level in available() {
            prop_assert_eq!((level.above)(&scores, limit.into()), want, "{}", level.name);
            prop_assert_eq!((level.above)(&scores, f32::NEG_INFINITY), u32::MAX, "{}", level.name);
        }
    }
}

#[test]
fn tails_are_those_of_a_normal_variable() {
    for (z, want) in [(0.0, 0.5), (1.0, 0.1587), (2.0, 0.0228), (3.0, 0.00135), (-1.0, 0.8413), (9.0, 0.0), (-9.0, 1.0)]
    {
        for level in available() {
            for count in [1, 3, 8, 21] {
                // The threshold lies z deviations of 0.5 above the centre, half of which the scale makes up for.
                let (centres, inverses, weights) = (vec![2.0; count], vec![4.0; count], vec![10.0; count]);
                let got = (level.upper_tails)(2.0 + 0.5 * z, 0.5, &centres, &inverses, &weights);
                let (want, tolerance) = (want * 10.0 * count as f32, 0.1 * count as f32);
                assert!((got - want).abs() < tolerance, "{}: {z}: {got} instead of {want}", level.name);
            }
        }
    }
}

#[test]
fn the_largest_codes_do_not_overflow() {
    // 256 groups of 255 are 65,280; the largest bytes with the largest signed ones are what saturates first.
    let (tables, codes) = (vec![255; 256 * 16], vec![0xff; 256 * 16]);
    for level in available() {
        let mut sums = [0; BLOCK_ROWS];
        (level.lookup_sums)(&tables, &codes, &mut sums);
        assert_eq!(sums, [65_280; BLOCK_ROWS], "{}", level.name);
        for extreme in [MAX_SIGNED, -MAX_SIGNED] {
            let product = (level.dot_bytes)(&[255; 512], &[extreme; 512]);
            assert_eq!(product, 255 * 512 * i32::from(extreme), "{}", level.name);
        }
    }
}

#[test]
fn every_length_is_summed_to_its_end() {
    // Each element carries a distinct weight, so a kernel that skips or repeats one cannot hide.
    for length in 0..=129 {
        let a: Vec<f32> = (0..length).map(|i| (i + 1) as f32).collect();
        let b: Vec<f32> = (0..length).map(|i| ((i * 7 + 3) % 11) as f32 - 5.0).collect();
        for level in available() {
            check(level, &a, &b);
        }
    }
}

#[test]
fn levels_that_ran_are_named() {
    let names: Vec<&str> = available().iter().map(|level| level.name).collect();
    println!("kernel levels tested on this CPU: {names:?}; in use: {}", kernels().name);
    for absent in ["avx2", "avx512", "neon"].iter().filter(|name| !names.contains(name)) {
        println!("SKIPPED: this CPU has no {absent}");
    }
    assert_eq!(names[0], "scalar");
}

#[test]
#[should_panic]
fn different_lengths_are_a_bug_of_the_caller() {
    (kernels().dot)(&[1.0, 2.0], &[1.0]);
}

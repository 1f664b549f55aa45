//! Searches against a naive oracle: recall for each target, filters, corner cases.

mod common;

use common::*;
use esr_ivf::RowId;
use esr_vector::Metric;

const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Euclidean, Metric::InnerProduct];

fn table(source: &Source, rows: usize, seed: u64) -> Table {
    let mut r = random(seed);
    Table::of((0..rows).map(|_| Some(source.row(&mut r))))
}

#[test]
fn recall_is_what_was_asked_for() {
    let source = Source::clustered(96, 16, 60, 1);
    let table = table(&source, 20_000, 2);
    let mut r = random(3);
    let like: Vec<_> = (0..100).map(|_| source.row(&mut r)).collect();
    let beside: Vec<_> = (0..100).map(|_| source.beside(&mut r)).collect();
    for metric in METRICS {
        let store = built(&table, &options(metric, 96));
        for target in [0.8, 0.9, 0.95, 0.99] {
            for k in [1, 10, 100] {
                for (kind, queries) in [("like", &like), ("beside", &beside)] {
                    let got = recall(&store, &table, metric, queries, target, k, |_| true);
                    println!("{metric:?} {kind} k {k} target {target}: {got:.4}");
                    // 100 queries tell a recall to about .02 where k is 1.
                    let noise = if k == 1 { 0.04 } else { 0.01 };
                    assert!(got >= target - 0.01 - noise, "{metric:?} {kind} k {k} target {target}: {got}");
                }
            }
        }
    }
}

#[test]
fn what_is_rare_is_nearly_as_well_found() {
    let source = Rare::new(96, 24, 41);
    let mut r = random(42);
    let table = Table::of((0..20_000).map(|_| Some(source.row(&mut r))));
    let descriptions: Vec<_> = (0..150).map(|_| source.description(&mut r)).collect();
    for metric in METRICS {
        let store = built(&table, &options(metric, 96));
        for target in [0.8, 0.9, 0.95, 0.99] {
            for k in [1, 10, 100] {
                let got = recall(&store, &table, metric, &descriptions, target, k, |_| true);
                println!("{metric:?} k {k} target {target}: {got:.4}");
                // These queries point at single traits, which is harder than anything that the calibration tries.
                assert!(got >= target - 0.01 - 0.04, "{metric:?} k {k} target {target}: {got}");
            }
        }
    }
}

#[test]
fn a_thousand_rows_are_found_as_well_as_ten() {
    let source = Source::clustered(96, 32, 400, 31);
    let table = table(&source, 30_000, 32);
    let store = built(&table, &options(Metric::Cosine, 96));
    let mut r = random(33);
    let mut query = |number: usize| if number.is_multiple_of(2) { source.row(&mut r) } else { source.beside(&mut r) };
    let queries: Vec<Vec<f32>> = (0..60).map(&mut query).collect();
    for target in [0.8, 0.95] {
        let got = recall(&store, &table, Metric::Cosine, &queries, target, 1000, |_| true);
        println!("target {target}: {got:.4}");
        // The calibration aims a little higher than the target; one that does not see every step of a search falls below it.
        assert!(got >= target, "target {target}: {got}");
    }
}

#[test]
fn target_one_is_exact() {
    let source = Source::clustered(24, 8, 20, 4);
    let table = table(&source, 3000, 5);
    let mut r = random(6);
    for metric in METRICS {
        let store = built(&table, &options(metric, 24));
        for _ in 0..10 {
            let query = source.beside(&mut r);
            let truth: Vec<f64> = table.nearest(metric, &query, 50, |_| true).iter().map(|(d, _)| *d).collect();
            let rows = found(&store, &table, metric, &query, 1.0, 50, |_| true);
            let got: Vec<f64> = rows
                .iter()
                .map(|row| esr_vector::metric::distance(metric, table.rows[row].as_ref().unwrap(), &query))
                .collect();
            assert_eq!(got, truth);
        }
    }
}

#[test]
fn filters_get_their_rows() {
    let source = Source::clustered(64, 12, 40, 7);
    let table = table(&source, 20_000, 8);
    let store = built(&table, &options(Metric::Cosine, 64));
    let mut r = random(9);
    let queries: Vec<_> = (0..40).map(|_| source.row(&mut r)).collect();
    for one_in in [2u32, 20, 200, 2000] {
        let passes = |row: RowId| {
            (row.block * 3 + u32::from(row.offset)).wrapping_mul(2_654_435_761) >> 8 & 0xffff < 0x10000 / one_in
        };
        let got = recall(&store, &table, Metric::Cosine, &queries, 0.95, 10, passes);
        println!("one row in {one_in} passes: {got:.4}");
        assert!(got >= 0.93, "one row in {one_in} passes: {got}");
    }
}

#[test]
fn every_row_comes_exactly_once() {
    let source = Source::clustered(16, 4, 10, 10);
    let mut r = random(11);
    let mut rows: Vec<Option<Vec<f32>>> = (0..2000).map(|_| Some(source.row(&mut r))).collect();
    rows.extend([None, None, Some(vec![0.0; 16]), Some(vec![0.0; 16]), None]);
    let table = Table::of(rows);
    for metric in METRICS {
        let store = built(&table, &options(metric, 16));
        for query in [source.row(&mut r), vec![0.0; 16]] {
            let mut rows = found(&store, &table, metric, &query, 0.9, usize::MAX, |_| true);
            assert!(table.rows[rows.last().unwrap()].is_none(), "rows without vector come last");
            rows.sort();
            assert_eq!(rows, table.rows.keys().copied().collect::<Vec<_>>(), "{metric:?}");
        }
    }
}

#[test]
fn strange_tables_are_no_trouble() {
    let r = || random(12);
    let source = Source::clustered(8, 4, 3, 13);
    let tables = [
        Table::default(),
        Table::of([Some(source.row(&mut r()))]),
        Table::of([None]),
        Table::of((0..3000).map(|_| Some(vec![1.0; 8]))),
        Table::of((0..3000).map(|_| Some(vec![0.0; 8]))),
        Table::of((0..5000).map(|i| Some(if i % 10 == 0 { source.row(&mut random(i)) } else { vec![0.5; 8] }))),
    ];
    for (number, table) in tables.iter().enumerate() {
        for metric in METRICS {
            let store = built(table, &options(metric, 8));
            let query = source.row(&mut r());
            let rows = found(&store, table, metric, &query, 0.95, usize::MAX, |_| true);
            assert_eq!(rows.len(), table.rows.len(), "table {number}, {metric:?}");
            let report = esr_ivf::check(&store, |_| ()).unwrap();
            assert!(report.problems.is_empty(), "table {number}: {:?}", report.problems);
            assert_eq!(report.rows as usize, table.rows.len());
        }
    }
}

#[test]
fn one_dimension_and_many() {
    for dimension in [1, 2, 3, 700, 1500] {
        let source = Source::clustered(dimension, 4, 10, 14);
        let table = table(&source, 1500, 15);
        let mut r = random(16);
        let queries: Vec<_> = (0..20).map(|_| source.row(&mut r)).collect();
        for metric in [Metric::Cosine, Metric::Euclidean] {
            let store = built(&table, &options(metric, dimension));
            let got = recall(&store, &table, metric, &queries, 0.95, 10, |_| true);
            assert!(got > 0.9, "{dimension} dimensions, {metric:?}: {got}");
        }
    }
}

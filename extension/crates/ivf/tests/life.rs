//! An index through its life: insertions, deletions, vacuum, growth, crashes after any edit, damage.

mod common;

use std::collections::BTreeSet;

use common::*;
use esr_ivf::memory::MemoryStore;
use esr_ivf::{Inserted, Key, PageStore, RowId, bulk_delete, check, current, insert, maintain};
use esr_vector::Metric;
use rand::Rng;
use rand::seq::IteratorRandom;

fn add(store: &MemoryStore, table: &mut Table, row: Option<Vec<f32>>) -> RowId {
    let id = table.add(row.clone());
    let structure = current(store, &mut None).unwrap();
    let key = row.as_ref().map_or(Key::Null, |row| Key::Vector(row));
    assert_eq!(insert(store, &structure, id, key).unwrap(), Inserted::Done);
    id
}

fn assert_sound(store: &MemoryStore, table: &Table, what: &str) {
    let mut rows = BTreeSet::new();
    let report = check(store, |row| {
        rows.insert(row);
    })
    .unwrap();
    assert!(report.problems.is_empty(), "{what}: {:?}", report.problems);
    assert_eq!(rows, table.rows.keys().copied().collect(), "{what}");
}

/// Deletes a share of the rows, then vacuums.
fn vacuum(store: &MemoryStore, table: &mut Table, share: f64, r: &mut rand_chacha::ChaCha8Rng) {
    let dead: BTreeSet<RowId> = table.rows.keys().copied().filter(|_| r.random_bool(share)).collect();
    table.rows.retain(|row, _| !dead.contains(row));
    let report = bulk_delete(store, &mut |row| dead.contains(&row)).unwrap();
    assert_eq!(report.removed, dead.len() as u64);
    assert_eq!(report.rows, table.rows.len() as u64);
    maintain(store, &mut table.clone(), &options(Metric::Cosine, 16)).unwrap();
}

#[test]
fn rows_come_and_go() {
    let source = Source::clustered(16, 6, 20, 1);
    for (seed, start) in [(1, 0), (2, 100), (3, 3000)] {
        let mut r = random(seed);
        let mut table = Table::of((0..start).map(|_| Some(source.row(&mut r))));
        let store = built(&table, &options(Metric::Cosine, 16));
        for round in 0..6 {
            for _ in 0..r.random_range(0..1500) {
                let row = match r.random_range(0..100) {
                    0 => None,
                    1 => Some(vec![0.0; 16]),
                    _ => Some(source.row(&mut r)),
                };
                add(&store, &mut table, row);
            }
            assert_sound(&store, &table, &format!("seed {seed}, round {round}, after insertions"));
            let share = [0.0, 0.2, 0.9, 1.0][round % 4];
            vacuum(&store, &mut table, share, &mut r);
            assert_sound(&store, &table, &format!("seed {seed}, round {round}, after vacuum of {share}"));
            if !table.rows.is_empty() {
                let queries: Vec<_> = (0..60).map(|_| source.row(&mut r)).collect();
                let got = recall(&store, &table, Metric::Cosine, &queries, 0.95, 10, |_| true);
                // Lists made for other rows than there are now, and few queries: a floor, not the promise.
                assert!(got > 0.88, "seed {seed}, round {round}: {got}");
            }
        }
    }
}

#[test]
fn space_is_used_again() {
    let source = Source::clustered(16, 6, 20, 2);
    let mut r = random(4);
    let mut table = Table::of((0..4000).map(|_| Some(source.row(&mut r))));
    let store = built(&table, &options(Metric::Cosine, 16));
    let before = store.block_count();
    for _ in 0..5 {
        vacuum(&store, &mut table, 0.5, &mut r);
        while table.rows.len() < 4000 {
            add(&store, &mut table, Some(source.row(&mut r)));
        }
    }
    assert!(store.block_count() <= before + before / 2, "{} pages, {before} at first", store.block_count());
    assert_sound(&store, &table, "after five times half");
}

/// Recall and rows scanned of a search for ten rows.
fn quality(store: &MemoryStore, table: &Table, queries: &[Vec<f32>]) -> (f64, f64) {
    let got = recall(store, table, Metric::Cosine, queries, 0.95, 10, |_| true);
    let mut scanned = 0;
    for query in queries {
        let mut search = search(store, query, 0.95);
        let mut exact = Exact { table, metric: Metric::Cosine, query };
        for _ in 0..10 {
            search.next(store, &mut exact).unwrap();
        }
        scanned += search.counters().rows_scanned;
    }
    (got, scanned as f64 / queries.len() as f64)
}

#[test]
fn an_index_that_grew_tenfold_is_as_good_as_a_new_one() {
    let source = Source::clustered(48, 12, 60, 3);
    let mut r = random(5);
    for start in [0, 2000] {
        let mut table = Table::of((0..start).map(|_| Some(source.row(&mut r))));
        let options = options(Metric::Cosine, 48);
        let store = built(&table, &options);
        while table.rows.len() < 20_000 {
            for _ in 0..2000 {
                add(&store, &mut table, Some(source.row(&mut r)));
            }
            maintain(&store, &mut table.clone(), &options).unwrap();
        }
        assert_sound(&store, &table, "after growth");
        let rebuilt = built(&table, &options);
        let queries: Vec<_> = (0..100).map(|_| source.row(&mut r)).collect();
        let (grown, new) = (quality(&store, &table, &queries), quality(&rebuilt, &table, &queries));
        println!("from {start}: recall, rows scanned: {grown:?}; rebuilt: {new:?}");
        assert!(grown.0 > 0.94, "from {start}: {grown:?}");
        assert!(grown.1 < 1.5 * new.1 + 200.0, "from {start}: {grown:?} against {new:?}");
    }
}

#[test]
fn a_crash_after_any_edit_leaves_an_index() {
    let source = Source::clustered(8, 4, 6, 4);
    let mut r = random(6);
    let mut table = Table::of((0..700).map(|_| Some(source.row(&mut r))));
    let options = options(Metric::Cosine, 8);
    let store = built(&table, &options);
    let built_after = store.edits();
    // What is in the index for sure after each edit: all that was there and not being removed.
    let mut sure: Vec<(usize, BTreeSet<RowId>)> = vec![(built_after, table.rows.keys().copied().collect())];
    for _ in 0..900 {
        let row = if r.random_bool(0.7) { source.row(&mut r) } else { vec![1.0, 2.0, 0.5, 0.1, 0.0, 1.0, 0.3, 0.2] };
        add(&store, &mut table, Some(row));
        sure.push((store.edits(), table.rows.keys().copied().collect()));
    }
    for _ in 0..2 {
        let dead: BTreeSet<RowId> = table.rows.keys().copied().filter(|_| r.random_bool(0.3)).collect();
        table.rows.retain(|row, _| !dead.contains(row));
        sure.push((store.edits(), table.rows.keys().copied().collect()));
        bulk_delete(&store, &mut |row| dead.contains(&row)).unwrap();
        maintain(&store, &mut table.clone(), &options).unwrap();
        for _ in 0..1500 {
            add(&store, &mut table, Some(source.row(&mut r)));
            sure.push((store.edits(), table.rows.keys().copied().collect()));
        }
    }
    maintain(&store, &mut table.clone(), &options).unwrap();
    let edits = store.edits();
    // Every edit of the vacuums and a sample of the many insertions.
    let mut tried = 0;
    for crash in built_after..=edits {
        let is_insertion = sure.iter().any(|(after, _)| *after == crash);
        if is_insertion && crash % 23 != 0 {
            continue;
        }
        tried += 1;
        let crashed = store.crashed_after(crash);
        let mut rows = BTreeSet::new();
        let report = check(&crashed, |row| {
            rows.insert(row);
        })
        .unwrap();
        assert!(report.problems.is_empty(), "after edit {crash} of {edits}: {:?}", report.problems);
        let (_, must) = sure.iter().rev().find(|(after, _)| *after <= crash).unwrap();
        assert!(must.is_subset(&rows), "after edit {crash} of {edits}: {} rows lost", must.difference(&rows).count());
        // It goes on living: vacuum finds what was lost on the way.
        if tried % 7 == 0 {
            let gone = |row: RowId| !table.rows.contains_key(&row);
            bulk_delete(&crashed, &mut |row| gone(row)).unwrap();
            maintain(&crashed, &mut table.clone(), &options).unwrap();
            let report = check(&crashed, |_| ()).unwrap();
            assert!(report.problems.is_empty(), "vacuum after edit {crash}: {:?}", report.problems);
        }
    }
    assert!(tried > 100, "{tried} crashes");
}

#[test]
fn a_search_that_vacuum_overtakes_misses_nothing() {
    let source = Source::clustered(12, 4, 6, 5);
    let mut r = random(7);
    let mut table = Table::of((0..3000).map(|_| Some(source.row(&mut r))));
    let options = options(Metric::Cosine, 12);
    let store = built(&table, &options);
    for pulled in [0, 1, 50, 500] {
        // Grow, start a search, and let vacuum split, compact or train under it.
        for _ in 0..6000 {
            add(&store, &mut table, Some(source.row(&mut r)));
        }
        let query = source.row(&mut r);
        let mut search = search(&store, &query, 0.9);
        let before: BTreeSet<RowId> = table.rows.keys().copied().collect();
        let mut exact = Exact { table: &table.clone(), metric: Metric::Cosine, query: &query };
        let mut rows = BTreeSet::new();
        for _ in 0..pulled {
            assert!(rows.insert(search.next(&store, &mut exact).unwrap().unwrap().row));
        }
        let dead: BTreeSet<RowId> = before.iter().copied().choose_multiple(&mut r, 1500).into_iter().collect();
        bulk_delete(&store, &mut |row| dead.contains(&row)).unwrap();
        table.rows.retain(|row, _| !dead.contains(row));
        let report = maintain(&store, &mut table.clone(), &options).unwrap();
        println!("{pulled} pulled: {report:?}");
        while let Some(neighbor) = search.next(&store, &mut exact).unwrap() {
            assert!(rows.insert(neighbor.row), "a row came twice");
        }
        let missing = before.iter().filter(|row| !dead.contains(row) && !rows.contains(row)).count();
        assert_eq!(missing, 0, "after {pulled} rows");
    }
}

#[test]
fn damage_is_an_error_that_names_the_block() {
    let source = Source::clustered(8, 4, 6, 6);
    let mut r = random(8);
    let table = Table::of((0..2000).map(|_| Some(source.row(&mut r))));
    let whole = built(&table, &options(Metric::Cosine, 8));
    let query = source.row(&mut r);
    for block in 0..whole.block_count() {
        for kind in 0..4 {
            let store = whole.crashed_after(whole.edits());
            store.damage(block, |bytes| match kind {
                0 => bytes.fill(0),
                1 => bytes.fill(0xff),
                2 => bytes[8..12].copy_from_slice(&block.to_le_bytes()),
                _ => bytes.iter_mut().for_each(|byte| *byte = r.random()),
            });
            // Any answer or error will do, in finite time; a panic or an endless loop will not.
            let Ok(structure) = current(&store, &mut None) else { continue };
            let mut search = esr_ivf::Search::new(structure, &query, Default::default());
            let mut exact = Exact { table: &table, metric: Metric::Cosine, query: &query };
            let mut rows = 0;
            while let Ok(Some(_)) = search.next(&store, &mut exact) {
                rows += 1;
                assert!(rows <= table.rows.len());
            }
            let _ = check(&store, |_| ());
        }
    }
}

//! Builds an index: sample, train, cluster, load, calibrate.
//!
//! Rows are read twice: once for a sample, once to be coded. Coding is done in batches by a few threads; the lists of a
//! batch's rows are gathered in memory and written in runs, so that the pages of a list lie together.

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::calibrate;
use crate::chain;
use crate::key::Key;
use crate::load::{Loaded, Loader};
use crate::options::BuildOptions;
use crate::page::{self, FIRST_LIST, Kind, META_BLOCK, Meta, PageHeader};
use crate::progress::{Phase, Progress, Silent};
use crate::store::{Edit, NO_BLOCK, PageStore, RowId, StoreError};
use crate::structure::{self, metric_number};
use crate::table::RowSource;
use crate::train::{self, Trained};

/// A build's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildReport {
    /// Rows in the index, those without vector or distance included.
    pub rows: u64,
    /// Lists with a centroid.
    pub lists: u32,
}

/// Builds an index into an empty store.
///
/// # Errors
/// Those of the store.
pub fn build<S: PageStore>(
    store: &S,
    rows: &mut dyn RowSource,
    options: &BuildOptions,
    progress: &mut dyn Progress,
) -> Result<BuildReport, StoreError> {
    write_first_page(store, options)?;
    progress.phase(Phase::Sampling, rows.estimated_rows());
    let (sample, count) = take_sample(rows, options, progress);
    progress.phase(Phase::Training, 0);
    // A sample may be all that was seen of a large table, so the larger number decides how many lists there are.
    let count = if count < train::MIN_TRAINING_ROWS { count } else { count.max(rows.estimated_rows()) };
    let trained = train::train(&sample, count, options, progress, &mut || store.check_for_interrupts());
    drop(sample);
    progress.phase(Phase::Loading, count);
    let report = load(store, rows, &trained, options, 1, progress)?;
    progress.phase(Phase::Calibrating, 0);
    calibrate::calibrate(store, options.seed)?;
    Ok(report)
}

/// An index without rows, as the init fork of an unlogged one needs it.
///
/// # Errors
/// Those of the store.
pub fn build_empty<S: PageStore>(store: &S, options: &BuildOptions) -> Result<(), StoreError> {
    write_first_page(store, options)?;
    let trained = train::untrained(options);
    load(store, &mut NoRows, &trained, options, 1, &mut Silent).map(drop)
}

/// Codes and writes all rows, then the directory and the model; the meta page last, which makes them the index.
fn load<S: PageStore>(
    store: &S,
    rows: &mut dyn RowSource,
    trained: &Trained,
    options: &BuildOptions,
    epoch: u32,
    progress: &mut dyn Progress,
) -> Result<BuildReport, StoreError> {
    let loaded = load_rows(store, rows, trained, options, epoch, progress)?;
    publish(store, trained, options, epoch, &loaded)?;
    Ok(BuildReport { rows: loaded.rows, lists: loaded.entries.len() as u32 - FIRST_LIST })
}

/// Codes and writes all rows to pages that nothing points to yet.
pub(crate) fn load_rows<S: PageStore>(
    store: &S,
    rows: &mut dyn RowSource,
    trained: &Trained,
    options: &BuildOptions,
    epoch: u32,
    progress: &mut dyn Progress,
) -> Result<Loaded, StoreError> {
    let mut loader = Loader::new(store, trained, options, epoch);
    try_scan(rows, |row, key| {
        loader.add(row, key)?;
        progress.done(1);
        Ok(())
    })?;
    loader.finish()
}

/// Shows every row until one fails.
pub(crate) fn try_scan(
    rows: &mut dyn RowSource,
    mut each: impl FnMut(RowId, Key<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut result = Ok(());
    rows.scan(&mut |row, key| {
        if result.is_ok() {
            result = each(row, key);
        }
    });
    result
}

/// Writes model and directory and points the meta page at them.
pub(crate) fn publish<S: PageStore>(
    store: &S,
    trained: &Trained,
    options: &BuildOptions,
    epoch: u32,
    loaded: &Loaded,
) -> Result<(), StoreError> {
    let model = postcard::to_stdvec(&trained.model).expect("a model of numbers can be written");
    let first_model = chain::write_stream(store, Kind::Model, &model)?;
    let directory = write_directory(store, trained, loaded)?;
    chain::change_meta(store, |meta| {
        meta.epoch = epoch.into();
        meta.generation = (meta.generation.get() + 1).into();
        meta.dimension = options.dimension.into();
        meta.metric = metric_number(options.metric).into();
        meta.is_trained = u16::from(trained.is_trained).into();
        meta.axes = (trained.model.rotation.axis_count() as u16).into();
        meta.groups = (trained.model.quantiser.group_count() as u16).into();
        meta.lists = (loaded.entries.len() as u32).into();
        meta.directory = directory.into();
        meta.model = first_model.into();
        meta.model_bytes = (model.len() as u32).into();
        meta.moving_from = NO_BLOCK.into();
        meta.moving_to = NO_BLOCK.into();
        meta.rows_at_training = loaded.rows.into();
        meta.rows = loaded.rows.into();
    })
}

/// Writes the directory, last page first; returns the first.
fn write_directory<S: PageStore>(store: &S, trained: &Trained, loaded: &Loaded) -> Result<u32, StoreError> {
    let axes = trained.model.rotation.axis_count();
    let per_page = page::entries_per_page(axes);
    let mut next = NO_BLOCK;
    for (position, entries) in loaded.entries.chunks(per_page).enumerate().rev() {
        let mut edit = store.edit();
        let (block, handle) = chain::allocate(store, &mut edit)?;
        let bytes = edit.bytes(handle);
        *page::write(bytes) = PageHeader::linked(Kind::Directory, position as u32, next);
        for (place, entry) in entries.iter().enumerate() {
            let list = position * per_page + place;
            let centroid = match list.checked_sub(FIRST_LIST as usize) {
                Some(number) => trained.centroids[number * axes..(number + 1) * axes].to_vec(),
                None => vec![0.0; axes],
            };
            write_entry(&mut bytes[page::entry_range(axes, place)], *entry, &centroid);
        }
        edit.commit();
        next = block;
    }
    Ok(next)
}

/// Writes one list's entry with its centroid.
pub(crate) fn write_entry(bytes: &mut [u8], mut entry: page::ListEntry, centroid: &[f32]) {
    let (step, centroid) = structure::centroid_bytes(centroid);
    entry.step = step.into();
    *page::write(bytes) = entry;
    bytes[size_of::<page::ListEntry>()..].copy_from_slice(&centroid);
}

/// Block 0, so that everything else can be allocated.
fn write_first_page<S: PageStore>(store: &S, options: &BuildOptions) -> Result<(), StoreError> {
    let mut edit = store.edit();
    let (block, handle) = edit.extend()?;
    assert_eq!(block, META_BLOCK, "an index is built into an empty store");
    let meta: &mut Meta = page::write(edit.bytes(handle));
    meta.page = PageHeader::new(Kind::Meta, 0);
    meta.dimension = options.dimension.into();
    meta.metric = metric_number(options.metric).into();
    meta.free = NO_BLOCK.into();
    meta.directory = NO_BLOCK.into();
    meta.model = NO_BLOCK.into();
    meta.moving_from = NO_BLOCK.into();
    meta.moving_to = NO_BLOCK.into();
    edit.commit();
    Ok(())
}

/// A random sample of the rows that have a direction, normalised, and the number of all such rows.
pub(crate) fn take_sample(
    rows: &mut dyn RowSource,
    options: &BuildOptions,
    progress: &mut dyn Progress,
) -> (Vec<f32>, u64) {
    let dimension = options.dimension as usize;
    let capacity = train::sample_rows(rows.estimated_rows(), options);
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    let mut sample: Vec<f32> = Vec::new();
    let mut seen = 0u64;
    rows.sample(capacity as u64, &mut |_, key| {
        progress.done(1);
        let Key::Vector(vector) = key else { return };
        let place = if (seen as usize) < capacity { Some(seen as usize) } else { None };
        // Reservoir sampling: row number n stays with probability capacity / n.
        let place = place.or_else(|| Some(random.random_range(0..=seen) as usize).filter(|&place| place < capacity));
        let Some(place) = place else {
            seen += 1;
            return;
        };
        let Some(vector) = structure::normalised(options.metric, vector) else { return };
        seen += 1;
        if place * dimension == sample.len() {
            sample.extend_from_slice(&vector);
        } else {
            sample[place * dimension..(place + 1) * dimension].copy_from_slice(&vector);
        }
    });
    (sample, seen)
}

struct NoRows;

impl RowSource for NoRows {
    fn estimated_rows(&self) -> u64 {
        0
    }

    fn scan(&mut self, _: &mut dyn FnMut(RowId, Key<'_>)) {}
}

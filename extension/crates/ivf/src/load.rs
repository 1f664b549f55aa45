//! Codes rows by the batch and writes them to the pages of their lists in runs.

use crate::block::{self, Arrival, Layout, StoredRow};
use crate::k_means;
use crate::key::Key;
use crate::options::BuildOptions;
use crate::page::{self, FIRST_LIST, ListEntry, ListHeader, NULL_LIST, UNRANKED_LIST};
use crate::parallel;
use crate::store::{BlockNumber, CONTENT_BYTES, Edit, NO_BLOCK, PageStore, RowId, StoreError};
use crate::structure::normalised;
use crate::train::Trained;

/// Rows coded at a time by one thread.
const BLOCK: usize = 256;
/// Rows gathered before the threads are started.
const BATCH: usize = 4096;

/// All rows on their pages.
pub struct Loaded {
    /// One for each list, those without centroid first.
    pub entries: Vec<ListEntry>,
    /// All rows.
    pub rows: u64,
}

/// See the module.
pub struct Loader<'a, S: PageStore> {
    store: &'a S,
    trained: &'a Trained,
    options: &'a BuildOptions,
    epoch: u32,
    layout: Layout,
    batch: Vec<f32>,
    batch_rows: Vec<RowId>,
    /// Coded rows that are not on a page yet.
    waiting: Vec<Waiting>,
    lists: Vec<Filling>,
}

struct Waiting {
    list: u32,
    row: RowId,
    norm: f32,
    /// Two codes a byte.
    packed: Box<[u8]>,
}

/// A list being filled.
#[derive(Clone)]
struct Filling {
    /// The page that will be the head; written last.
    head: Option<Box<[u8]>>,
    /// The page after it.
    next: BlockNumber,
    rows: u32,
    squared_distance: f64,
    squared_norm: f64,
}

impl<'a, S: PageStore> Loader<'a, S> {
    /// For lists that are all empty.
    pub fn new(store: &'a S, trained: &'a Trained, options: &'a BuildOptions, epoch: u32) -> Self {
        let lists = FIRST_LIST as usize + trained.centroids.len() / trained.model.rotation.axis_count();
        let layout = Layout {
            groups: trained.model.quantiser.group_count(),
            has_norms: options.metric == esr_vector::Metric::Euclidean,
        };
        let empty = Filling { head: None, next: NO_BLOCK, rows: 0, squared_distance: 0.0, squared_norm: 0.0 };
        Self {
            store,
            trained,
            options,
            epoch,
            layout,
            batch: Vec::new(),
            batch_rows: Vec::new(),
            waiting: Vec::new(),
            lists: vec![empty; lists],
        }
    }

    /// Adds a row.
    pub fn add(&mut self, row: RowId, key: Key<'_>) -> Result<(), StoreError> {
        let vector = match key {
            Key::Null => None,
            Key::Vector(vector) => Some(normalised(self.options.metric, vector)),
        };
        match vector {
            None => self.put(NULL_LIST, &StoredRow { row, norm: 0.0, codes: Vec::new() }),
            Some(None) => self.put(UNRANKED_LIST, &StoredRow { row, norm: 0.0, codes: Vec::new() }),
            Some(Some(vector)) => {
                self.batch.extend_from_slice(&vector);
                self.batch_rows.push(row);
                let bytes = size_of_val(self.batch.as_slice());
                if self.batch_rows.len() >= BATCH || bytes > self.options.memory_bytes / 4 {
                    self.code_batch()?;
                }
                Ok(())
            }
        }
    }

    /// Writes what is left; the heads last.
    pub fn finish(mut self) -> Result<Loaded, StoreError> {
        self.code_batch()?;
        self.write_run()?;
        let mut entries = Vec::with_capacity(self.lists.len());
        let mut total = 0;
        for number in 0..self.lists.len() {
            self.store.check_for_interrupts();
            let filling = self.lists[number].clone();
            let page = filling.head.unwrap_or_else(|| self.empty_page(number as u32, true));
            let head = self.write_page(&page, filling.next)?;
            let rows = f64::from(filling.rows.max(1));
            total += u64::from(filling.rows);
            let spread = (filling.squared_distance / rows) as f32 / self.trained.scatter;
            entries.push(ListEntry {
                head: head.into(),
                version: 0.into(),
                rows: filling.rows.into(),
                step: 0.0.into(),
                spread: spread.into(),
                norm: ((filling.squared_norm / rows) as f32).into(),
            });
        }
        Ok(Loaded { entries, rows: total })
    }

    fn code_batch(&mut self) -> Result<(), StoreError> {
        self.store.check_for_interrupts();
        let dimension = self.options.dimension as usize;
        let (trained, layout) = (self.trained, self.layout);
        let axes = trained.model.rotation.axis_count();
        let coded = parallel::map_blocks(&self.batch, BLOCK * dimension, self.options.threads, |rows| {
            let mut rotated = trained.model.rotation.rotate_rows(rows);
            let nearest = k_means::assign(&rotated, axes, &trained.centroids, 1);
            let mut codes = vec![0; layout.groups];
            let mut coded = Vec::with_capacity(nearest.len());
            let pairs = rows.chunks_exact(dimension).zip(rotated.chunks_exact_mut(axes));
            for ((vector, rotated), (list, distance)) in pairs.zip(nearest) {
                trained.model.quantiser.encode(rotated, &mut codes);
                let packed: Box<[u8]> = codes.chunks_exact(2).map(|pair| pair[0] | pair[1] << 4).collect();
                coded.push((list, distance, (esr_vector::kernels().dot)(vector, vector), packed));
            }
            coded
        });
        for (row, (list, distance, norm, packed)) in self.batch_rows.drain(..).zip(coded) {
            let list = list + FIRST_LIST;
            let filling = &mut self.lists[list as usize];
            filling.squared_distance += f64::from(distance);
            filling.squared_norm += f64::from(norm);
            self.waiting.push(Waiting { list, row, norm, packed });
        }
        self.batch.clear();
        let bytes = self.waiting.len() * (size_of::<Waiting>() + self.layout.code_bytes() + 16);
        if bytes > self.options.memory_bytes / 2 {
            self.write_run()?;
        }
        Ok(())
    }

    /// Puts all waiting rows on pages, list by list.
    fn write_run(&mut self) -> Result<(), StoreError> {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.sort_by_key(|row| row.list);
        for Waiting { list, row, norm, packed } in waiting {
            let codes = packed.iter().flat_map(|&pair| [pair & 15, pair >> 4]).collect();
            self.put(list, &StoredRow { row, norm, codes })?;
        }
        Ok(())
    }

    fn put(&mut self, list: u32, row: &StoredRow) -> Result<(), StoreError> {
        let layout = self.layout;
        let epoch = self.epoch;
        let filling = &mut self.lists[list as usize];
        filling.rows += 1;
        let head = filling.head.get_or_insert_with(|| empty_page(list, epoch, true));
        if block::put_row(layout, head, row, Arrival::Together) {
            return Ok(());
        }
        let mut full = std::mem::replace(head, empty_page(list, epoch, true));
        let next = filling.next;
        assert!(block::put_row(layout, head, row, Arrival::Together), "an empty page has no room for a row");
        page::write::<ListHeader>(&mut full).is_head = 0.into();
        let block = self.write_page(&full, next)?;
        self.lists[list as usize].next = block;
        Ok(())
    }

    fn write_page(&self, page: &[u8], next: BlockNumber) -> Result<BlockNumber, StoreError> {
        let mut edit = self.store.edit();
        let (block, handle) = crate::chain::allocate(self.store, &mut edit)?;
        let bytes = edit.bytes(handle);
        bytes.copy_from_slice(page);
        page::write::<ListHeader>(bytes).page.next = next.into();
        edit.commit();
        Ok(block)
    }

    fn empty_page(&self, list: u32, is_head: bool) -> Box<[u8]> {
        empty_page(list, self.epoch, is_head)
    }
}

fn empty_page(list: u32, epoch: u32, is_head: bool) -> Box<[u8]> {
    let mut page = vec![0; CONTENT_BYTES].into_boxed_slice();
    *page::write(&mut page) = ListHeader::new(list, epoch, 0, is_head);
    page
}

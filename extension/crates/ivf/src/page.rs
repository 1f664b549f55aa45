//! What lies on the pages. Change anything here and [`FORMAT`] goes up.
//!
//! ```text
//! block 0: meta ──▶ model pages (rotation, codebook: one byte stream over a chain of pages)
//!            ├────▶ directory pages ─▶ ...   one entry a list: head page, size, centroid in bytes
//!            └────▶ free pages ─▶ ...
//!
//! list: head ─▶ page ─▶ page ─▶ ...           new rows go to the head; when it is full its rows move to a new second page
//!
//! list page: | PageHeader | epoch, version, live | block 0 | block 1 | ...
//! block of 32 rows: | live bits 4 | row ids 32 x 6 | norms 32 x 4 (Euclidean only) | codes: 16 bytes a group |
//! codes of a group: low half of byte i = row i, high half = row i + 16
//! ```
//!
//! Lists 0 and 1 have no centroid: they hold the rows whose column is NULL and those whose distance is not a number (zero
//! vectors under cosine). All numbers are little-endian.

use esr_vector::kernel::BLOCK_ROWS;
use zerocopy::little_endian::{F32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::store::{BlockNumber, CONTENT_BYTES, NO_BLOCK, RowId, StoreError};

/// Version of everything in this file.
pub const FORMAT: u16 = 1;

const MAGIC: u32 = u32::from_le_bytes(*b"esrI");

/// Where the meta page is.
pub const META_BLOCK: BlockNumber = 0;

/// The list of rows whose column is NULL.
pub const NULL_LIST: u32 = 0;
/// The list of rows whose distance to anything is not a number.
pub const UNRANKED_LIST: u32 = 1;
/// The first list with a centroid.
pub const FIRST_LIST: u32 = 2;

/// Recall targets that a calibration has been made for.
pub const TARGETS: [f32; 10] = [0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999];
/// Numbers of rows wanted that a calibration has been made for.
pub const RANKS: [u32; 4] = [1, 10, 100, 1000];

/// What a page is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Block 0.
    Meta = 1,
    /// A piece of the model.
    Model = 2,
    /// Entries of lists.
    Directory = 3,
    /// Rows of a list.
    List = 4,
    /// Waiting to be used again.
    Free = 5,
}

/// First bytes of every page.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PageHeader {
    magic: U32,
    kind: U16,
    format: U16,
    /// Next page of the chain, or [`NO_BLOCK`].
    pub next: U32,
    /// List pages: the list; model and directory pages: position in their chain.
    pub owner: U32,
}

/// The meta page.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Meta {
    /// Kind [`Kind::Meta`].
    pub page: PageHeader,
    /// Goes up with each training; pages of lists carry it.
    pub epoch: U32,
    /// Goes up with every change of the directory or the model.
    pub generation: U32,
    /// Elements of a vector.
    pub dimension: U32,
    /// 0 cosine, 1 Euclidean, 2 inner product.
    pub metric: U16,
    /// 0: the codebook is a guess, made without rows to learn from.
    pub is_trained: U16,
    /// Rotated axes.
    pub axes: U16,
    /// Groups of a code.
    pub groups: U16,
    /// Lists, with the two that have no centroid.
    pub lists: U32,
    /// First page of the directory.
    pub directory: U32,
    /// First page of the model.
    pub model: U32,
    /// Length of the model's byte stream.
    pub model_bytes: U32,
    /// First free page.
    pub free: U32,
    /// A list whose rows are moving to the lists from `moving_to` on, or [`NO_BLOCK`].
    pub moving_from: U32,
    /// See `moving_from`.
    pub moving_to: U32,
    /// Rows at the last calibration, as far as 32 bits go.
    pub rows_at_calibration: U32,
    /// The model tag of the indexed embeddings, 0 if none had one yet.
    pub tag: U64,
    /// Rows that the model was trained and the lists were sized for.
    pub rows_at_training: U64,
    /// Rows when the index was built or last vacuumed.
    pub rows: U64,
    /// For each of [`RANKS`] and [`TARGETS`]: the share of missing rows that may be expected when a search stops.
    pub calibration: [[F32; TARGETS.len()]; RANKS.len()],
    /// Likewise: lists read by a search, on average over the calibration's queries.
    pub probed: [[F32; TARGETS.len()]; RANKS.len()],
}

/// A list in the directory; the centroid's bytes follow, one an axis.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ListEntry {
    /// First page; it never changes.
    pub head: U32,
    /// Version of the list when its rows were last counted; the head has the current one.
    pub version: U32,
    /// Rows when the index was built or last vacuumed.
    pub rows: U32,
    /// Size of one step of the centroid's bytes: coordinate = (byte - 128) * step.
    pub step: F32,
    /// Mean squared distance of its rows from the centroid, over that of all rows.
    pub spread: F32,
    /// Mean squared length of its rows.
    pub norm: F32,
}

/// First bytes of a list's page.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ListHeader {
    /// Kind [`Kind::List`].
    pub page: PageHeader,
    /// See [`Meta::epoch`].
    pub epoch: U32,
    /// Head only: goes up when rows leave the list or change pages.
    pub version: U32,
    /// Rows on this page.
    pub live: U16,
    /// 1 on the first page of a list.
    pub is_head: U16,
    reserved: U32,
}

const _: () = assert!(size_of::<PageHeader>() == 16);
const _: () = assert!(size_of::<Meta>() == 92 + 2 * 4 * TARGETS.len() * RANKS.len());
const _: () = assert!(size_of::<ListEntry>() == 24);
const _: () = assert!(size_of::<ListHeader>() == 32);

impl PageHeader {
    /// The header of a new page.
    pub fn new(kind: Kind, owner: u32) -> Self {
        Self {
            magic: MAGIC.into(),
            kind: (kind as u16).into(),
            format: FORMAT.into(),
            next: NO_BLOCK.into(),
            owner: owner.into(),
        }
    }

    /// The same with a page after it.
    pub fn linked(kind: Kind, owner: u32, next: BlockNumber) -> Self {
        Self { next: next.into(), ..Self::new(kind, owner) }
    }

    /// Whether this page is of a kind (and one of ours at all).
    pub fn is(&self, kind: Kind) -> bool {
        self.magic.get() == MAGIC && self.kind.get() == kind as u16
    }
}

impl ListHeader {
    /// The header of an empty page of a list.
    pub fn new(list: u32, epoch: u32, version: u32, is_head: bool) -> Self {
        Self {
            page: PageHeader::new(Kind::List, list),
            epoch: epoch.into(),
            version: version.into(),
            live: 0.into(),
            is_head: u16::from(is_head).into(),
            reserved: 0.into(),
        }
    }
}

/// Reads a struct from the start of a page and checks that the page is what it should be.
///
/// # Errors
/// [`StoreError::Damaged`] or [`StoreError::Format`].
pub fn read<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    bytes: &[u8],
    block: BlockNumber,
    kind: Kind,
) -> Result<&T, StoreError> {
    let header = header(bytes);
    if !header.is(kind) {
        let problem = if header.magic.get() == MAGIC {
            format!("a page of kind {} where one of kind {} ({kind:?}) belongs", header.kind.get(), kind as u16)
        } else {
            format!("it does not look like a page of esr_ivf ({kind:?} expected)")
        };
        return Err(StoreError::Damaged { block, problem });
    }
    if header.format.get() != FORMAT {
        return Err(StoreError::Format { found: header.format.get(), expected: FORMAT });
    }
    Ok(T::ref_from_prefix(bytes).expect("a page is longer than any header").0)
}

/// The first bytes of any page.
pub fn header(bytes: &[u8]) -> &PageHeader {
    PageHeader::ref_from_prefix(bytes).expect("a page is longer than its header").0
}

/// A struct at the start of a page that is being changed.
pub fn write<T: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned>(bytes: &mut [u8]) -> &mut T {
    T::mut_from_prefix(bytes).expect("a page is longer than any header").0
}

/// How blocks of rows lie on a list's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Groups of a code.
    pub groups: usize,
    /// Whether rows carry their squared length.
    pub has_norms: bool,
}

const ROW_ID_BYTES: usize = 6;

/// Where the rows of a block lie in their table, as they are stored: block and offset of each.
pub type RowIds = [u8; ROW_ID_BYTES * BLOCK_ROWS];

/// Reads one of them.
pub fn row_id(ids: &RowIds, slot: usize) -> RowId {
    let bytes = &ids[slot * ROW_ID_BYTES..][..ROW_ID_BYTES];
    let block = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
    RowId { block, offset: u16::from_le_bytes(bytes[4..].try_into().expect("two bytes")) }
}

const IDS: usize = 4;
const NORMS: usize = IDS + ROW_ID_BYTES * BLOCK_ROWS;

impl Layout {
    /// Where the codes of a block start.
    fn codes(self) -> usize {
        NORMS + if self.has_norms { 4 * BLOCK_ROWS } else { 0 }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.codes() + 16 * self.groups
    }

    /// Blocks of a page.
    pub fn blocks(self) -> usize {
        (CONTENT_BYTES - size_of::<ListHeader>()) / self.block_bytes()
    }

    /// Rows of a page.
    pub fn rows(self) -> usize {
        self.blocks() * BLOCK_ROWS
    }

    /// Bytes of the code of one row.
    pub fn code_bytes(self) -> usize {
        self.groups / 2
    }

    /// Most groups for vectors of a dimension: four bits for two axes, as far as whole blocks fill a page; sixteen bits an
    /// axis at most.
    pub fn most_groups(dimension: usize, has_norms: bool) -> usize {
        let norms = if has_norms { 4 * BLOCK_ROWS } else { 0 };
        let room = |blocks: usize| (((CONTENT_BYTES - size_of::<ListHeader>()) / blocks - NORMS - norms) / 16) & !1;
        // The kernel's 16-bit sums hold 256 groups; two blocks a page leave room for fewer.
        (4 * dimension).min(if dimension > 960 { 254.min(room(1)) } else { room(2) }).max(2)
    }

    fn block_start(self, block: usize) -> usize {
        size_of::<ListHeader>() + block * self.block_bytes()
    }

    /// One block of a page.
    pub fn block(self, page: &[u8], block: usize) -> Block<'_> {
        let start = self.block_start(block);
        Block { layout: self, bytes: &page[start..start + self.block_bytes()] }
    }
}

/// A block of 32 rows.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    layout: Layout,
    bytes: &'a [u8],
}

impl<'a> Block<'a> {
    /// A bit for each row that is there.
    pub fn live(&self) -> u32 {
        u32::from_le_bytes(self.bytes[..4].try_into().expect("four bytes"))
    }

    /// Where a row lies in its table.
    pub fn row(&self, slot: usize) -> RowId {
        row_id(self.rows(), slot)
    }

    /// Where all of them lie, whether they are there or not.
    pub fn rows(&self) -> &'a RowIds {
        self.bytes[IDS..][..size_of::<RowIds>()].try_into().expect("a block is longer")
    }

    /// The squared length of a row, 0 where rows carry none.
    pub fn norm(&self, slot: usize) -> f32 {
        if !self.layout.has_norms {
            return 0.0;
        }
        f32::from_le_bytes(self.bytes[NORMS + 4 * slot..][..4].try_into().expect("four bytes"))
    }

    /// The codes, for the kernel.
    pub fn codes(&self) -> &'a [u8] {
        &self.bytes[self.layout.codes()..]
    }

    /// The codes of one row, one a group.
    pub fn row_codes(&self, slot: usize) -> impl Iterator<Item = u8> + 'a {
        let (byte, shift) = (slot % 16, if slot < 16 { 0 } else { 4 });
        self.codes().chunks_exact(16).map(move |group| group[byte] >> shift & 15)
    }
}

/// What is stored of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRow {
    /// Where it lies in its table.
    pub row: RowId,
    /// Squared length, if the layout has norms.
    pub norm: f32,
    /// One code a group; empty for lists without centroid.
    pub codes: Vec<u8>,
}

/// Puts a row into the first free slot of a list's page; `false` if there is none.
pub fn put_row(layout: Layout, page: &mut [u8], row: &StoredRow) -> bool {
    for block in 0..layout.blocks() {
        let start = layout.block_start(block);
        let bytes = &mut page[start..start + layout.block_bytes()];
        let live = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
        let slot = live.trailing_ones() as usize;
        if slot == BLOCK_ROWS {
            continue;
        }
        bytes[..4].copy_from_slice(&(live | 1 << slot).to_le_bytes());
        let id = &mut bytes[IDS + slot * ROW_ID_BYTES..][..ROW_ID_BYTES];
        id[..4].copy_from_slice(&row.row.block.to_le_bytes());
        id[4..].copy_from_slice(&row.row.offset.to_le_bytes());
        if layout.has_norms {
            bytes[NORMS + 4 * slot..][..4].copy_from_slice(&row.norm.to_le_bytes());
        }
        let (byte, shift) = (slot % 16, if slot < 16 { 0 } else { 4 });
        for (group, &code) in bytes[layout.codes()..].chunks_exact_mut(16).zip(&row.codes) {
            group[byte] = group[byte] & !(15 << shift) | code << shift;
        }
        let header: &mut ListHeader = write(page);
        header.live.set(header.live.get() + 1);
        return true;
    }
    false
}

/// Frees the slot of a row.
pub fn remove_row(layout: Layout, page: &mut [u8], block: usize, slot: usize) {
    let start = layout.block_start(block);
    let live = u32::from_le_bytes(page[start..start + 4].try_into().expect("four bytes"));
    page[start..start + 4].copy_from_slice(&(live & !(1 << slot)).to_le_bytes());
    let header: &mut ListHeader = write(page);
    header.live.set(header.live.get().saturating_sub(1));
}

/// Every row of a list's page with its block and slot.
pub fn rows_of(layout: Layout, page: &[u8]) -> impl Iterator<Item = (usize, usize, Block<'_>)> {
    (0..layout.blocks()).flat_map(move |number| {
        let block = layout.block(page, number);
        let live = block.live();
        (0..BLOCK_ROWS).filter(move |slot| live >> slot & 1 == 1).map(move |slot| (number, slot, block))
    })
}

/// Reads a row out of its block.
pub fn stored(block: &Block<'_>, slot: usize) -> StoredRow {
    StoredRow { row: block.row(slot), norm: block.norm(slot), codes: block.row_codes(slot).collect() }
}

/// Entries of a directory page.
pub fn entries_per_page(axes: usize) -> usize {
    (CONTENT_BYTES - size_of::<PageHeader>()) / (size_of::<ListEntry>() + axes)
}

/// Where an entry lies on its directory page.
pub fn entry_range(axes: usize, position: usize) -> std::ops::Range<usize> {
    let bytes = size_of::<ListEntry>() + axes;
    let start = size_of::<PageHeader>() + position * bytes;
    start..start + bytes
}

//! Rows on a list's page. Knows bytes, not lists or chains.
//!
//! ```text
//! block of 32 rows: | live bits 4 | row ids 32 x 6 | norms 32 x 4 (Euclidean only) | codes: 16 bytes a group |
//! codes of a group: low half of byte i = row i, high half = row i + 16
//! codes of a fresh block: those of row 0, those of row 1, ...; two groups a byte, the even one in its low half
//! ```
//!
//! A search wants codes by the group. A row that arrives alone would then touch as many places as it has groups, and each would be
//! a fragment of the WAL record. So such rows fill a block row by row, which is turned around when all its 32 rows are there.
//! A page has one such block at most.

use std::ops::Range;

use esr_vector::kernel::BLOCK_ROWS;

use crate::page::{self, ListHeader};
use crate::store::{CONTENT_BYTES, RowId};

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

    fn block_range(self, block: usize) -> Range<usize> {
        let start = size_of::<ListHeader>() + block * self.block_bytes();
        start..start + self.block_bytes()
    }

    /// One block of a page.
    pub fn block(self, page: &[u8], block: usize) -> Block<'_> {
        let header: &ListHeader = page::view(page);
        Block {
            layout: self,
            bytes: &page[self.block_range(block)],
            is_fresh: header.fresh.get() as usize == block + 1,
        }
    }
}

/// A block of 32 rows.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    layout: Layout,
    bytes: &'a [u8],
    /// Whether its codes lie row by row.
    is_fresh: bool,
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

    /// The codes, 16 bytes a group, for the kernel; those of a fresh block are turned around in `buffer`.
    pub fn codes<'b>(&self, buffer: &'b mut Vec<u8>) -> &'b [u8]
    where
        'a: 'b,
    {
        if !self.is_fresh {
            return self.stored_codes();
        }
        buffer.resize(16 * self.layout.groups, 0);
        by_group(self.stored_codes(), self.layout.code_bytes(), buffer);
        buffer
    }

    /// The codes of one row, one a group.
    pub fn row_codes(&self, slot: usize) -> impl Iterator<Item = u8> + use<'a> {
        let (bytes, row, is_fresh) = (self.stored_codes(), slot * self.layout.code_bytes(), self.is_fresh);
        (0..self.layout.groups).map(move |group| {
            let (at, is_high) =
                if is_fresh { (row + group / 2, group % 2 == 1) } else { (16 * group + slot % 16, slot >= 16) };
            if is_high { bytes[at] >> 4 } else { bytes[at] & 15 }
        })
    }

    fn stored_codes(&self) -> &'a [u8] {
        &self.bytes[self.layout.codes()..]
    }
}

/// Turns codes that lie row by row (`code_bytes` a row) into 16 bytes a group, eight rows and eight bytes of each at a time.
fn by_group(rows: &[u8], code_bytes: usize, groups: &mut [u8]) {
    const LOW: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    let load = |row: usize, byte: usize| {
        let codes = &rows[row * code_bytes + byte..(row + 1) * code_bytes];
        let mut bytes = [0; 8];
        match codes.first_chunk() {
            Some(whole) => bytes = *whole,
            None => bytes[..codes.len()].copy_from_slice(codes),
        }
        u64::from_le_bytes(bytes)
    };
    for byte in (0..code_bytes).step_by(8) {
        for row in [0, 8] {
            let low = transposed(std::array::from_fn(|i| load(row + i, byte)));
            let high = transposed(std::array::from_fn(|i| load(row + 16 + i, byte)));
            for (i, (low, high)) in low.into_iter().zip(high).enumerate().take(code_bytes - byte) {
                let even = low & LOW | (high & LOW) << 4;
                let odd = low >> 4 & LOW | high & !LOW;
                let at = 32 * (byte + i) + row;
                groups[at..at + 8].copy_from_slice(&even.to_le_bytes());
                groups[at + 16..at + 24].copy_from_slice(&odd.to_le_bytes());
            }
        }
    }
}

/// Exchanges rows and columns of eight times eight bytes: halves, quarters, eighths (Warren, Hacker's Delight, section 7-3).
fn transposed(mut rows: [u64; 8]) -> [u64; 8] {
    for (step, mask) in [(4, 0x0000_0000_ffff_ffff_u64), (2, 0x0000_ffff_0000_ffff), (1, 0x00ff_00ff_00ff_00ff)] {
        for i in (0..8).filter(|i| i & step == 0) {
            let exchanged = (rows[i] >> (8 * step) ^ rows[i + step]) & mask;
            rows[i + step] ^= exchanged;
            rows[i] ^= exchanged << (8 * step);
        }
    }
    rows
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

/// Who puts a row on a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It comes alone, and its edit should be small.
    Alone,
    /// It comes with others.
    Together,
}

/// Puts a row into the first free slot of a list's page; `false` if there is none.
pub fn put_row(layout: Layout, page: &mut [u8], row: &StoredRow, arrival: Arrival) -> bool {
    let live_of = |page: &[u8], block: usize| layout.block(page, block).live();
    let Some(number) = (0..layout.blocks()).find(|&block| live_of(page, block) != u32::MAX) else { return false };
    let live = live_of(page, number);
    let slot = live.trailing_ones() as usize;
    let header: &mut ListHeader = page::write(page);
    header.live.set(header.live.get() + 1);
    if arrival == Arrival::Alone && live == 0 && header.fresh.get() == 0 && !row.codes.is_empty() {
        header.fresh.set(number as u32 + 1);
    }
    let is_fresh = header.fresh.get() as usize == number + 1;
    let is_full = live | 1 << slot == u32::MAX;
    if is_fresh && is_full {
        header.fresh.set(0);
    }
    let bytes = &mut page[layout.block_range(number)];
    bytes[..4].copy_from_slice(&(live | 1 << slot).to_le_bytes());
    let id = &mut bytes[IDS + slot * ROW_ID_BYTES..][..ROW_ID_BYTES];
    id[..4].copy_from_slice(&row.row.block.to_le_bytes());
    id[4..].copy_from_slice(&row.row.offset.to_le_bytes());
    if layout.has_norms {
        bytes[NORMS + 4 * slot..][..4].copy_from_slice(&row.norm.to_le_bytes());
    }
    let codes = &mut bytes[layout.codes()..];
    if is_fresh {
        let place = &mut codes[slot * layout.code_bytes()..][..layout.code_bytes()];
        place.iter_mut().zip(row.codes.chunks_exact(2)).for_each(|(byte, pair)| *byte = pair[0] | pair[1] << 4);
        if is_full {
            let rows = codes.to_vec();
            by_group(&rows, layout.code_bytes(), codes);
        }
    } else {
        let (byte, shift) = (slot % 16, if slot < 16 { 0 } else { 4 });
        for (group, &code) in codes.chunks_exact_mut(16).zip(&row.codes) {
            group[byte] = group[byte] & !(15 << shift) | code << shift;
        }
    }
    true
}

/// Frees the slot of a row.
pub fn remove_row(layout: Layout, page: &mut [u8], block: usize, slot: usize) {
    let live = layout.block(page, block).live() & !(1 << slot);
    page[layout.block_range(block)][..4].copy_from_slice(&live.to_le_bytes());
    let header: &mut ListHeader = page::write(page);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::page::ListHeader;

    proptest! {
        /// Whatever comes and goes, in whatever way it came, a page holds what a list of rows would.
        #[test]
        fn a_page_holds_what_was_put_there(
            groups in (1..=121_usize).prop_map(|half| 2 * half),
            has_norms: bool,
            steps in prop::collection::vec((any::<bool>(), 0..8_u8, any::<u64>()), 1..300),
        ) {
            let layout = Layout { groups, has_norms };
            let mut page = vec![0; CONTENT_BYTES];
            *page::write(&mut page) = ListHeader::new(7, 1, 0, true);
            let mut expected: Vec<StoredRow> = vec![];
            for (is_alone, action, seed) in steps {
                if action == 0 && !expected.is_empty() {
                    let gone = expected.swap_remove(seed as usize % expected.len());
                    let (number, slot, _) = rows_of(layout, &page).find(|(_, slot, b)| b.row(*slot) == gone.row).unwrap();
                    remove_row(layout, &mut page, number, slot);
                    continue;
                }
                let codes = (0..groups as u64).map(|group| (seed.rotate_left(group as u32 % 61) ^ group) as u8 & 15).collect();
                let row = RowId { block: seed as u32, offset: (seed >> 32) as u16 };
                let row = StoredRow { row, norm: if has_norms { seed as u16 as f32 } else { 0.0 }, codes };
                if expected.iter().any(|other| other.row == row.row) {
                    continue;
                }
                let arrival = if is_alone { Arrival::Alone } else { Arrival::Together };
                prop_assert_eq!(put_row(layout, &mut page, &row, arrival), expected.len() < layout.rows());
                if expected.len() < layout.rows() {
                    expected.push(row);
                }
            }
            let mut found: Vec<_> = rows_of(layout, &page).map(|(_, slot, block)| stored(&block, slot)).collect();
            found.sort_by_key(|row| row.row);
            expected.sort_by_key(|row| row.row);
            prop_assert_eq!(usize::from(page::view::<ListHeader>(&page).live.get()), expected.len());
            prop_assert_eq!(&found, &expected);
            // What the kernel reads is what a row is said to have.
            let mut buffer = vec![];
            for number in 0..layout.blocks() {
                let block = layout.block(&page, number);
                let codes = block.codes(&mut buffer);
                for slot in (0..BLOCK_ROWS).filter(|slot| block.live() >> slot & 1 == 1) {
                    let seen = codes.chunks_exact(16).map(|g| if slot < 16 { g[slot] & 15 } else { g[slot - 16] >> 4 });
                    prop_assert!(seen.eq(block.row_codes(slot)));
                }
            }
        }
    }

    #[test]
    fn a_row_that_comes_alone_changes_few_places() {
        let layout = Layout { groups: 242, has_norms: false };
        let mut page = vec![0; CONTENT_BYTES];
        *page::write(&mut page) = ListHeader::new(7, 1, 0, true);
        for i in 0..BLOCK_ROWS as u32 - 1 {
            let before = page.clone();
            let row = StoredRow { row: RowId { block: i + 1, offset: 1 }, norm: 0.0, codes: vec![5; layout.groups] };
            assert!(put_row(layout, &mut page, &row, Arrival::Alone));
            let changed: Vec<_> = (0..page.len()).filter(|&at| page[at] != before[at]).collect();
            let fragments = 1 + changed.windows(2).filter(|pair| pair[1] - pair[0] > 4).count();
            assert!(fragments <= 5, "row {i} changes {fragments} separate places");
        }
    }
}

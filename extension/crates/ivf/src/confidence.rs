//! How many nearer rows the unread lists may still hold.
//!
//! The scores of a list's rows against a query scatter around the score of its centroid: by how much, follows from the
//! variances of rows around their centroids along each rotated axis, weighted by the query, and from how spread out this
//! list is. Taken as normal, that gives the number of rows expected above any threshold.
//!
//! A query that asks for what few rows have meets scores that are not normal: rows far out are more than they should be.
//! The lists already read show it, and what is expected of the others is widened until those read, and the later half of
//! them, are expected to hold as many of the best rows as were found in them. A calibration at build time says how far to
//! trust the result ([`crate::calibrate`]).

/// A list as a query sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ListScore {
    /// The list.
    pub list: u32,
    /// Score of its centroid.
    pub centre: f32,
    /// Standard deviation of its rows' scores around it.
    pub deviation: f32,
    /// How many rows it had when they were last counted.
    pub rows: f32,
}

/// Lists are read in the order of the score that their best rows may have: this many deviations above the centre.
const OPTIMISM: f32 = 2.0;

/// Beyond this many deviations nothing is expected.
const FAR: f32 = 5.0;

/// Factor of a step by which deviations are widened, and how many steps at most: fivefold.
const WIDER: f32 = 1.15;
const MOST_STEPS: i32 = 12;

impl ListScore {
    fn promise(&self) -> f32 {
        self.centre + OPTIMISM * self.deviation
    }
}

/// Lists in the order in which they are worth reading, sorted only as far as they are needed.
#[derive(Debug)]
pub struct Order {
    lists: Vec<ListScore>,
    sorted: usize,
    taken: usize,
    read: Columns,
    near: Near,
    near_above: f32,
    /// Deviations are this many [`WIDER`] steps wider than the variances say.
    steps: i32,
}

/// Lists by column, as the kernel wants them.
#[derive(Debug, Default)]
struct Columns {
    centres: Vec<f32>,
    /// One over their deviations.
    inverses: Vec<f32>,
    rows: Vec<f32>,
}

impl Columns {
    fn clear(&mut self) {
        self.centres.clear();
        self.inverses.clear();
        self.rows.clear();
    }

    fn push(&mut self, list: &ListScore) {
        self.centres.push(list.centre);
        self.inverses.push(1.0 / list.deviation.max(1e-12));
        self.rows.push(list.rows);
    }

    /// Rows expected above a score in those from a place on, if deviations are so many steps wider.
    fn expected_above(&self, score: f32, steps: i32, first: usize) -> f32 {
        let sum = esr_vector::kernels().upper_tails;
        sum(score, WIDER.powi(-steps), &self.centres[first..], &self.inverses[first..], &self.rows[first..])
    }
}

/// Lists that matter above some score, in their order, as far as they were unread when this was written.
#[derive(Debug, Default)]
struct Near {
    places: Vec<u32>,
    columns: Columns,
}

impl Near {
    fn fill(&mut self, lists: &[ListScore], first: usize, score: f32, steps: i32) {
        self.places.clear();
        self.columns.clear();
        let far = FAR * WIDER.powi(steps);
        for (place, list) in lists.iter().enumerate().skip(first) {
            if list.centre + far * list.deviation > score {
                self.places.push(place as u32);
                self.columns.push(list);
            }
        }
    }

    /// Rows expected above a score in those that come at a place or after it.
    fn expected_above(&self, score: f32, steps: i32, first: usize) -> f32 {
        self.columns.expected_above(score, steps, self.places.partition_point(|&place| (place as usize) < first))
    }
}

impl Order {
    /// Takes lists in any order.
    pub fn new(lists: Vec<ListScore>) -> Self {
        Self {
            lists,
            sorted: 0,
            taken: 0,
            read: Columns::default(),
            near: Near::default(),
            near_above: f32::INFINITY,
            steps: 0,
        }
    }

    /// The next list to read.
    pub fn take_next(&mut self) -> Option<ListScore> {
        if self.taken == self.sorted {
            self.sort_more();
        }
        let next = self.lists.get(self.taken).copied()?;
        self.taken += 1;
        self.read.push(&next);
        Some(next)
    }

    /// The lists that come next, as far as they are known.
    pub fn coming(&self) -> impl Iterator<Item = u32> {
        self.lists[self.taken..self.sorted].iter().map(|list| list.list)
    }

    /// Whether every list has been read.
    pub fn is_exhausted(&self) -> bool {
        self.taken == self.lists.len()
    }

    /// Lists read so far.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Adds lists that came into being during the search.
    pub fn add(&mut self, lists: impl IntoIterator<Item = ListScore>) {
        self.lists.extend(lists);
        self.sorted = self.taken;
        self.near_above = f32::INFINITY;
    }

    fn sort_more(&mut self) {
        const FIRST: usize = 64;
        let rest = &mut self.lists[self.sorted..];
        let count = rest.len().min(FIRST.max(self.sorted));
        let better = |a: &ListScore, b: &ListScore| b.promise().total_cmp(&a.promise());
        if count < rest.len() {
            rest.select_nth_unstable_by(count, better);
        }
        rest[..count].sort_unstable_by(better);
        self.sorted += count;
        // The places of lists have changed.
        self.near_above = f32::INFINITY;
    }

    /// Rows expected above a score in all unread lists.
    pub fn expected_above(&mut self, score: f32) -> f32 {
        if score < self.near_above {
            // A little lower than asked, so that a falling threshold does not look through all lists each time.
            self.near_above = score - 0.02 * score.abs();
            self.near.fill(&self.lists, self.taken, self.near_above, self.steps);
        }
        self.near.expected_above(score, self.steps, self.taken)
    }

    /// Learns from the best rows found: the lowest of their scores, and how many lists had been read when each was found;
    /// `growth` is how much larger the lists have become since they were counted.
    pub fn learn(&mut self, score: f32, found_at: &[u32], growth: f32) {
        let half = self.taken / 2;
        let later = found_at.iter().filter(|&&lists| lists as usize > half).count() as f32 / growth;
        let all = found_at.len() as f32 / growth;
        let read = &self.read;
        let is_enough = |steps: i32| {
            read.expected_above(score, steps, half) >= later && read.expected_above(score, steps, 0) >= all
        };
        let before = self.steps;
        let mut steps = before;
        if is_enough(steps) {
            while steps > 0 && is_enough(steps - 1) {
                steps -= 1;
            }
        } else {
            while steps < MOST_STEPS && !is_enough(steps) {
                steps += 1;
            }
        }
        self.steps = steps;
        if steps > before {
            self.near_above = f32::INFINITY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(list: u32, centre: f32) -> ListScore {
        ListScore { list, centre, deviation: 0.1, rows: 100.0 }
    }

    /// Rows of a list expected above a score.
    fn expected_above(list: &ListScore, score: f32) -> f32 {
        (esr_vector::kernels().upper_tails)(score, 1.0, &[list.centre], &[1.0 / list.deviation], &[list.rows])
    }

    #[test]
    fn lists_come_best_first_and_every_one_comes() {
        let lists: Vec<ListScore> = (0..500).map(|i| list(i, ((i * 7919) % 500) as f32)).collect();
        let mut order = Order::new(lists);
        let mut last = f32::INFINITY;
        for count in 1..=500 {
            let next = order.take_next().unwrap();
            assert!(next.centre <= last);
            last = next.centre;
            assert_eq!(order.taken(), count);
        }
        assert!(order.is_exhausted() && order.take_next().is_none());
    }

    #[test]
    fn expectation_counts_unread_lists_only() {
        let all: Vec<ListScore> = (0..300).map(|i| list(i, i as f32 / 300.0)).collect();
        let mut order = Order::new(all.clone());
        for _ in 0..200 {
            for score in [0.9f32, 0.5, 0.7, -1.0] {
                let mut naive: Vec<ListScore> = all.clone();
                naive.sort_by(|a, b| b.centre.total_cmp(&a.centre));
                let want: f32 = naive[order.taken()..].iter().map(|list| expected_above(list, score)).sum();
                let got = order.expected_above(score);
                assert!((want - got).abs() <= 1e-3 * want + 1e-3, "{want} {got}");
            }
            order.take_next();
        }
    }

    #[test]
    fn rows_found_where_none_were_expected_widen_what_is_expected_elsewhere() {
        let lists = || (0..20).map(|i| list(i, -(i as f32) / 20.0)).collect();
        let expected = |found_at: &[u32]| {
            let mut order = Order::new(lists());
            (0..10).for_each(|_| _ = order.take_next());
            order.learn(0.5, found_at, 1.0);
            order.expected_above(0.5)
        };
        let mut last = expected(&[]);
        for found in [1, 5, 20] {
            let expected = expected(&vec![1; found]);
            assert!(expected > 2.0 * last, "{found} rows found: {expected} against {last}");
            last = expected;
        }
        assert!(expected(&[1, 2, 3, 9, 10]) > expected(&[1, 1, 1, 2, 3]), "rows found late promise more to come");
        assert_eq!(expected(&[10; 500]), expected(&[10; 5000]), "there is a limit");
    }
}

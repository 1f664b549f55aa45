//! Which rows are computed next, and together. Knows neither threads nor sockets nor models, and reads no clock: whoever
//! calls says what time it is, so that every promise below is tested without waiting.
//!
//! A *row* is one text or one window of a clip, of a *length* in tokens or microseconds. A *job* is what a connection waits for:
//! rows of one request. A batch holds rows of one group (a model), of similar length, and never costs more than the group's budget:
//! rows times the longest of them, because the shorter ones are padded; only a single row may cost more. Its *leader* is chosen first:
//!
//! * interactive before backfill, but after [`Limits::streak`] interactive batches in a row it is backfill's turn, if any waits;
//! * within a class the roles take turns, one leader each;
//! * within a role, the oldest row.
//!
//! Rows that fit to the leader then fill the batch: of the same class and group, oldest first, beginning with the leader's own
//! role. So whatever waits gets its turn: a row waits for the older rows of its class and role, for one batch of each other
//! role in between, and for a bounded number of batches of the other class.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use esr_wire::Class;

/// Bounds on batches and on the queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// The shortest row of a batch is at least this part of the longest.
    pub shortest_share: f64,
    /// Jobs that may wait. Backfill may take half of them.
    pub jobs: usize,
    /// How long a batch that is not full waits for more rows.
    pub max_delay: Duration,
    /// Interactive batches in a row while backfill waits.
    pub streak: u32,
}

/// Whose rows they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Origin {
    /// Chosen by the caller, never used twice.
    pub job: u64,
    /// How urgent it is.
    pub class: Class,
    /// Roles take turns.
    pub role: u32,
    /// After this moment nobody wants the answer.
    pub deadline: Option<Instant>,
    /// The rest of a request that was let in: it is not refused half-way.
    pub goes_on: bool,
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row<T> {
    /// Only rows of one group share a batch.
    pub group: u64,
    /// In tokens or microseconds.
    pub length: u64,
    /// Cost of a batch of this group: its rows times the length of the longest.
    pub budget: u64,
    /// What the caller gets back.
    pub payload: T,
}

/// The queue is full; nothing of the job was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// Jobs that wait.
    pub waiting: usize,
    /// Jobs that may wait in this class.
    pub limit: usize,
}

/// What to do now.
#[derive(Debug, PartialEq)]
pub struct Taken<T> {
    /// Rows to compute together; empty if there are none yet.
    pub batch: Vec<T>,
    /// Rows whose deadline passed while they waited. They are not computed.
    pub expired: Vec<T>,
    /// When to ask again although nothing has been pushed; only for an empty batch.
    pub again_at: Option<Instant>,
}

/// Rows that wait.
#[derive(Debug)]
pub struct Batcher<T> {
    limits: Limits,
    /// By [`index`] of the class.
    classes: [Roles<T>; 2],
    jobs: BTreeMap<u64, Job>,
    /// Interactive batches since backfill last had its turn or had nothing waiting.
    streak: u32,
}

#[derive(Debug, Clone, Copy)]
struct Job {
    class: Class,
    role: u32,
    rows: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    origin: Origin,
    since: Instant,
    row: Row<T>,
}

impl<T> Waiting<T> {
    fn is_expired(&self, now: Instant) -> bool {
        self.origin.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// The rows of one class.
#[derive(Debug)]
struct Roles<T> {
    /// Never an empty queue.
    queues: BTreeMap<u32, VecDeque<Waiting<T>>>,
    /// The keys of `queues`, the next in turn first.
    turns: VecDeque<u32>,
    jobs: usize,
}

fn index(class: Class) -> usize {
    match class {
        Class::Interactive => 0,
        Class::Backfill => 1,
    }
}

impl<T> Batcher<T> {
    /// Nothing waits yet.
    pub fn new(limits: Limits) -> Self {
        let empty = || Roles { queues: BTreeMap::new(), turns: VecDeque::new(), jobs: 0 };
        Self { limits, classes: [empty(), empty()], jobs: BTreeMap::new(), streak: 0 }
    }

    /// Jobs that wait, in whole or in part.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Takes a job in, or says at once that there is no room for it.
    pub fn push(&mut self, origin: Origin, rows: Vec<Row<T>>, now: Instant) -> Result<(), Full> {
        if rows.is_empty() {
            return Ok(());
        }
        let class = &mut self.classes[index(origin.class)];
        let (waiting, limit) = match origin.class {
            Class::Interactive => (self.jobs.len(), self.limits.jobs),
            Class::Backfill => (class.jobs, (self.limits.jobs / 2).max(1)),
        };
        // Backfill must leave room, and must not take what is left when the others need it.
        let is_full = waiting >= limit || self.jobs.len() >= self.limits.jobs;
        if is_full && !origin.goes_on {
            return Err(Full { waiting, limit });
        }
        self.jobs.insert(origin.job, Job { class: origin.class, role: origin.role, rows: rows.len() });
        class.jobs += 1;
        let queue = class.queues.entry(origin.role).or_default();
        if queue.is_empty() {
            class.turns.push_back(origin.role);
        }
        queue.extend(rows.into_iter().map(|row| Waiting { origin, since: now, row }));
        Ok(())
    }

    /// Forgets a job; returns those of its rows that still waited.
    pub fn cancel(&mut self, job: u64) -> Vec<T> {
        let Some(Job { class, role, .. }) = self.jobs.get(&job).copied() else { return Vec::new() };
        let mut removed = Vec::new();
        let roles = &mut self.classes[index(class)];
        if let Some(queue) = roles.queues.get_mut(&role) {
            let (gone, stay) = std::mem::take(queue).into_iter().partition(|waiting| waiting.origin.job == job);
            *queue = stay;
            removed = Vec::from(gone);
        }
        roles.forget_if_empty(role);
        removed.into_iter().map(|waiting| self.leaves(waiting)).collect()
    }

    /// The next batch, and what has expired.
    pub fn take(&mut self, now: Instant) -> Taken<T> {
        let mut expired = Vec::new();
        loop {
            let Some(class) = self.choose_class() else {
                return Taken { batch: Vec::new(), expired, again_at: None };
            };
            let roles = &mut self.classes[index(class)];
            let role = roles.turns[0];
            let late = roles.take_expired_heads(role, now);
            if !late.is_empty() {
                expired.extend(late.into_iter().map(|waiting| self.leaves(waiting)));
                continue;
            }
            if let Some(again_at) = self.wait_for_more(class, role, now) {
                return Taken { batch: Vec::new(), expired, again_at: Some(again_at) };
            }
            self.count_turn(class);
            let (batch, late) = self.classes[index(class)].fill(&self.limits, now);
            expired.extend(late.into_iter().map(|waiting| self.leaves(waiting)));
            let batch = batch.into_iter().map(|waiting| self.leaves(waiting)).collect();
            return Taken { batch, expired, again_at: None };
        }
    }

    fn choose_class(&self) -> Option<Class> {
        let waits = |class| !self.classes[index(class)].turns.is_empty();
        match (waits(Class::Interactive), waits(Class::Backfill)) {
            (false, false) => None,
            (true, true) if self.streak >= self.limits.streak => Some(Class::Backfill),
            (true, _) => Some(Class::Interactive),
            (false, true) => Some(Class::Backfill),
        }
    }

    fn count_turn(&mut self, class: Class) {
        let backfill_waits = !self.classes[index(Class::Backfill)].turns.is_empty();
        self.streak = if class == Class::Interactive && backfill_waits { self.streak + 1 } else { 0 };
    }

    /// Until when a batch that is not full waits, if it does.
    fn wait_for_more(&self, class: Class, role: u32, now: Instant) -> Option<Instant> {
        if self.limits.max_delay.is_zero() {
            return None;
        }
        let roles = &self.classes[index(class)];
        let leader = &roles.queues[&role][0];
        let until = leader.since + self.limits.max_delay;
        let rows = roles.queues.values().flatten();
        let is_full = rows.map(|waiting| waiting.row.length).sum::<u64>() >= leader.row.budget;
        (now < until && !is_full).then_some(until)
    }

    /// Bookkeeping for a row that is out of its queue.
    fn leaves(&mut self, waiting: Waiting<T>) -> T {
        let job = waiting.origin.job;
        if let Some(state) = self.jobs.get_mut(&job) {
            state.rows -= 1;
            if state.rows == 0 {
                self.classes[index(state.class)].jobs -= 1;
                self.jobs.remove(&job);
            }
        }
        waiting.row.payload
    }
}

impl<T> Roles<T> {
    fn take_expired_heads(&mut self, role: u32, now: Instant) -> Vec<Waiting<T>> {
        let mut late = Vec::new();
        if let Some(queue) = self.queues.get_mut(&role) {
            while queue.front().is_some_and(|waiting| waiting.is_expired(now)) {
                late.extend(queue.pop_front());
            }
        }
        self.forget_if_empty(role);
        late
    }

    fn forget_if_empty(&mut self, role: u32) {
        if self.queues.get(&role).is_some_and(VecDeque::is_empty) {
            self.queues.remove(&role);
            self.turns.retain(|other| *other != role);
        }
    }

    /// Takes the leader and the rows that fit to it; and, on the way, rows that are too late. The leader's role has had its
    /// turn.
    fn fill(&mut self, limits: &Limits, now: Instant) -> (Vec<Waiting<T>>, Vec<Waiting<T>>) {
        let (mut batch, mut late): (Vec<Waiting<T>>, _) = (Vec::new(), Vec::new());
        let mut shape: Option<Shape> = None;
        let order: Vec<u32> = self.turns.iter().copied().collect();
        for role in order {
            let Some(queue) = self.queues.get_mut(&role) else { continue };
            let mut stay = VecDeque::with_capacity(queue.len());
            while let Some(waiting) = queue.pop_front() {
                if waiting.is_expired(now) {
                    late.push(waiting);
                    continue;
                }
                let row = &waiting.row;
                let grown = match &shape {
                    None => Some(Shape::new(row)),
                    Some(shape) => shape.with(row, limits),
                };
                match grown {
                    Some(grown) => {
                        shape = Some(grown);
                        batch.push(waiting);
                    }
                    None => stay.push_back(waiting),
                }
                if shape.as_ref().is_some_and(|shape| shape.is_full()) {
                    break;
                }
            }
            stay.append(queue);
            *queue = stay;
            self.forget_if_empty(role);
            if shape.as_ref().is_some_and(|shape| shape.is_full()) {
                break;
            }
        }
        if let Some(leader) = batch.first().map(|leader| leader.origin.role)
            && self.turns.front() == Some(&leader)
        {
            self.turns.rotate_left(1);
        }
        (batch, late)
    }
}

/// What a batch has so far.
struct Shape {
    group: u64,
    budget: u64,
    rows: u64,
    shortest: u64,
    longest: u64,
}

impl Shape {
    fn new<T>(row: &Row<T>) -> Shape {
        Shape { group: row.group, budget: row.budget, rows: 1, shortest: row.length, longest: row.length }
    }

    fn with<T>(&self, row: &Row<T>, limits: &Limits) -> Option<Shape> {
        let (shortest, longest) = (self.shortest.min(row.length), self.longest.max(row.length));
        let fits = (self.rows + 1).saturating_mul(longest) <= self.budget;
        let is_similar = shortest as f64 >= limits.shortest_share * longest as f64;
        let is_mate = row.group == self.group && fits && is_similar;
        is_mate.then_some(Shape { rows: self.rows + 1, shortest, longest, ..*self })
    }

    /// Whether no further row can fit, however short.
    fn is_full(&self) -> bool {
        (self.rows + 1).saturating_mul(self.longest) > self.budget
    }
}

#[cfg(test)]
mod tests;

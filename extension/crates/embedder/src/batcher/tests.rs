//! The promises of the batcher, against a plain model of it: a list of rows and what became of each.

use proptest::prelude::*;

use super::*;

const BUDGET: u64 = 60;
const LIMITS: Limits = Limits { shortest_share: 0.5, jobs: 12, max_delay: Duration::ZERO, streak: 3 };

#[derive(Debug, Clone)]
enum Step {
    Push { class: Class, role: u32, group: u64, lengths: Vec<u64>, lives_ms: Option<u64>, goes_on: bool },
    Take,
    Cancel(prop::sample::Index),
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let class = prop_oneof![Just(Class::Interactive), Just(Class::Backfill)];
    let lives = prop::option::weighted(0.3, 1u64..40);
    let push = (class, 0u32..4, 0u64..2, prop::collection::vec(1u64..80, 1..6), lives, prop::bool::weighted(0.1));
    prop_oneof![
        4 => push.prop_map(|(class, role, group, lengths, lives_ms, goes_on)| {
            Step::Push { class, role, group, lengths, lives_ms, goes_on }
        }),
        4 => Just(Step::Take),
        1 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        1 => (1u64..20).prop_map(Step::Advance),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Waits,
    Ran,
    Expired,
    Cancelled,
}

struct Known {
    origin: Origin,
    group: u64,
    length: u64,
    fate: Fate,
}

/// The payload of a row is its place in this list.
struct Model {
    batcher: Batcher<usize>,
    rows: Vec<Known>,
    jobs: u64,
    now: Instant,
    /// By class: how often each waiting role has been passed over since it last led or began to wait.
    passed_over: [BTreeMap<u32, Vec<u32>>; 2],
    interactive_in_a_row: u32,
}

impl Model {
    fn new() -> Self {
        Self {
            batcher: Batcher::new(LIMITS),
            rows: Vec::new(),
            jobs: 0,
            now: Instant::now(),
            passed_over: Default::default(),
            interactive_in_a_row: 0,
        }
    }

    fn waiting(&self) -> impl Iterator<Item = (usize, &Known)> {
        self.rows.iter().enumerate().filter(|(_, row)| row.fate == Fate::Waits)
    }

    fn waiting_jobs(&self, class: Option<Class>) -> usize {
        let rows = self.waiting().filter(|(_, row)| class.is_none_or(|class| row.origin.class == class));
        rows.map(|(_, row)| row.origin.job).collect::<std::collections::BTreeSet<_>>().len()
    }

    fn end(&mut self, row: usize, fate: Fate) {
        assert_eq!(self.rows[row].fate, Fate::Waits, "row {row} was given back twice");
        self.rows[row].fate = fate;
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push { class, role, group, lengths, lives_ms, goes_on } => {
                self.jobs += 1;
                let deadline = lives_ms.map(|ms| self.now + Duration::from_millis(ms));
                let origin = Origin { job: self.jobs, class, role, deadline, goes_on };
                let first = self.rows.len();
                let rows = lengths.iter().enumerate();
                let rows = rows
                    .map(|(at, length)| Row { group, length: *length, budget: BUDGET, payload: first + at })
                    .collect();
                let is_full = self.waiting_jobs(None) >= LIMITS.jobs
                    || class == Class::Backfill && self.waiting_jobs(Some(class)) >= LIMITS.jobs / 2;
                let result = self.batcher.push(origin, rows, self.now);
                assert_eq!(result.is_err(), is_full && !goes_on, "{result:?}");
                if result.is_ok() {
                    let known =
                        lengths.iter().map(|length| Known { origin, group, length: *length, fate: Fate::Waits });
                    self.rows.extend(known);
                }
            }
            Step::Take => drop(self.take()),
            Step::Cancel(which) => {
                if self.jobs > 0 {
                    let job = which.index(self.jobs as usize) as u64 + 1;
                    let expected: Vec<usize> =
                        self.waiting().filter(|(_, row)| row.origin.job == job).map(|(at, _)| at).collect();
                    let got = self.batcher.cancel(job);
                    assert_eq!(got, expected);
                    got.into_iter().for_each(|row| self.end(row, Fate::Cancelled));
                }
            }
            Step::Advance(ms) => self.now += Duration::from_millis(ms),
        }
        self.forget_idle_roles();
        assert_eq!(self.batcher.jobs(), self.waiting_jobs(None));
    }

    /// One call of `take`, with every promise about it.
    fn take(&mut self) -> bool {
        let backfill_waits = (0..4).any(|role| self.oldest(Class::Backfill, role).is_some());
        let streak = self.batcher.streak;
        let Taken { batch, expired, again_at } = self.batcher.take(self.now);
        assert_eq!(again_at, None);
        if let Some(leader) = batch.first().copied() {
            let Known { origin, group, .. } = self.rows[leader];
            assert_eq!(
                Some(leader),
                self.oldest(origin.class, origin.role),
                "the leader is not the oldest of its role"
            );
            let lengths: Vec<u64> = batch.iter().map(|row| self.rows[*row].length).collect();
            let (shortest, longest) = (*lengths.iter().min().unwrap(), *lengths.iter().max().unwrap());
            assert!(batch.len() == 1 || batch.len() as u64 * longest <= BUDGET, "{lengths:?}");
            assert!(shortest as f64 >= LIMITS.shortest_share * longest as f64, "{lengths:?}");
            for row in &batch {
                let known = &self.rows[*row];
                assert_eq!((known.group, known.origin.class), (group, origin.class));
                assert!(known.origin.deadline.is_none_or(|deadline| deadline > self.now), "expired work was run");
                let twin_waits_longer = self.waiting().any(|(at, other)| {
                    at < *row
                        && !batch.contains(&at)
                        && !expired.contains(&at)
                        && (other.origin.role, other.origin.class) == (known.origin.role, known.origin.class)
                        && (other.group, other.length) == (known.group, known.length)
                });
                assert!(!twin_waits_longer, "an equal row of the same role was overtaken");
            }
            // Roles take turns: nobody leads twice while another role of the class waits to lead.
            let class = origin.class;
            for role in (0..4).filter(|role| *role != origin.role) {
                let passed = self.passed_over[index(class)].entry(role).or_default();
                passed.push(origin.role);
                assert!(
                    passed.iter().filter(|other| **other == origin.role).count() <= 1,
                    "role {} led twice while {role} waited",
                    origin.role
                );
            }
            self.passed_over[index(class)].remove(&origin.role);
            self.interactive_in_a_row =
                if class == Class::Interactive && backfill_waits { self.interactive_in_a_row + 1 } else { 0 };
            assert!(self.interactive_in_a_row <= LIMITS.streak, "backfill starves");
            if class == Class::Backfill {
                let interactive_waits = (0..4).any(|role| self.oldest(Class::Interactive, role).is_some());
                assert!(!interactive_waits || streak >= LIMITS.streak, "backfill came first");
            }
        } else {
            let leftover = (0..4)
                .any(|role| self.oldest(Class::Interactive, role).or(self.oldest(Class::Backfill, role)).is_some());
            assert!(!leftover, "rows wait, and none was taken");
        }
        for row in &expired {
            assert!(self.rows[*row].origin.deadline.is_some_and(|deadline| deadline <= self.now), "dropped too early");
        }
        let did_something = !batch.is_empty() || !expired.is_empty();
        batch.into_iter().for_each(|row| self.end(row, Fate::Ran));
        expired.into_iter().for_each(|row| self.end(row, Fate::Expired));
        self.forget_idle_roles();
        did_something
    }

    /// The row that should lead when it is this role's turn.
    fn oldest(&self, class: Class, role: u32) -> Option<usize> {
        let alive = |row: &Known| row.origin.deadline.is_none_or(|deadline| deadline > self.now);
        let mine = |row: &Known| row.origin.class == class && row.origin.role == role && alive(row);
        self.waiting().find(|(_, row)| mine(row)).map(|(at, _)| at)
    }

    /// A role with nothing to wait for is not passed over.
    fn forget_idle_roles(&mut self) {
        for class in [Class::Interactive, Class::Backfill] {
            let waits: Vec<u32> = (0..4).filter(|role| self.oldest(class, *role).is_some()).collect();
            self.passed_over[index(class)].retain(|role, _| waits.contains(role));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_row_is_lost_or_answered_twice_and_all_promises_hold(steps in prop::collection::vec(step(), 1..60)) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
        }
        while model.take() {}
        let left = model.waiting().count();
        prop_assert_eq!(left, 0);
        prop_assert_eq!(model.batcher.jobs(), 0);
    }
}

fn origin(job: u64, class: Class, role: u32) -> Origin {
    Origin { job, class, role, deadline: None, goes_on: false }
}

fn rows(lengths: &[u64]) -> Vec<Row<u64>> {
    lengths.iter().map(|length| Row { group: 0, length: *length, budget: BUDGET, payload: *length }).collect()
}

#[test]
fn a_lone_row_runs_at_once_and_a_delay_is_for_batches_that_are_not_full() {
    let now = Instant::now();
    let mut batcher = Batcher::new(LIMITS);
    batcher.push(origin(1, Class::Interactive, 1), rows(&[5]), now).unwrap();
    assert_eq!(batcher.take(now), Taken { batch: vec![5], expired: vec![], again_at: None });
    let delay = Duration::from_millis(2);
    let mut batcher = Batcher::new(Limits { max_delay: delay, ..LIMITS });
    batcher.push(origin(1, Class::Interactive, 1), rows(&[5]), now).unwrap();
    assert_eq!(batcher.take(now), Taken { batch: vec![], expired: vec![], again_at: Some(now + delay) });
    assert_eq!(batcher.take(now + delay).batch, [5]);
    batcher.push(origin(2, Class::Interactive, 1), rows(&[30, 31]), now).unwrap();
    assert_eq!(batcher.take(now).batch, [30], "two rows padded to 31 are over the budget of 60");
}

#[test]
fn one_busy_role_does_not_hold_up_another() {
    let now = Instant::now();
    let mut batcher = Batcher::new(LIMITS);
    batcher.push(origin(1, Class::Interactive, 1), rows(&[50; 100]), now).unwrap();
    batcher.push(origin(2, Class::Interactive, 2), rows(&[51]), now).unwrap();
    assert_eq!(batcher.take(now).batch, [50]);
    assert_eq!(batcher.take(now).batch, [51]);
}

#[test]
fn backfill_leaves_half_of_the_queue_and_is_not_starved() {
    let now = Instant::now();
    let mut batcher = Batcher::new(LIMITS);
    for job in 0..6 {
        batcher.push(origin(job, Class::Backfill, 1), rows(&[60]), now).unwrap();
    }
    let refused = batcher.push(origin(6, Class::Backfill, 1), rows(&[60]), now);
    assert_eq!(refused, Err(Full { waiting: 6, limit: 6 }));
    for job in 7..13 {
        batcher.push(origin(job, Class::Interactive, 1), rows(&[59]), now).unwrap();
    }
    assert!(batcher.push(origin(13, Class::Interactive, 1), rows(&[59]), now).is_err());
    let order: Vec<u64> = (0..8).map(|_| batcher.take(now).batch[0]).collect();
    assert_eq!(order, [59, 59, 59, 60, 59, 59, 59, 60]);
}

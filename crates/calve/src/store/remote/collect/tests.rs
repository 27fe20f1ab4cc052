//! Tables of the decisions; and a pusher and a collector whose requests are done in every order
//! with up to three changes of turn, where each may die before any of its requests.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Condvar};

use super::super::objects::{Objects, Patient, Source};
use super::super::underway::AnnouncementTimes;
use super::super::{PullOptions, PushOptions, RemotePlace, RemoteVerifyOptions};
use super::*;
use crate::store::{SnapshotOptions, Store};

#[test]
fn a_change_of_a_name_stays_if_it_is_the_newest_or_one_of_the_last_or_was_just_superseded() {
    let policy = Policy { now: 1000, grace: 100, keep: 2 };
    for (newer, superseded, expected) in [
        (0, None, true),
        (9, None, true),
        (1, Some(0), true),
        (2, Some(0), true),
        (3, Some(0), false),
        (3, Some(900), false),
        (3, Some(901), true),
        // The place's clock was set back.
        (3, Some(5000), true),
        (u64::MAX, Some(i64::MIN), false),
        (u64::MAX, Some(i64::MAX), true),
    ] {
        assert_eq!(policy.keeps(newer, superseded), expected, "{newer} {superseded:?}");
    }
    let none = Policy { now: 1000, grace: 0, keep: 0 };
    assert!(none.keeps(0, None) && !none.keeps(1, Some(1000)));
}

#[test]
fn a_list_of_condemned_keys_is_read_as_far_as_it_makes_sense() {
    let list = format!("{CONDEMNED_FIRST_LINE}5 packs/a\nx packs/b\n-3 names/a/1\nnothing\n\n");
    assert_eq!(entries(&list).collect::<Vec<_>>(), [(5, "packs/a"), (-3, "names/a/1")]);
    assert_eq!(entries("5 packs/a\n").count(), 0);
    assert_eq!(entries("").count(), 0);

    let list = |text: &str| (String::new(), format!("{CONDEMNED_FIRST_LINE}{text}"));
    let lists =
        [list("50 packs/a\n70 packs/b\n9 packs/needed\n"), list("40 packs/a\n999 packs/c\n")];
    let garbage = ["packs/a", "packs/b", "packs/c", "packs/new"].map(|key| Garbage {
        class: Class::Object,
        key: key.to_owned(),
        size: 1,
    });
    let found = since(&lists, &garbage, Policy { now: 100, grace: 10, keep: 0 });
    let mut found: Vec<_> = found.iter().map(|(key, at)| (key.as_str(), *at)).collect();
    found.sort_unstable();
    assert_eq!(found, [("packs/a", 40), ("packs/b", 70), ("packs/c", 100)]);
}

/// Whether another run of the suite tried the orders of requests, of which there are thousands. The
/// remote is in memory, so each filesystem would tell the same.
fn ran_before() -> bool {
    std::env::var_os("CALVE_AGAIN").is_some()
}

/// Objects, each with the time when it was made.
#[derive(Debug, Default, Clone)]
struct State {
    objects: BTreeMap<String, (Vec<u8>, i64)>,
    now: i64,
}

impl State {
    /// Gives the name `ready` to a snapshot.
    fn add_change(&mut self, sequence: u64, snapshot: SnapshotId) {
        let (remote, name) = (ID.to_owned(), "ready".to_owned());
        let named = name::Named { remote, name, sequence, snapshot, made: 0, found: None };
        let text = named.encode(None).into_bytes();
        self.objects.insert(name::key_of("ready", sequence), (text, self.now));
    }
}

/// Whose turn it is.
#[derive(Debug, Default)]
struct Turns {
    state: State,
    /// Who does how many requests, one after the other; after that everyone does what they want.
    plan: Vec<(usize, usize)>,
    ended: [bool; 2],
    done: [usize; 2],
    /// Who dies before which request.
    dies: Option<(usize, usize)>,
}

/// The objects, as one of two sees them.
#[derive(Debug, Clone)]
struct Seat {
    who: usize,
    turns: Arc<(Mutex<Turns>, Condvar)>,
}

impl Seat {
    fn turn<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let (turns, changed) = &*self.turns;
        let mut turns = lock(turns);
        loop {
            while turns.plan.first().is_some_and(|(who, left)| *left == 0 || turns.ended[*who]) {
                turns.plan.remove(0);
                changed.notify_all();
            }
            if turns.plan.first().is_none_or(|(who, _)| *who == self.who) {
                break;
            }
            turns = changed.wait(turns).unwrap();
        }
        if let Some((_, left)) = turns.plan.first_mut() {
            *left -= 1;
        }
        changed.notify_all();
        if turns.dies.is_some_and(|(who, at)| who == self.who && at <= turns.done[who]) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        turns.done[self.who] += 1;
        work(&mut turns.state)
    }

    fn end(&self) {
        lock(&self.turns.0).ended[self.who] = true;
        self.turns.1.notify_all();
    }

    fn state(&self) -> State {
        lock(&self.turns.0).state.clone()
    }
}

fn found<'a>(state: &'a State, key: &str) -> io::Result<&'a [u8]> {
    let object = state.objects.get(key).ok_or(io::ErrorKind::NotFound)?;
    Ok(&object.0)
}

impl Source for Seat {
    fn get_into(&self, key: &str, range: Range<u64>, into: &mut Vec<u8>) -> io::Result<()> {
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        self.turn(|state| {
            *into = found(state, key)?[range].to_vec();
            Ok(())
        })
    }

    fn read(&self, key: &str, _: u64) -> io::Result<Vec<u8>> {
        self.turn(|state| Ok(found(state, key)?.to_vec()))
    }

    fn size(&self, key: &str) -> io::Result<u64> {
        self.turn(|state| Ok(found(state, key)?.len() as u64))
    }
}

impl Objects for Seat {
    fn create(&self, key: &str, content: &[u8]) -> io::Result<bool> {
        self.turn(|state| {
            let is_new = !state.objects.contains_key(key);
            let now = state.now;
            state.objects.entry(key.to_owned()).or_insert((content.to_vec(), now));
            Ok(is_new)
        })
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ListedObject)) -> io::Result<()> {
        self.turn(|state| {
            for (key, (content, modified)) in &state.objects {
                if key.starts_with(prefix) {
                    let size = content.len() as u64;
                    each(ListedObject { key: key.clone(), size, modified: *modified });
                }
            }
            Ok(())
        })
    }

    fn remove(&self, key: &str) -> io::Result<()> {
        self.turn(|state| {
            state.objects.remove(key);
            Ok(())
        })
    }
}

const ID: &str = "0123456789abcdef0123456789abcdef";
const PUSHER: usize = 0;
const COLLECTOR: usize = 1;
const LIFE: u64 = 3600;

fn remote(seat: &Seat) -> Remote {
    let times = AnnouncementTimes {
        life: Duration::from_secs(LIFE),
        patience: Duration::from_millis(3),
        poll: Duration::from_millis(1),
    };
    let objects = Patient::new(Box::new(seat.clone()));
    let place = RemotePlace { url: "memory://".to_owned(), id: ID.to_owned(), objects, times };
    Remote { place: Arc::new(place), keys: Vec::new() }
}

/// A remote in a state, with nobody else there.
fn alone(state: State) -> (Seat, Remote) {
    let turns = Turns { state, ..Turns::default() };
    let seat = Seat { who: PUSHER, turns: Arc::new((Mutex::new(turns), Condvar::new())) };
    let remote = remote(&seat);
    (seat, remote)
}

fn common() -> StoreOptions {
    StoreOptions::new().jobs(NonZeroUsize::MIN)
}

/// The numbers of the changes of `ready`.
fn changes(state: &State) -> Vec<u64> {
    let keys = state.objects.keys().filter_map(|key| name::of_key(key));
    keys.filter(|(name, _)| name == "ready").map(|(_, number)| number).collect()
}

fn strict() -> RemoteGcOptions {
    RemoteGcOptions::new().grace(Duration::from_secs(100)).keep(0)
}

/// Every snapshot that a name means can be pulled.
fn assert_whole(state: &State, row: &str) {
    let (_, remote) = alone(state.clone());
    let report = remote.verify(&RemoteVerifyOptions::new(), &common()).unwrap();
    let broken: Vec<_> = report.broken.iter().filter(|one| !one.names.is_empty()).collect();
    assert!(broken.is_empty(), "{row}: {report:?}");
    assert!(report.whole.len() as u64 >= u64::from(report.changes > 0), "{row}: {report:?}");
}

/// A store whose snapshots share some content, and a remote on which one of them is condemned.
struct Desk {
    project: tempfile::TempDir,
    store: Store,
    state: State,
    old: SnapshotId,
    new: SnapshotId,
}

impl Desk {
    fn new() -> Self {
        let project = tempfile::tempdir().unwrap();
        let store = Store::init(project.path()).unwrap();
        let write = |name: &str, text: &str| {
            std::fs::create_dir_all(project.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(project.path().join(name), text).unwrap();
        };
        let snapshot = || store.snapshot(&SnapshotOptions::new(), &common()).unwrap().id;
        write("else/c", "another one has it");
        let other = snapshot();
        std::fs::remove_dir_all(project.path().join("else")).unwrap();
        write("common/a", "both have it");
        write("old/b", "the old one has it");
        let old = snapshot();
        write("d", "new");
        let new = snapshot();
        let (seat, remote) = alone(State { now: 10_000, ..State::default() });
        // The third change of four is no step to the last one, so it can be condemned.
        for sequence in [1, 2] {
            lock(&seat.turns.0).state.add_change(sequence, other);
        }
        push(&remote, &store, old, "ready").unwrap();
        // The next push knows nothing of it, so they share no object.
        let key = super::super::snapshot_key(old);
        let record = lock(&seat.turns.0).state.objects.remove(&key).unwrap();
        lock(&seat.turns.0).state.now += 1000;
        push(&remote, &store, other, "ready").unwrap();
        lock(&seat.turns.0).state.objects.insert(key, record);
        lock(&seat.turns.0).state.now += 1000;
        let report = remote.gc(&strict(), &common()).unwrap();
        let RemoteGarbage { changes, snapshots, objects, .. } = report.waiting;
        assert_eq!((changes, snapshots, objects), (1, 1, 2), "{report:?}");
        lock(&seat.turns.0).state.now += 1000;
        Self { state: seat.state(), project, store, old, new }
    }

    /// What a store remembers of a remote is of no use for the next one.
    fn forget(&self) {
        let _ = std::fs::remove_dir_all(self.project.path().join(".calve/remotes").join(ID));
    }

    /// One pusher and one collector by a plan. Returns the numbers of requests.
    fn run(
        &self,
        pushed: SnapshotId,
        plan: Vec<(usize, usize)>,
        dies: Option<(usize, usize)>,
        row: &str,
    ) -> [usize; 2] {
        self.run_beside(&self.state, pushed, plan, dies, row, &|remote| {
            let _ = remote.gc(&strict(), &common());
        })
    }

    /// The same, with somebody else in the place of the collector.
    fn run_beside(
        &self,
        state: &State,
        pushed: SnapshotId,
        plan: Vec<(usize, usize)>,
        dies: Option<(usize, usize)>,
        row: &str,
        other: &(dyn Fn(&Remote) + Sync),
    ) -> [usize; 2] {
        self.forget();
        let turns = Turns { state: state.clone(), plan, dies, ..Turns::default() };
        let turns = Arc::new((Mutex::new(turns), Condvar::new()));
        let [pusher, collector] = [PUSHER, COLLECTOR].map(|who| Seat { who, turns: turns.clone() });
        let given = std::thread::scope(|scope| {
            let given = scope.spawn(|| {
                let given = push(&remote(&pusher), &self.store, pushed, "again");
                pusher.end();
                given
            });
            scope.spawn(|| {
                other(&remote(&collector));
                collector.end();
            });
            given.join().unwrap()
        });
        let requests = lock(&turns.0).done;
        let mut state = pusher.state();
        assert_whole(&state, row);
        let is_named = state.objects.keys().any(|key| key.starts_with("names/again/"));
        match given {
            Ok(()) => assert!(is_named, "{row}"),
            Err(error) => {
                let may_fail = dies.is_some() || error.kind() == crate::ErrorKind::Busy;
                assert!(may_fail, "{row}: {error}");
            }
        }
        // Whatever died is forgotten after a while; then everything works, and stays.
        state.now += 3 * i64::try_from(LIFE).unwrap();
        self.forget();
        let (seat, remote) = alone(state);
        push(&remote, &self.store, pushed, "again").unwrap();
        for _ in 0..2 {
            remote.gc(&strict(), &common()).unwrap();
            assert_whole(&seat.state(), row);
            lock(&seat.turns.0).state.now += 1000;
        }
        let left = seat.state().objects;
        assert!(!left.keys().any(|key| key.starts_with("underway/")), "{row}: {left:?}");
        requests
    }
}

fn push(remote: &Remote, store: &Store, id: SnapshotId, name: &str) -> Result<(), crate::Error> {
    remote.push(store, id, &PushOptions::new().name(name), &common()).map(drop)
}

#[test]
fn in_whatever_order_a_pusher_and_a_collector_do_their_requests_every_name_stays_whole() {
    if ran_before() {
        return;
    }
    let desk = Desk::new();
    let all = usize::MAX;
    for (what, pushed) in [("old", desk.old), ("new", desk.new)] {
        let [pushes, _] = desk.run(pushed, vec![(PUSHER, all)], None, what);
        let [_, collects] = desk.run(pushed, vec![(COLLECTOR, all)], None, what);
        assert!(pushes > 8 && collects > 8, "{pushes} {collects}");
        for first in 0..=pushes {
            for second in 0..=collects {
                let row = format!("{what}: pusher {first}, collector {second}");
                let plan = vec![(PUSHER, first), (COLLECTOR, second), (PUSHER, all)];
                desk.run(pushed, plan, None, &row);
                let row = format!("{what}: collector {second}, pusher {first}");
                let plan = vec![(COLLECTOR, second), (PUSHER, first), (COLLECTOR, all)];
                desk.run(pushed, plan, None, &row);
            }
        }
    }
}

#[test]
fn whoever_dies_before_whatever_request_every_name_stays_whole() {
    if ran_before() {
        return;
    }
    let desk = Desk::new();
    let all = usize::MAX;
    for (what, pushed) in [("old", desk.old), ("new", desk.new)] {
        let [pushes, collects] = desk.run(pushed, vec![(PUSHER, all)], None, what);
        for at in 0..=collects + 8 {
            for first in (0..pushes).step_by(3) {
                let row = format!("{what}: pusher {first}, then the collector dies at {at}");
                let plan = vec![(PUSHER, first), (COLLECTOR, all)];
                desk.run(pushed, plan, Some((COLLECTOR, at)), &row);
            }
        }
        for at in 0..=pushes + 2 {
            for first in (0..collects).step_by(3) {
                let row = format!("{what}: collector {first}, then the pusher dies at {at}");
                let plan = vec![(COLLECTOR, first), (PUSHER, all)];
                desk.run(pushed, plan, Some((PUSHER, at)), &row);
            }
        }
    }
}

/// They find the same damage, and each of them removes what is wrong and makes it again.
#[test]
fn in_whatever_order_two_pushers_mend_the_same_damage_what_they_give_a_name_is_whole() {
    if ran_before() {
        return;
    }
    let desk = Desk::new();
    let all = usize::MAX;
    let (seat, remote) = alone(desk.state.clone());
    let before = seat.state().objects;
    desk.forget();
    remote.push(&desk.store, desk.new, &PushOptions::new(), &common()).unwrap();
    let state = seat.state();
    let is_new = |key: &&String| !before.contains_key(*key);
    let made: Vec<&String> = state.objects.keys().filter(is_new).collect();
    assert_eq!(made.len(), 3, "a pack, a part and the record: {made:?}");
    for key in made {
        let mut state = state.clone();
        let content = &mut state.objects.get_mut(key).unwrap().0;
        content.truncate(content.len() / 2);
        let other = |remote: &Remote| {
            let _ = push(remote, &desk.store, desk.new, "other");
        };
        let run = |plan, dies, row: &str| {
            desk.run_beside(&state, desk.new, plan, dies, &format!("{key}: {row}"), &other)
        };
        let [pushes, _] = run(vec![(PUSHER, all)], None, "one after the other");
        assert!(pushes > 8, "{pushes}");
        for first in 0..=pushes {
            for second in (first % 5..=pushes).step_by(5) {
                let row = format!("first {first}, second {second}");
                run(vec![(PUSHER, first), (COLLECTOR, second), (PUSHER, all)], None, &row);
            }
            for at in (first % 7..=pushes).step_by(7) {
                let row = format!("first {first}, then the second dies at {at}");
                run(vec![(PUSHER, first), (COLLECTOR, all)], Some((COLLECTOR, at)), &row);
            }
        }
    }
}

#[test]
fn what_was_condemned_is_removed_and_the_rest_can_be_pulled() {
    let desk = Desk::new();
    desk.forget();
    let (seat, remote) = alone(desk.state.clone());
    let before = seat.state().objects.len();
    let dry = remote.gc(&strict().dry_run(true), &common()).unwrap();
    assert_eq!(seat.state().objects.len(), before);
    let report = remote.gc(&strict(), &common()).unwrap();
    assert_eq!(report.removed, dry.removed);
    let RemoteGarbage { changes, snapshots, objects, .. } = report.removed;
    assert_eq!((changes, snapshots, objects), (1, 1, 2), "{report:?}");
    assert_eq!((report.snapshots, report.waiting), (1, RemoteGarbage::default()));
    let there = tempfile::tempdir().unwrap();
    let store = Store::init(there.path()).unwrap();
    remote.pull(&store, "ready", &PullOptions::new(), &common()).unwrap();
    let gone = remote.pull(&store, &desk.old.to_string(), &PullOptions::new(), &common());
    assert_eq!(gone.unwrap_err().kind(), crate::ErrorKind::SnapshotNotFound);
}

/// What a web server hands out of these objects.
fn read_only(state: &State) -> Remote {
    let (seat, _) = alone(state.clone());
    let objects = Patient::read_only(Box::new(seat));
    let times = AnnouncementTimes::USUAL;
    let place = RemotePlace { url: "https://memory".to_owned(), id: ID.to_owned(), objects, times };
    Remote { place: Arc::new(place), keys: Vec::new() }
}

#[test]
fn collectors_leave_the_steps_to_the_newest_change_and_no_snapshot_of_theirs_counts_as_damage() {
    let project = tempfile::tempdir().unwrap();
    let store = Store::init(project.path()).unwrap();
    let (seat, remote) = alone(State { now: 10_000, ..State::default() });
    let mut pushed = Vec::new();
    for number in 1..=13_u64 {
        std::fs::write(project.path().join("file"), number.to_string()).unwrap();
        pushed.push(store.snapshot(&SnapshotOptions::new(), &common()).unwrap().id);
        push(&remote, &store, *pushed.last().unwrap(), "ready").unwrap();
        lock(&seat.turns.0).state.now += 1;
    }
    for (keep, left, kept) in [
        (2, vec![1, 2, 4, 8, 11, 12, 13], 3),
        (0, vec![1, 2, 4, 8, 12, 13], 1),
        // Removed objects do not come back, and their absence is no damage.
        (5, vec![1, 2, 4, 8, 12, 13], 1),
    ] {
        lock(&seat.turns.0).state.now += 1000;
        for _ in 0..2 {
            let report = remote.gc(&strict().keep(keep), &common()).unwrap();
            assert_eq!(report.missing, [], "{keep}: {report:?}");
            lock(&seat.turns.0).state.now += 1000;
        }
        let state = seat.state();
        assert_eq!(changes(&state), left, "{keep}");
        let report = remote.verify(&RemoteVerifyOptions::new(), &common()).unwrap();
        assert!(report.damage.is_empty() && report.broken.is_empty(), "{keep}: {report:?}");
        let collected = usize::try_from(report.collected).unwrap();
        assert_eq!((report.whole.len(), collected), (kept, left.len() - kept), "{keep}");
        // The log is the same wherever it is read.
        let server = read_only(&state);
        for remote in [&remote, &server] {
            let log = remote.log("ready").unwrap();
            let found: Vec<u64> = log.iter().rev().map(|one| one.sequence).collect();
            assert_eq!(found, left, "{keep}");
            let found: Vec<bool> = log.iter().map(|one| one.collected).collect();
            let expected: Vec<bool> = (0..left.len()).map(|number| number >= kept).collect();
            assert_eq!(found, expected, "{keep}: {log:?}");
        }
        let there = tempfile::tempdir().unwrap();
        let there = Store::init(there.path()).unwrap();
        let pulled = server.pull(&there, "ready", &PullOptions::new(), &common()).unwrap();
        assert_eq!((pulled.snapshot, pulled.sequence), (pushed[12], Some(13)), "{keep}");
    }
    // A snapshot that no collector has removed is damage.
    let key = super::super::snapshot_key(pushed[12]);
    lock(&seat.turns.0).state.objects.remove(&key);
    let report = remote.gc(&strict(), &common()).unwrap();
    assert_eq!(report.missing, [pushed[12]]);
    let report = remote.verify(&RemoteVerifyOptions::new(), &common()).unwrap();
    assert_eq!((report.broken.len(), report.collected), (1, 5), "{report:?}");
    assert!(!remote.log("ready").unwrap()[0].collected);
}

#[test]
fn an_unsigned_change_with_a_high_number_makes_no_collector_with_keys_remove_the_steps_of_others() {
    let project = tempfile::tempdir().unwrap();
    let store = Store::init(project.path()).unwrap();
    let id = store.snapshot(&SnapshotOptions::new(), &common()).unwrap().id;
    let (seat, remote) = alone(State { now: 10_000, ..State::default() });
    let key = super::super::SigningKey::from_bytes(&[1; 32]);
    let options = PushOptions::new().name("ready").key(key.clone());
    for number in 1..=12 {
        lock(&seat.turns.0).state.add_change(number, id);
    }
    remote.push(&store, id, &options, &common()).unwrap();
    let mut state = seat.state();
    state.add_change(1 << 40, id);
    state.now += 1000;
    let (seat, remote) = alone(state);
    let remote = remote.trusting([key.public()]);
    for _ in 0..2 {
        remote.gc(&strict(), &common()).unwrap();
        lock(&seat.turns.0).state.now += 1000;
    }
    assert_eq!(changes(&seat.state()), [1, 2, 4, 8, 12, 13, 1 << 40]);
}

#[test]
fn a_push_makes_the_steps_that_are_missing() {
    let project = tempfile::tempdir().unwrap();
    let store = Store::init(project.path()).unwrap();
    let snapshot = |text: &str| {
        std::fs::write(project.path().join("file"), text).unwrap();
        store.snapshot(&SnapshotOptions::new(), &common()).unwrap().id
    };
    let (seat, remote) = alone(State { now: 10_000, ..State::default() });
    for text in ["1", "2", "3", "4", "5"] {
        push(&remote, &store, snapshot(text), "ready").unwrap();
    }
    // The remote was set back to an older state, and its oldest changes were removed.
    for number in [1, 4, 5] {
        lock(&seat.turns.0).state.objects.remove(&name::key_of("ready", number));
    }
    let there = tempfile::tempdir().unwrap();
    let there = Store::init(there.path()).unwrap();
    let pull = |remote: &Remote| remote.pull(&there, "ready", &PullOptions::new(), &common());
    let error = pull(&read_only(&seat.state())).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::SnapshotNotFound, "{error}");
    let newest = snapshot("6");
    push(&remote, &store, newest, "ready").unwrap();
    assert_eq!(changes(&seat.state()), [1, 2, 3, 4, 6]);
    let pulled = pull(&read_only(&seat.state())).unwrap();
    assert_eq!((pulled.snapshot, pulled.sequence), (newest, Some(6)));
    // Who has seen it notices that it is gone, and finds what is newer.
    let mut state = seat.state();
    state.objects.remove(&name::key_of("ready", 6));
    let error = pull(&read_only(&state)).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Untrusted, "{error}");
    assert!(error.to_string().contains("none after 4"), "{error}");
    state.add_change(7, newest);
    state.add_change(8, newest);
    assert_eq!(pull(&read_only(&state)).unwrap().sequence, Some(8));
}

#[test]
fn a_web_server_is_asked_for_nothing_that_it_cannot_do() {
    let desk = Desk::new();
    let remote = read_only(&desk.state);
    let unfit = |row: &str, error: crate::Error| {
        assert_eq!(error.kind(), crate::ErrorKind::RemoteUnfit, "{row}: {error}");
        assert!(error.to_string().contains("can only be read"), "{row}: {error}");
    };
    unfit("push", push(&remote, &desk.store, desk.new, "ready").unwrap_err());
    unfit("gc", remote.gc(&strict(), &common()).unwrap_err());
    unfit("names", remote.names().unwrap_err());
    unfit("verify", remote.verify(&RemoteVerifyOptions::new(), &common()).unwrap_err());
    let (seat, _) = alone(desk.state);
    let place = Patient::read_only(Box::new(seat));
    unfit("init", Remote::init_in("https://memory", place).unwrap_err());
    assert!(remote.log("none").unwrap().is_empty());
}

/// A web server that has an answer for everything.
#[derive(Debug)]
struct Yes;

impl Source for Yes {
    fn get_into(&self, _: &str, range: Range<u64>, into: &mut Vec<u8>) -> io::Result<()> {
        *into = vec![b'x'; usize::try_from(range.end - range.start).unwrap()];
        Ok(())
    }

    fn read(&self, _: &str, _: u64) -> io::Result<Vec<u8>> {
        Ok(b"<html>".to_vec())
    }

    fn size(&self, _: &str) -> io::Result<u64> {
        Ok(6)
    }
}

#[test]
fn a_web_server_that_has_everything_ends_in_an_error() {
    let objects = Patient::read_only(Box::new(Yes));
    let error = Remote::open_in("https://memory", objects).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::StoreIncompatible, "{error}");
    let objects = Patient::read_only(Box::new(Yes));
    let times = AnnouncementTimes::USUAL;
    let place = RemotePlace { url: "https://memory".to_owned(), id: ID.to_owned(), objects, times };
    let remote = Remote { place: Arc::new(place), keys: Vec::new() };
    let project = tempfile::tempdir().unwrap();
    let store = Store::init(project.path()).unwrap();
    for error in [
        remote.log("ready").map(drop).unwrap_err(),
        remote.pull(&store, "ready", &PullOptions::new(), &common()).map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), crate::ErrorKind::Damaged, "{error}");
    }
}

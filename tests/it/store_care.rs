//! The store as a whole: backed up while in use, restored, sealed under another key.

use std::collections::BTreeSet;
use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alipay_sidecar::clock::{Clock, ManualClock};
use alipay_sidecar::model::app::{App, Environment};
use alipay_sidecar::model::authorization::{Rank, Revocation};
use alipay_sidecar::model::call::CallKey;
use alipay_sidecar::model::certificate::KeptCertificate;
use alipay_sidecar::model::delivery::{Lease, Settlement};
use alipay_sidecar::model::id::EventId;
use alipay_sidecar::model::notification::{Body, InboxEntry};
use alipay_sidecar::model::refused::{RefusalKind, Variant};
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::store::care::RowStream;
use alipay_sidecar::store::embedded::{
    CopyWriter, EmbeddedStore, Existing, OpenOptions, RekeyStep, StoreFile, restore,
};
use alipay_sidecar::store::error::StoreError;
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{Change, Directory, Effect, Inbox, MemoKey, MerchantKey, Store};

use crate::store::{
    Fixture, START, alias, app, attempt, authorization, authorize, call, entry, keep, merchant_app,
    pid, record, remember, secret, user, user_token,
};
use crate::store_quarantine::refused;

const CACHE: usize = 1 << 20;
const HOUR: i64 = 60 * 60 * 1000;
const DAY: i64 = 24 * HOUR;

pub(crate) fn open(path: &Path, key: &StoreKey) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(OpenOptions {
        path: path.to_owned(),
        key: key.clone(),
        cache_bytes: CACHE,
        clock: Arc::new(ManualClock::new(START)),
    })
}

/// A closed store with something in every table, and what is in it.
struct Filled {
    dir: tempfile::TempDir,
    key: StoreKey,
    pending: EventId,
    ordered: [EventId; 2],
    leased: EventId,
    parked: EventId,
}

fn received(at: i64, notify_id: &str, order_key: Option<&str>) -> InboxEntry {
    InboxEntry {
        order_key: order_key.map(str::to_owned),
        ..entry(at, Some(notify_id))
    }
}

impl Filled {
    async fn new() -> Self {
        let fixture = Fixture::embedded();
        fixture.commit(Change::PutApp(Box::new(an_app()))).await;
        fixture
            .commit(Change::KeepCertificate(Box::new(a_certificate())))
            .await;
        Self::merchants(&fixture).await;
        // Delivered and forgotten: only the digest of its notify_id is left.
        let gone = received(START - DAY, "gone", None);
        let id = gone.id;
        fixture.commit(Change::Receive(Box::new(gone))).await;
        fixture.commit(settle(id, Settlement::Delivered)).await;
        let pruned = fixture.store.prune(START + 1, 0).await.expect("pruned");
        assert_eq!((pruned.entries, pruned.notify_ids), (1, 0));
        let pending = Self::inbox(&fixture).await;
        fixture
            .commit(remember(MemoKey::new("test", &["m"]), "memo", START + DAY))
            .await;
        let [pending, first, second] = pending;
        let [leased, parked] = Self::waiting(&fixture).await;
        Self::kept(&fixture, pending).await;
        let Fixture {
            store, key, dir, ..
        } = fixture;
        drop(store);
        Self {
            dir,
            key,
            pending,
            ordered: [first, second],
            leased,
            parked,
        }
    }

    /// One that somebody pulled, and one that no route fits.
    async fn waiting(fixture: &Fixture) -> [EventId; 2] {
        let entries = [
            received(START + 5, "leased", None),
            received(START + 6, "parked", None),
        ];
        let [leased, parked] = entries.each_ref().map(|entry| entry.id);
        for entry in entries {
            fixture.commit(Change::Receive(Box::new(entry))).await;
        }
        let lease = Lease {
            since: START + 7,
            until: START + HOUR,
        };
        let claimed = fixture.commit(Change::Claim { id: leased, lease }).await;
        assert!(matches!(claimed, Effect::Applied));
        let until = START + HOUR;
        fixture.commit(Change::Park { id: parked, until }).await;
        [leased, parked]
    }

    /// What was refused, a second body, a call, a user's token.
    async fn kept(fixture: &Fixture, of: EventId) {
        for change in [
            Change::Refuse(Box::new(refused(1, "10.0.0.1", RefusalKind::Forged))),
            a_variant(of),
            record(vec![call(1, Some("a call"), 9)], u64::MAX),
            keep(user_token("a", [Some("u"), Some("o")]), None),
        ] {
            assert!(matches!(fixture.commit(change).await, Effect::Applied));
        }
    }

    async fn merchants(fixture: &Fixture) {
        for (at, token) in [(1, "first"), (2, "second")] {
            let mut given = authorization(1, token, Rank::AuthTime(START + at));
            given.alias = Some(alias("shop"));
            fixture.commit(authorize(given, None)).await;
        }
        let given = authorization(2, "other", Rank::AuthTime(START));
        fixture.commit(authorize(given, None)).await;
        let key = MerchantKey::AuthAppId(merchant_app(2));
        let found = fixture.store.find(key).await.expect("readable");
        let revocation = Revocation::new(&found[0], Some(START + 5));
        let change = Change::Revoke {
            revocation,
            entry: None,
        };
        assert!(matches!(fixture.commit(change).await, Effect::Applied));
    }

    async fn inbox(fixture: &Fixture) -> [EventId; 3] {
        let entries = [
            received(START, "pending", None),
            received(START + 1, "first", Some("order")),
            received(START + 2, "second", Some("order")),
            received(START + 3, "dead", None),
            received(START + 4, "delivered", None),
        ];
        let ids = entries.each_ref().map(|entry| entry.id);
        for entry in entries {
            fixture.commit(Change::Receive(Box::new(entry))).await;
        }
        let [pending, first, second, dead, delivered] = ids;
        fixture.commit(settle(dead, Settlement::GivenUp)).await;
        fixture
            .commit(settle(delivered, Settlement::Delivered))
            .await;
        [pending, first, second]
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store.redb")
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self) -> StoreFile {
        StoreFile::open(&self.path(), &self.key, CACHE).expect("opened")
    }

    fn names(&self) -> BTreeSet<String> {
        let files = std::fs::read_dir(self.dir.path()).expect("readable");
        files
            .map(|file| {
                let name = file.expect("readable").file_name();
                name.into_string().expect("text")
            })
            .collect()
    }

    /// Everything is there: records, indexes, and what only a digest remembers.
    async fn look(&self, path: &Path, key: &StoreKey) {
        let file = StoreFile::open(path, key, CACHE).expect("opened");
        let inspection = file.inspect().expect("readable");
        assert!(inspection.is_clean(), "{:?}", inspection.findings);
        let stats = file.stats().expect("readable");
        let numbers = [
            stats.merchants_authorized,
            stats.merchants_revoked,
            stats.pending,
            stats.dead,
            stats.delivered,
        ];
        assert_eq!(numbers, [1, 1, 5, 1, 1]);
        assert_eq!(stats.oldest_pending_at, Some(START));
        drop(file);
        let store = open(path, key).expect("opened");
        for key in [
            MerchantKey::Alias(alias("shop")),
            MerchantKey::AuthAppId(merchant_app(1)),
            MerchantKey::Token(secret("first")),
            MerchantKey::Token(secret("second")),
        ] {
            let found = store.find(key).await.expect("readable");
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].token.app_auth_token.expose(), "second");
        }
        let by_pid = store.find(MerchantKey::Pid(pid())).await;
        assert_eq!(by_pid.expect("readable").len(), 2);
        assert_eq!(store.apps().await.expect("readable").len(), 1);
        assert_eq!(store.certificates().await.expect("readable").len(), 1);
        self.look_at_inbox(&store).await;
        self.look_at_kept(&store).await;
    }

    async fn look_at_inbox(&self, store: &EmbeddedStore) {
        let due = store
            .due(START + 10, 10, HashSet::new())
            .await
            .expect("readable")
            .now;
        let due: Vec<_> = due.iter().map(|(entry, _)| entry.id).collect();
        assert_eq!(due, [self.pending, self.ordered[0]], "the order is kept");
        let found = store
            .claimable(START + 10, 1, HashSet::new())
            .await
            .expect("readable")
            .now;
        assert_eq!(found[0].0.id, self.parked);
        let lapsed = store.lapsed(START + DAY, 10).await.expect("readable");
        assert_eq!(lapsed[0].id, self.leased);
        let memo = store.recall(MemoKey::new("test", &["m"]), START).await;
        let memo = memo.expect("readable").expect("remembered");
        assert_eq!(memo.expose(), b"memo");
        for notify_id in ["gone", "pending", "dead"] {
            let again = received(START + 9, notify_id, None);
            let change = Change::Receive(Box::new(again));
            let effects = store.commit(vec![change]).await.expect("committed");
            assert!(
                matches!(effects[..], [Effect::Duplicate(_)]),
                "{notify_id} is known"
            );
        }
    }
}

impl Filled {
    /// What is found by digests is found, and known when it comes again.
    async fn look_at_kept(&self, store: &EmbeddedStore) {
        let again = refused(1, "10.0.0.1", RefusalKind::Forged);
        let changes = vec![Change::Refuse(Box::new(again))];
        store.commit(changes).await.expect("committed");
        let kept = store.refused(None, 10).await.expect("readable");
        assert!(matches!(&kept[..], [one] if one.times > 1), "{kept:?}");
        let effects = store.commit(vec![a_variant(self.pending)]).await;
        let effects = effects.expect("committed");
        assert!(matches!(effects[..], [Effect::Duplicate(_)]));
        let by_name = CallKey::Named {
            caller: None,
            caller_request_id: "a call".to_owned(),
        };
        let found = store.call(by_name, START + 9).await.expect("readable");
        assert_eq!(found, Some(call(1, Some("a call"), 9)));
        for name in ["u", "o"] {
            let token = store.user(user(name)).await.expect("readable");
            assert_eq!(token.expect("kept").access_token.expose(), "a", "{name}");
        }
    }
}

fn a_variant(of: EventId) -> Change {
    let variant = Variant {
        received_at: START,
        notify_path: "/orders/42".to_owned(),
        body: Body {
            content_type: "text/x-form".to_owned(),
            bytes: vec![b'v'; 9].into(),
        },
        differs: vec!["total_amount".to_owned()],
        content: [9; 32],
    };
    let variant = Box::new(variant);
    Change::KeepVariant { of, variant }
}

fn settle(id: EventId, settlement: Settlement) -> Change {
    Change::Settle {
        id,
        attempt: attempt(START - DAY),
        owed_since: None,
        settlement,
    }
}

fn an_app() -> App {
    App {
        app_id: app(),
        private_key: secret("a private key").into(),
        private_key_next: None,
        alipay_public_keys: Vec::new(),
        certificates: None,
        encrypt_key: None,
        environment: Environment::Sandbox,
        sign_type: SignType::Rsa2,
    }
}

fn a_certificate() -> KeptCertificate {
    KeptCertificate {
        app_id: app(),
        sn: "abc".to_owned(),
        pem: "a certificate".to_owned(),
    }
}

/// Puts a stream together at `path`.
async fn take(
    mut rows: RowStream,
    path: &Path,
    key: &StoreKey,
) -> Result<alipay_sidecar::store::care::Copied, StoreError> {
    let mut copy = CopyWriter::begin(path, key)?;
    while let Some(piece) = rows.next().await {
        copy.write(&piece?)?;
    }
    copy.finish()
}

#[tokio::test]
async fn a_backup_of_a_store_at_rest_is_a_whole_store_and_never_overwrites() {
    let filled = Filled::new().await;
    let copy = filled.beside("copy.redb");
    let copied = filled.file().backup(&copy, &mut |_| {}).expect("copied");
    assert_eq!(copied.damaged, 0);
    let mode = std::fs::metadata(&copy)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let names = ["copy.redb", "store.redb"].map(str::to_owned);
    assert_eq!(filled.names(), BTreeSet::from(names));
    let again = filled.file().backup(&copy, &mut |_| {});
    assert!(matches!(again, Err(StoreError::Exists { .. })));
    filled.look(&copy, &filled.key).await;
    filled.look(&filled.path(), &filled.key).await;
}

/// Commits while a backup is made of a store that doesn't wait for it; the copy holds all that was
/// acknowledged before it began, whole, and nothing half.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_opens_and_holds_every_entry_acknowledged_before_it() {
    let fixture = Fixture::embedded();
    // More than the pieces that may wait.
    let body = Body {
        content_type: "text/plain".to_owned(),
        bytes: vec![b'x'; 20_000].into(),
    };
    let committed = async |numbers: std::ops::Range<u32>| {
        let changes = numbers.map(|n| {
            let mut entry = entry(START + i64::from(n), Some(&format!("n-{n}")));
            entry.body = Some(body.clone());
            let given = authorization(n, &format!("token-{n}"), Rank::AuthTime(START));
            authorize(given, Some(entry))
        });
        let done = fixture.store.commit(changes.collect()).await;
        done.expect("committed");
    };
    committed(0..400).await;
    let path = fixture.dir.path().join("copy.redb");
    let mut rows = fixture.store.backup().await.expect("begun");
    let mut copy = CopyWriter::begin(&path, &fixture.key).expect("begun");
    let first = rows.next().await.expect("a piece").expect("whole");
    copy.write(&first).expect("written");
    // The copy is in the middle: commits go on, and aren't in it.
    committed(400..420).await;
    let second = fixture.store.backup().await;
    assert!(
        matches!(second, Err(StoreError::Unavailable { .. })),
        "one at a time"
    );
    while let Some(piece) = rows.next().await {
        copy.write(&piece.expect("whole")).expect("written");
    }
    copy.finish().expect("finished");
    let file = StoreFile::open(&path, &fixture.key, CACHE).expect("opened");
    let inspection = file.inspect().expect("readable");
    assert!(inspection.is_clean(), "{:?}", inspection.findings);
    assert_eq!(file.stats().expect("readable").pending, 400);
    drop(file);
    let store = open(&path, &fixture.key).expect("opened");
    let entries = store.entries(None, None, 1_000).await.expect("readable");
    let times = entries.iter().map(|(entry, _)| entry.received_at);
    assert!(times.eq(START..START + 400));
    assert_eq!(fixture.store.counts().await.expect("readable").pending, 420);
    let after = fixture
        .store
        .backup()
        .await
        .expect("the turn is free again");
    drop(after);
}

#[tokio::test]
async fn a_stream_that_breaks_off_or_is_none_leaves_nothing() {
    let filled = Filled::new().await;
    let store = open(&filled.path(), &filled.key).expect("opened");
    let mut rows = store.backup().await.expect("begun");
    let mut whole = Vec::new();
    while let Some(piece) = rows.next().await {
        whole.extend(piece.expect("whole"));
    }
    let path = filled.beside("copy.redb");
    for cut in [0, 10, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
        let mut copy = CopyWriter::begin(&path, &filled.key).expect("begun");
        copy.write(&whole[..cut]).expect("so far it is right");
        let finished = copy.finish();
        assert!(
            matches!(&finished, Err(StoreError::Unavailable { reason }) if reason.contains("broke off")),
            "{cut}: {finished:?}"
        );
        assert_eq!(filled.names().len(), 1, "{cut}");
    }
    let mut copy = CopyWriter::begin(&path, &filled.key).expect("begun");
    assert!(copy.write(b"<html>not what was asked for</html>").is_err());
    drop(copy);
    let mut copy = CopyWriter::begin(&path, &StoreKey::generate()).expect("begun");
    // In pieces of every size, so that each frame is cut somewhere.
    for piece in whole.chunks(7) {
        copy.write(piece).expect("written");
    }
    assert!(matches!(copy.finish(), Err(StoreError::WrongKey { path: named }) if named == path));
    assert_eq!(filled.names().len(), 1);
    drop(store);
}

#[tokio::test]
async fn a_stream_makes_the_same_store() {
    let filled = Filled::new().await;
    let store = open(&filled.path(), &filled.key).expect("opened");
    let path = filled.beside("copy.redb");
    let rows = store.backup().await.expect("begun");
    let copied = take(rows, &path, &filled.key).await.expect("copied");
    drop(store);
    let offline = filled.beside("offline.redb");
    let same = filled.file().backup(&offline, &mut |_| {}).expect("copied");
    assert_eq!(copied.rows, same.rows);
    filled.look(&path, &filled.key).await;
}

#[tokio::test]
async fn a_rekeyed_store_opens_with_the_new_key_alone_and_forgets_nothing() {
    let filled = Filled::new().await;
    let (new, keep) = (StoreKey::generate(), filled.beside("kept.redb"));
    let mut steps = Vec::new();
    let file = filled.file();
    file.rekey(&new, &keep, &mut |step| steps.push(step))
        .expect("rekeyed");
    let last = [RekeyStep::Verified, RekeyStep::Kept, RekeyStep::Swapped];
    assert!(steps.ends_with(&last));
    let opened = open(&filled.path(), &filled.key);
    assert!(matches!(opened, Err(StoreError::WrongKey { .. })));
    let names = ["kept.redb", "store.redb"].map(str::to_owned);
    assert_eq!(filled.names(), BTreeSet::from(names));
    filled.look(&keep, &filled.key).await;
    filled.look(&filled.path(), &new).await;
    // And again, so that index keys that were carried over are carried over once more.
    let third = StoreKey::generate();
    let file = StoreFile::open(&filled.path(), &new, CACHE).expect("opened");
    file.rekey(&third, &filled.beside("kept-2.redb"), &mut |_| {})
        .expect("rekeyed");
    filled.look(&filled.path(), &third).await;
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_rekey_leaves_a_store_that_opens() {
    for crash in [
        RekeyStep::Sealed(1),
        RekeyStep::Sealed(20),
        RekeyStep::Verified,
        RekeyStep::Kept,
        RekeyStep::Swapped,
    ] {
        let filled = Filled::new().await;
        let new = StoreKey::generate();
        let file = filled.file();
        let (scratch, half) = (filled.beside("store.redb.rekeying"), filled.beside("half"));
        // What unwinds has no chance to clean up: all is left as a killed process leaves it. While
        // records are read, the panic is caught, so the half file is put back.
        let crashed = catch_unwind(AssertUnwindSafe(|| {
            let mut stop = |step| {
                if step == crash {
                    std::fs::copy(&scratch, &half).ok();
                    panic!("crash");
                }
            };
            file.rekey(&new, &filled.beside("kept.redb"), &mut stop)
        }));
        assert!(!matches!(crashed, Ok(Ok(_))), "{crash:?} was reached");
        if half.exists() && crash != RekeyStep::Swapped {
            std::fs::rename(&half, &scratch).expect("renamed");
        }
        let (opens, other) = if crash == RekeyStep::Swapped {
            (&new, &filled.key)
        } else {
            (&filled.key, &new)
        };
        let refused = open(&filled.path(), other);
        assert!(
            matches!(refused, Err(StoreError::WrongKey { .. })),
            "{crash:?}"
        );
        // Another try isn't in the way of what the crash left, and finishes.
        let file = StoreFile::open(&filled.path(), opens, CACHE).expect("opened");
        let last = StoreKey::generate();
        file.rekey(&last, &filled.beside("kept-2.redb"), &mut |_| {})
            .expect("rekeyed");
        filled.look(&filled.path(), &last).await;
        assert!(!filled.names().contains("store.redb.rekeying"), "{crash:?}");
    }
}

#[tokio::test]
async fn a_store_in_use_is_not_rekeyed_or_replaced() {
    let filled = Filled::new().await;
    let backup = filled.beside("backup.redb");
    filled.file().backup(&backup, &mut |_| {}).expect("copied");
    let store = open(&filled.path(), &filled.key).expect("opened");
    let opened = StoreFile::open(&filled.path(), &filled.key, CACHE);
    assert!(matches!(opened, Err(StoreError::Locked { .. })));
    let existing = Existing::KeepAs(filled.beside("kept.redb"));
    let restored = restore(&backup, &filled.path(), &filled.key, &existing);
    assert!(matches!(restored, Err(StoreError::Locked { .. })));
    drop(store);
    assert_eq!(filled.names().len(), 2);
}

#[tokio::test]
async fn a_backup_is_restored_and_what_stood_there_is_kept() {
    let filled = Filled::new().await;
    let (path, backup) = (filled.path(), filled.beside("backup.redb"));
    filled.file().backup(&backup, &mut |_| {}).expect("copied");
    let bytes = std::fs::read(&backup).expect("readable");
    let store = open(&path, &filled.key).expect("opened");
    let late = received(START + 100, "late", None);
    let change = Change::Receive(Box::new(late));
    store.commit(vec![change]).await.expect("committed");
    drop(store);
    let refused = restore(&backup, &path, &filled.key, &Existing::Refuse);
    assert!(matches!(refused, Err(StoreError::Exists { .. })));
    let kept = filled.beside("kept.redb");
    let existing = Existing::KeepAs(kept.clone());
    let restored = restore(&backup, &path, &filled.key, &existing).expect("restored");
    assert_eq!(restored.kept.as_deref(), Some(kept.as_path()));
    assert_eq!(
        (restored.stats.pending, restored.inspection.damaged),
        (5, 0)
    );
    let mode = std::fs::metadata(&path)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read(&backup).expect("there"), bytes, "untouched");
    let file = StoreFile::open(&kept, &filled.key, CACHE).expect("opened");
    assert_eq!(file.stats().expect("readable").pending, 6);
    drop(file);
    assert_eq!(filled.names().len(), 3);
    filled.look(&path, &filled.key).await;
}

#[tokio::test]
async fn a_restore_refuses_what_is_no_backup_and_replaces_what_is_no_store() {
    let filled = Filled::new().await;
    let (path, backup) = (filled.path(), filled.beside("backup.redb"));
    filled.file().backup(&backup, &mut |_| {}).expect("copied");
    let existing = || Existing::KeepAs(filled.beside("kept.redb"));
    let other = StoreKey::generate();
    let refused = restore(&backup, &path, &other, &existing());
    assert!(matches!(refused, Err(StoreError::WrongKey { path }) if path == backup));
    let nothing = filled.beside("nothing.redb");
    let refused = restore(&nothing, &path, &filled.key, &existing());
    assert!(matches!(refused, Err(StoreError::Missing { path }) if path == nothing));
    let text = filled.beside("text.redb");
    std::fs::write(&text, "no store").expect("written");
    let refused = restore(&text, &path, &filled.key, &existing());
    assert!(matches!(refused, Err(StoreError::DamagedFile { path, .. }) if path == text));
    assert_eq!(filled.names().len(), 3, "nothing is left beside");
    filled.look(&path, &filled.key).await;
    // A store that doesn't even open is what backups are for.
    std::fs::write(&path, vec![7; 50_000]).expect("written");
    restore(&backup, &path, &filled.key, &existing()).expect("restored");
    filled.look(&path, &filled.key).await;
}

#[tokio::test]
async fn what_the_api_gave_is_restored_and_what_is_being_written_is_not() {
    let filled = Filled::new().await;
    let (path, stream) = (filled.path(), filled.beside("stream.rows"));
    let store = open(&path, &filled.key).expect("opened");
    let mut rows = store.backup().await.expect("begun");
    let mut whole = Vec::new();
    while let Some(piece) = rows.next().await {
        whole.extend(piece.expect("whole"));
    }
    std::fs::write(&stream, &whole).expect("written");
    let elsewhere = filled.beside("elsewhere.redb");
    let refused = restore(&path, &elsewhere, &filled.key, &Existing::Refuse);
    assert!(matches!(refused, Err(StoreError::Locked { path: locked }) if locked == path));
    let restored = restore(&stream, &elsewhere, &filled.key, &Existing::Refuse);
    assert!(restored.expect("restored").inspection.is_clean());
    drop(store);
    filled.look(&elsewhere, &filled.key).await;
    let other = restore(
        &stream,
        &filled.beside("other.redb"),
        &StoreKey::generate(),
        &Existing::Refuse,
    );
    assert!(matches!(other, Err(StoreError::WrongKey { path }) if path == stream));
    // It needn't be a file that can be read twice.
    let pipe = filled.beside("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    let writer = std::thread::spawn({
        let (pipe, whole) = (pipe.clone(), whole.clone());
        move || std::fs::write(pipe, whole).expect("written")
    });
    let piped = filled.beside("piped.redb");
    let restored = restore(&pipe, &piped, &filled.key, &Existing::Refuse);
    assert!(restored.expect("restored").inspection.is_clean());
    writer.join().expect("written");
    for name in [&pipe, &piped] {
        std::fs::remove_file(name).expect("there");
    }
    std::fs::write(&stream, &whole[..whole.len() - 1]).expect("written");
    let cut = restore(
        &stream,
        &filled.beside("cut.redb"),
        &filled.key,
        &Existing::Refuse,
    );
    let Err(StoreError::Unavailable { reason }) = cut else {
        panic!("half a copy is none: {cut:?}");
    };
    assert!(
        reason.contains("stream.rows") && reason.contains("broke off"),
        "{reason}"
    );
    assert_eq!(filled.names().len(), 3, "nothing is left beside");
}

#[tokio::test]
async fn a_store_is_compacted_once_it_is_worth_it() {
    let fixture = Fixture::embedded();
    let body = "x".repeat(100_000);
    let memos = (0..600).map(|n| {
        let key = MemoKey::new("test", &[&n.to_string()]);
        remember(key, &body, START + 1)
    });
    let done = fixture.store.commit(memos.collect()).await;
    done.expect("committed");
    fixture.clock.advance_ms(10);
    let now = fixture.clock.now_ms();
    fixture.store.prune(now, 0).await.expect("pruned");
    let stats = fixture.store.stats().await.expect("readable");
    assert!(stats.worth_compacting, "{stats:?}");
    let Fixture {
        store, key, dir, ..
    } = fixture;
    drop(store);
    let path = dir.path().join("store.redb");
    let mut file = StoreFile::open(&path, &key, CACHE).expect("opened");
    let (before, after) = file.compact().expect("compacted");
    assert!(after * 4 < before, "from {before} to {after}");
    let stats = file.stats().expect("readable");
    assert_eq!((stats.file_bytes, stats.worth_compacting), (after, false));
    assert!(file.inspect().expect("readable").is_clean());
}
